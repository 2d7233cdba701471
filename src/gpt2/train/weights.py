"""A run's weights as a model folder, and back: exact in both directions."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2 import files
from gpt2.model.gpt import GPT

_PREFIX = "transformer."


def write(folder: Path, model: GPT) -> None:
    """Write `model.safetensors` and `config.json`."""
    arrays = {
        f"{_PREFIX}{name}": (p.detach().T if _is_matrix(name) else p.detach()) for name, p in model.named_parameters()
    }
    save_file(
        {name: a.cpu().contiguous() for name, a in arrays.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    c = model.config
    files.write_json(
        folder / "config.json",
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_layer": c.n_layer,
            "n_head": c.n_head,
            "n_embd": c.n_embd,
            "n_inner": c.n_inner,
            "n_positions": c.n_positions,
            "n_ctx": c.n_positions,
            "vocab_size": c.vocab_size,
            "layer_norm_epsilon": c.layer_norm_epsilon,
            "bos_token_id": c.vocab_size - 1,
            "eos_token_id": c.vocab_size - 1,
        },
    )


def read(folder: Path) -> dict[str, Tensor]:
    """What `write` wrote, by the names of the model's parameters."""
    arrays = load_file(folder / "model.safetensors")
    named = {name.removeprefix(_PREFIX): array for name, array in arrays.items()}
    return {name: array.T if _is_matrix(name) else array for name, array in named.items()}


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and ".c_" in name
