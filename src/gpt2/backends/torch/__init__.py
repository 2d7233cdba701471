"""The PyTorch backend: any device PyTorch knows, in fp32, bf16 or fp16."""

from gpt2.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
