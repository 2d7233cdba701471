"""A run's weights to a model folder, its other arrays to a safetensors file, and back without loss."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2 import checkpoint
from gpt2.checkpoint.huggingface import PREFIX, WHOLE
from gpt2.checkpoint.names import ARRAYS_PER_BLOCK, huggingface_names
from gpt2.config import ModelConfig
from gpt2.errors import MismatchError
from gpt2.model.gpt import GPT, openai_name
from gpt2.tokenizer import Tokenizer
from gpt2.train.adapted import AdaptedGPT
from gpt2.train.parallel import put

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.uint8: "U8"}


def arrays_of(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """What a model has learned: all its weights, or its adapters. See `GPT.named_arrays`."""
    return model.adapter_arrays() if isinstance(model, AdaptedGPT) else model.named_arrays()


@torch.no_grad()
def put_arrays(model: GPT, arrays: Mapping[str, Tensor]) -> None:
    """Put back what `arrays_of` gave, also into sharded parameters.

    Raises:
        MismatchError: the arrays are not those of this model.
    """
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    is_adapted = isinstance(model, AdaptedGPT)
    for name, parameter in learned.items():
        array = arrays.get(name if is_adapted else openai_name(name))
        if array is not None and not is_adapted and parameter.ndim == 2 and openai_name(name).endswith(".w"):
            array = array.T  # files hold a matrix as [in, out]
        if array is None or array.shape != parameter.shape:
            seen = "nothing" if array is None else list(array.shape)
            raise MismatchError(f"The state is not this model's: {name} is {list(parameter.shape)}, and it has {seen}.")
        put(parameter, array)


def write(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Fill a folder with the files that every GPT-2 program loads: weights in float32, configuration, vocabulary.

    Args:
        folder: that exists.
        weights: of a model, by OpenAI's names, [in, out]; or of adapters.
        config: of the run, as a tree.
        tokenizer: its vocabulary.
    """
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    lora = config.get("lora", {})
    if not lora.get("rank"):
        checkpoint.fill_folder(folder, arrays, ModelConfig(**config["model"]), tokenizer)
        return
    tokenizer.save(folder)
    checkpoint.write_adapter(
        folder,
        arrays,
        base=config["start"]["model"],
        alpha=lora["alpha"],
        dropout=lora["dropout"],
        targets=tuple(lora["targets"]),
    )


def read(folder: Path) -> dict[str, Tensor]:
    """Read what `write` wrote, in float32 under the same names."""
    if (folder / "adapter_config.json").is_file():
        return {name: torch.tensor(array) for name, array in checkpoint.read_adapter(folder).arrays.items()}
    stored = checkpoint.read_safetensors(folder / WHOLE)  # not as a model: that may cut rows without an id
    n_layer = len(stored) // ARRAYS_PER_BLOCK
    theirs = huggingface_names(n_layer)
    return {name: torch.tensor(stored[PREFIX + theirs[name]].float32()) for name in theirs}


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write tensors of any device, one at a time."""
    checkpoint.write_safetensors(
        path, {name: checkpoint.StoredArray(data=a.cpu().numpy(), dtype=_TYPES[a.dtype]) for name, a in arrays.items()}
    )


def read_arrays(path: Path) -> dict[str, Tensor]:
    """What `write_arrays` wrote, on the CPU."""
    return {name: torch.tensor(array.data) for name, array in checkpoint.read_safetensors(path).items()}
