"""A GGUF file's matrices rounded to Q4_0, llama.cpp's fastest form: what its engine is measured on.

Only how fast the file runs counts here, so the rounding is the plain one: the value of largest magnitude in a block of
32 becomes -8. The embedding, which is also the head, stays as it is; llama.cpp's own tool stores it in Q6_K.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.gguf_blocks import BLOCK_VALUES, DECODERS, expand_blocks
from gpt2.checkpoint.gguf_file import TYPES, Tensor, Unwritten, read_gguf, write_gguf

_BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", (BLOCK_VALUES // 2,))])
_EMBEDDINGS = ("token_embd.weight", "position_embd.weight")
_MOSTLY_Q4_0 = 2  # llama.h, enum llama_ftype


def write_q4_0(source: Path, target: Path) -> None:
    """Write `target` from a GGUF file whose matrices are in a block type, as Q8_0."""
    metadata, tensors = read_gguf(source)

    def stored(name: str, tensor: Tensor) -> Unwritten:
        narrow = tensor.type in DECODERS and len(tensor.shape) == 2 and name not in _EMBEDDINGS
        if not narrow:
            return Unwritten(tensor.type, tensor.shape, lambda: [tensor.data])
        return Unwritten("Q4_0", tensor.shape, partial(_rounded, tensor))

    with target.open("wb") as file:
        write_gguf(
            file,
            metadata | {"general.file_type": _MOSTLY_Q4_0},
            {name: stored(name, tensor) for name, tensor in tensors.items()},
        )


def _rounded(tensor: Tensor) -> Iterator[NDArray[Any]]:
    octets = tensor.data.reshape(-1, TYPES[tensor.type].block_bytes)
    for start in range(0, len(octets), 1 << 16):
        yield to_q4_0(expand_blocks(octets[start : start + (1 << 16)], tensor.type))


def to_q4_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of 32 float32 values as Q4_0 blocks: [n, 32] -> the bytes of [n, 18]."""
    widest = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    scale = widest / np.float32(-8)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.floor(values * inverse + np.float32(8.5)), 0, 15).astype(np.uint8)
    blocks = np.empty(len(values), _BLOCK)
    blocks["scale"] = scale[:, 0]
    half = BLOCK_VALUES // 2
    blocks["codes"] = codes[:, :half] | codes[:, half:] << 4
    return blocks.view(np.uint8)
