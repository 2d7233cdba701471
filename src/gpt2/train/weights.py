"""A run's weights as a model folder, its other arrays as a safetensors file, and back: exact in both directions."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gpt2 import checkpoint
from gpt2.config import ModelConfig
from gpt2.tokenizer import Tokenizer

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.uint8: "U8"}


def write(folder: Path, weights: Mapping[str, Tensor], config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Fill a folder with the files that every GPT-2 program loads: weights in float32, configuration, vocabulary.

    Args:
        folder: there already.
        weights: by OpenAI's names, [in, out].
        config: the model's shape.
        tokenizer: its vocabulary.
    """
    checkpoint.fill_folder(folder, {name: tensor.numpy() for name, tensor in weights.items()}, config, tokenizer)


def read(folder: Path) -> dict[str, Tensor]:
    """What `write` wrote, for `GPT.load_arrays`: float32 by OpenAI's names."""
    weights = checkpoint.read(folder).weights
    return {name: torch.tensor(weights.float32(name)) for name in weights.names}


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write tensors of any device, one at a time."""
    checkpoint.write_safetensors(
        path, {name: checkpoint.StoredArray(data=a.cpu().numpy(), dtype=_TYPES[a.dtype]) for name, a in arrays.items()}
    )


def read_arrays(path: Path) -> dict[str, Tensor]:
    """What `write_arrays` wrote, on the CPU."""
    return {name: torch.tensor(array.data) for name, array in checkpoint.read_safetensors(path).items()}
