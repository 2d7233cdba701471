"""Files <-> named arrays: one module for each format, one table of names, and never a pickle.

`read` opens a model in any format into `Weights`, mapped into memory; `write` writes it in any format, and
`write_folder` a Hugging Face folder from whatever gives arrays.
"""

from gpt2.checkpoint.checkpoint import Checkpoint
from gpt2.checkpoint.folder import fill_folder, write_folder
from gpt2.checkpoint.formats import FORMS_OF, read, write
from gpt2.checkpoint.forms import FORMS
from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.safetensors import LazyArray, read_metadata, read_safetensors, write_safetensors
from gpt2.checkpoint.weights import StoredArray, Weights

__all__ = [
    "FORMS",
    "FORMS_OF",
    "Checkpoint",
    "LazyArray",
    "StoredArray",
    "Weights",
    "fill_folder",
    "read",
    "read_metadata",
    "read_safetensors",
    "shapes",
    "write",
    "write_folder",
    "write_safetensors",
]
