"""ggml's small block types, to and from float32.

A block is 32 neighbouring values of a row and one float16 scale: Q8_0 has 32 int8 after it, Q4_0 has 16 bytes, whose
lower halves are the first 16 values plus 8 and whose upper halves the others (ggml's ggml-quants.c).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.forms import Floats
from gpt2.errors import MismatchError

BLOCK_VALUES = 32

_Q8_0 = np.dtype([("scale", "<f2"), ("codes", "i1", (32,))])
_Q4_0 = np.dtype([("scale", "<f2"), ("codes", "u1", (16,))])


def from_q8_0(data: NDArray[np.uint8], values: Floats) -> None:
    """Expand the bytes of blocks into `values`, which has 32 for each."""
    blocks: NDArray[Any] = data.view(_Q8_0)
    with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scale, even one that is no number
        np.multiply(blocks["codes"], blocks["scale"].astype(np.float32)[:, None], out=values.reshape(-1, BLOCK_VALUES))


def from_q4_0(data: NDArray[np.uint8], values: Floats) -> None:
    """Expand the bytes of blocks into `values`, which has 32 for each."""
    blocks: NDArray[Any] = data.view(_Q4_0)
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1).astype(np.int8) - np.int8(8)
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(codes, blocks["scale"].astype(np.float32)[:, None], out=values.reshape(-1, BLOCK_VALUES))


def to_q8_0(values: Floats, name: str) -> NDArray[np.uint8]:
    """Round rows of float32 to Q8_0, halves away from zero, as ggml does.

    Raises:
        MismatchError: a value is not finite, or too large for the scale.
    """
    rows = np.ascontiguousarray(values).reshape(-1, BLOCK_VALUES)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scale = largest / np.float32(127)
    if not np.isfinite(largest).all() or scale.max() > np.finfo(np.float16).max:
        raise MismatchError(f"{name} cannot be stored as Q8_0: it holds values that are not finite, or beyond 8.3e6.")
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
        steps = np.where(np.isfinite(inverse), rows * inverse, np.float32(0))  # a scale too small to divide by is 0
    blocks = np.empty(len(rows), _Q8_0)
    blocks["scale"] = scale[:, 0]
    magnitudes = np.abs(steps)
    whole = np.floor(magnitudes)
    blocks["codes"] = np.copysign(whole + (magnitudes - whole >= 0.5), steps)
    return blocks.view(np.uint8)
