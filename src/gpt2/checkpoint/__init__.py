"""Files <-> named arrays: one module for each format, one table of names, and nothing is ever unpickled.

`read` opens a model in any format as memory-mapped `Weights`; `write` writes it in any format, and `write_folder`
writes a Hugging Face folder from any source of arrays. The names below are imported on first use: opening a model needs
none of the writers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2.checkpoint.checkpoint import Checkpoint
    from gpt2.checkpoint.folder import fill_folder, write_folder
    from gpt2.checkpoint.forms import COMPACT, FORMS
    from gpt2.checkpoint.identity import fingerprint as fingerprint
    from gpt2.checkpoint.lora import Adapter, map_names, read_adapter, write_adapter
    from gpt2.checkpoint.names import shapes
    from gpt2.checkpoint.reading import read
    from gpt2.checkpoint.safetensors import LazyArray, read_metadata, read_safetensors, write_safetensors
    from gpt2.checkpoint.weights import StoredArray, Weights
    from gpt2.checkpoint.writing import FORMS_OF, write

__all__ = [
    "COMPACT",
    "FORMS",
    "FORMS_OF",
    "Adapter",
    "Checkpoint",
    "LazyArray",
    "StoredArray",
    "Weights",
    "fill_folder",
    "fingerprint",
    "map_names",
    "read",
    "read_adapter",
    "read_metadata",
    "read_safetensors",
    "shapes",
    "write",
    "write_adapter",
    "write_folder",
    "write_safetensors",
]

_HOMES = {
    "COMPACT": "forms",
    "FORMS": "forms",
    "FORMS_OF": "writing",
    "Adapter": "lora",
    "Checkpoint": "checkpoint",
    "LazyArray": "safetensors",
    "StoredArray": "weights",
    "Weights": "weights",
    "fill_folder": "folder",
    "fingerprint": "identity",
    "map_names": "lora",
    "read": "reading",
    "read_adapter": "lora",
    "read_metadata": "safetensors",
    "read_safetensors": "safetensors",
    "shapes": "names",
    "write": "writing",
    "write_adapter": "lora",
    "write_folder": "folder",
    "write_safetensors": "safetensors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
