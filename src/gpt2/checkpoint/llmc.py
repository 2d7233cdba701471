"""llm.c's model files: a header of 256 int32, then every kind of array for all blocks in turn.

Version 3 holds float32, version 5 bfloat16 (karpathy/llm.c, train_gpt2.py, write_model). Matrices are [out, in], so
they are read as transposed views; the vocabulary is padded with zero rows to a multiple of 128. The file has no
vocabulary, so we write the vocabulary's files beside it.
"""

import mmap
import os
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.checkpoint import Checkpoint, described_config
from gpt2.checkpoint.folder_files import inside
from gpt2.checkpoint.forms import DTYPE_OF_FORM, NUMPY_TYPE
from gpt2.checkpoint.names import BLOCK_NAMES, shapes
from gpt2.checkpoint.unfinished import Journal, array_file
from gpt2.checkpoint.weights import StoredArray, Weights, check_plain
from gpt2.config import ModelConfig
from gpt2.errors import FormatError

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

NAME = "llmc"
FILE = "model.bin"
FORMS = ("fp32", "bf16")

_MAGIC = 20240326
_VERSION_OF_DTYPE = {"F32": 3, "BF16": 5}
_HEADER_VALUES = 256
_HEADER_BYTES = 4 * _HEADER_VALUES
_PADDING_MULTIPLE = 128
_LAYERS_LIMIT = 4096  # else a small file of many narrow layers fills the memory with the names of its arrays


def matches(path: Path) -> bool:
    """Whether `path` is such a file, or a folder whose `model.bin` is one."""
    file = path / FILE if path.is_dir() else path
    if file.suffix != ".bin" or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == _MAGIC.to_bytes(4, "little")


def read(path: Path) -> Checkpoint:
    """Open a file, or the one in a folder.

    Raises:
        FormatError: it is damaged, truncated or of another version.
        OSError: it cannot be opened.
    """
    file_path = inside(path, FILE) if path.is_dir() else path
    with file_path.open("rb") as file:
        config, padded_vocab_size, dtype = _read_header(file.read(_HEADER_BYTES), file_path)
        item_bytes = np.dtype(NUMPY_TYPE[dtype]).itemsize
        padding = (padded_vocab_size - config.vocab_size) * config.n_embd
        wanted_bytes = _HEADER_BYTES + item_bytes * (config.parameters + padding)
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes != wanted_bytes:
            raise FormatError(
                f"{file_path} is truncated or damaged: its header describes {wanted_bytes:,} bytes and it has "
                f"{file_bytes:,}. Copy or download it again."
            )
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays: dict[str, StoredArray] = {}
    position = _HEADER_BYTES
    for name, shape in _in_file_order(config):
        count = prod(shape)
        data: NDArray[Any] = np.frombuffer(mapping, NUMPY_TYPE[dtype], count, position)
        data = data.reshape(shape[::-1]).T if name.endswith(".w") else data.reshape(shape)
        arrays[name] = StoredArray(data=data, dtype=dtype)
        position += item_bytes * (count + (padding if name == "wte" else 0))
    notes = ["matrices transposed from [out, in] to [in, out]"]
    if padding:
        notes.append(f"vocabulary cut from {padded_vocab_size:,} rows to the {config.vocab_size:,} that are tokens")
    return Checkpoint(weights=Weights(config, arrays), path=path, format=NAME, notes=tuple(notes))


def _read_header(data: bytes, path: Path) -> tuple[ModelConfig, int, str]:
    if len(data) < _HEADER_BYTES:
        raise FormatError(f"{path} is not a whole llm.c model: it ends within its header of {_HEADER_BYTES:,} bytes.")
    magic, version, *sizes = np.frombuffer(data, "<i4")[:8].tolist()
    dtype = next((dtype for dtype, number in _VERSION_OF_DTYPE.items() if number == version), None)
    if magic != _MAGIC or dtype is None:
        raise FormatError(
            f"{path} cannot be read: it is version {version} of llm.c's model files; known are 3 (fp32) and 5 (bf16)."
        )
    n_positions, vocab_size, n_layer, n_head, n_embd, padded_vocab_size = sizes
    config = described_config(
        path, n_layer=n_layer, n_head=n_head, n_embd=n_embd, n_positions=n_positions, vocab_size=vocab_size
    )
    if n_layer > _LAYERS_LIMIT:
        raise FormatError(f"{path} cannot be read: it has {n_layer:,} layers; at most {_LAYERS_LIMIT:,} are read.")
    if padded_vocab_size < vocab_size:
        raise FormatError(f"{path}: {padded_vocab_size:,} rows are fewer than the {vocab_size:,} tokens.")
    return config, padded_vocab_size, dtype


def _in_file_order(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in file order: each kind of array, for every block."""
    shape_of = shapes(config)
    names = [
        "wte",
        "wpe",
        *(f"h.{i}.{kind}" for kind in BLOCK_NAMES for i in range(config.n_layer)),
        "ln_f.g",
        "ln_f.b",
    ]
    return ((name, shape_of[name]) for name in names)


def fill(
    folder: Path, weights: Weights, tokenizer: "Tokenizer | None", *, form: str, journal: Journal | None = None
) -> None:
    """Write `model.bin` and, given a tokenizer, the vocabulary files beside it, into an existing folder.

    Raises:
        MismatchError: the model has a setting for which the header has no place.
        OSError: the disk is full or the folder cannot be written.
    """
    config, dtype = weights.config, DTYPE_OF_FORM[form]
    check_plain(config, "llm.c")
    padded_vocab_size = -(-config.vocab_size // _PADDING_MULTIPLE) * _PADDING_MULTIPLE
    header = np.zeros(_HEADER_VALUES, "<i4")
    header[:8] = (
        _MAGIC,
        _VERSION_OF_DTYPE[dtype],
        config.n_positions,
        config.vocab_size,
        config.n_layer,
        config.n_head,
        config.n_embd,
        padded_vocab_size,
    )
    if tokenizer is not None:
        tokenizer.save(folder)
    item_bytes = np.dtype(NUMPY_TYPE[dtype]).itemsize
    with array_file(folder / FILE, journal) as out:
        out.file.write(header.tobytes())
        for name, shape in _in_file_order(config):
            rows = (padded_vocab_size, config.n_embd) if name == "wte" else shape
            out.append(name, item_bytes * prod(rows), partial(_pieces, weights, name, dtype, prod(rows) - prod(shape)))


def _pieces(weights: Weights, name: str, dtype: str, padding: int) -> Iterator[NDArray[Any]]:
    """The values of an array in the file's form, then zeros as padding."""
    array = weights.stored(name)
    for values in (array.transposed() if name.endswith(".w") else array).rounded(dtype, name):
        yield np.ascontiguousarray(values, NUMPY_TYPE[dtype])
    yield np.zeros(padding, NUMPY_TYPE[dtype])
