"""What a run will be, said before it starts: parameters, tokens, memory, device, dtype and threads, with the reasons."""

import time
from dataclasses import dataclass

import torch

from gpt2 import machine
from gpt2.config import ModelConfig
from gpt2.train.config import TrainConfig
from gpt2.train.precision import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The facts of a run before its first step.

    Attributes:
        parameters: trained.
        tokens: of the whole run.
        steps: of the whole run.
        memory_bytes: estimated, at the most.
        device: and what is computed there.
        threads: on a CPU.
        resumed_step: where the run goes on; 0 for a new one.
    """

    parameters: int
    tokens: int
    steps: int
    memory_bytes: int
    device: str
    threads: int
    resumed_step: int

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.parameters:,} parameters, {self.tokens:,} tokens in {self.steps:,} steps",
            f"{self.device}, {self.threads} threads, about {self.memory_bytes / 1e9:.1f} GB of memory",
            f"going on from step {self.resumed_step:,}" if self.resumed_step else "a new run",
        ]


def parameter_count(model: ModelConfig) -> int:
    """Parameters of a GPT-2, the tied head counted once."""
    D, F = model.n_embd, model.n_inner
    block = (3 * D * D + 3 * D) + (D * D + D) + (D * F + F) + (F * D + D) + 4 * D
    return (model.vocab_size + model.n_positions) * D + model.n_layer * block + 2 * D


def flops_per_token(model: ModelConfig, *, seq_tokens: int, rows: int) -> float:
    """Operations of forward and backward a token: six for each weight of a matrix product, and attention's.

    Attention is counted whole, as is the custom, though half of it is masked (Chowdhery et al. 2022, appendix B).

    Args:
        model: its shape.
        seq_tokens: the context of the batch.
        rows: of the head, that the loss runs over.
    """
    D, F = model.n_embd, model.n_inner
    weights = model.n_layer * (4 * D * D + 2 * D * F) + rows * D
    return 6.0 * weights + 12.0 * model.n_layer * D * seq_tokens


def memory_estimate_bytes(config: TrainConfig, micro_tokens: int) -> int:
    """Weights, gradient, optimizer, and what a micro-batch keeps for its backward pass, in float32."""
    model = config.model
    n_parameters = parameter_count(model)
    kept_a_token = model.n_layer * (10 * model.n_embd + 3 * model.n_inner)
    rows = config.loss.rows or model.vocab_size
    logits = min(config.loss.chunk_tokens, micro_tokens) * model.vocab_size * 2
    head = 3 * rows * model.n_embd
    return 4 * (4 * n_parameters + micro_tokens * kept_a_token + logits + head) + 400_000_000


def measured_peak_flops(precision: Precision) -> float | None:
    """Operations a second at best: from the table for a GPU, measured with one large product on a CPU, else None."""
    if precision.device.type == "cuda":
        return machine.device_peaks(torch.cuda.get_device_name(precision.device))
    if precision.device.type != "cpu":
        return None
    n = 1024
    a = torch.ones(n, n, dtype=precision.dtype)
    a @ a
    best = min(_timed_product(a) for _ in range(5))
    return 2.0 * n**3 / best


def _timed_product(a: torch.Tensor) -> float:
    began = time.perf_counter()
    a @ a
    return time.perf_counter() - began
