"""ggml's block types, to and from float32.

A block is 32 neighbouring values of a row, or 256 in the K types, with their scales. Layouts and arithmetic are those
of ggml-common.h and ggml-quants.c (dequantize_row_*). Each decoder takes blocks as bytes, [n, bytes of a block], and
returns [n, values of a block].
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.forms import Floats
from gpt2.errors import MismatchError

BLOCK_VALUES = 32

_Q8_0 = np.dtype([("scale", "<f2"), ("codes", "i1", (32,))])
_Q4_0 = np.dtype([("scale", "<f2"), ("codes", "u1", (16,))])

# ggml-common.h, kvalues_iq4nl: the values of IQ4_NL's 16 codes.
_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)

Octets = NDArray[np.uint8]


def expand_blocks(blocks: Octets, kind: str) -> Floats:
    """The float32 values of blocks of one of the types of `DECODERS`."""
    with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scale, even NaN
        return DECODERS[kind](blocks)


def _halves(blocks: Octets, begin: int) -> Floats:
    """The float16 at a place of each block: [n, 1]."""
    return np.ascontiguousarray(blocks[:, begin : begin + 2]).view("<f2").astype(np.float32)


def _nibbles(octets: Octets) -> NDArray[Any]:
    """The lower halves of bytes, then their upper halves."""
    return np.concatenate([octets & 15, octets >> 4], axis=1)


def _fifth_bits(blocks: Octets, begin: int) -> NDArray[Any]:
    """32 bits of each block as 32 values of 0 or 16."""
    return np.unpackbits(blocks[:, begin : begin + 4], axis=1, bitorder="little") << 4


def _from_q8_0(blocks: Octets) -> Floats:
    return blocks[:, 2:].view(np.int8) * _halves(blocks, 0)


def _from_q4_0(blocks: Octets) -> Floats:
    return (_nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8)) * _halves(blocks, 0)


def _from_q4_1(blocks: Octets) -> Floats:
    return _nibbles(blocks[:, 4:]) * _halves(blocks, 0) + _halves(blocks, 2)


def _from_q5_0(blocks: Octets) -> Floats:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return (codes.astype(np.int8) - np.int8(16)) * _halves(blocks, 0)


def _from_q5_1(blocks: Octets) -> Floats:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    scaled: Floats = codes.astype(np.float32) * _halves(blocks, 0)
    return scaled + _halves(blocks, 2)


def _from_iq4_nl(blocks: Octets) -> Floats:
    return _IQ4_NL[_nibbles(blocks[:, 2:])] * _halves(blocks, 0)


def _twos(octets: Octets) -> NDArray[Any]:
    """The 256 codes of 2 bits in 64 bytes, in their order: [n, 16, 16]."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (octets.reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 16, 16)


def _from_q2_k(blocks: Octets) -> Floats:
    scales: Floats = _halves(blocks, 80) * (blocks[:, :16] & 15)
    offsets: Floats = _halves(blocks, 82) * (blocks[:, :16] >> 4)
    scaled: Floats = scales[..., None] * _twos(blocks[:, 16:80])
    return (scaled - offsets[..., None]).reshape(-1, 256)


def _from_q3_k(blocks: Octets) -> Floats:
    low = _nibbles(blocks[:, 96:104])
    high = (blocks[:, 104:108].reshape(-1, 1, 4) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(-1, 16)
    scales = _halves(blocks, 108) * ((low | high << 4).astype(np.int8) - np.int8(32))
    bits = (blocks[:, :32].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(-1, 16, 16)
    codes = (_twos(blocks[:, 32:96]) | bits << 2).astype(np.int8) - np.int8(4)
    return (scales[..., None] * codes).reshape(-1, 256)


def _six_bit_scales(octets: Octets) -> tuple[Floats, Floats]:
    """Eight scales and eight offsets of 6 bits each, out of 12 bytes: [n, 8, 1] both."""
    first, second, rest = octets[:, 0:4], octets[:, 4:8], octets[:, 8:12]
    scales = np.concatenate([first & 63, (rest & 15) | (first >> 6) << 4], axis=1)
    offsets = np.concatenate([second & 63, rest >> 4 | (second >> 6) << 4], axis=1)
    return scales.astype(np.float32)[..., None], offsets.astype(np.float32)[..., None]


def _affine(blocks: Octets, codes: NDArray[Any]) -> Floats:
    """Eight groups of 32 codes, scaled and shifted as Q4_K and Q5_K do."""
    scales, offsets = _six_bit_scales(blocks[:, 4:16])
    d, dmin = _halves(blocks, 0)[..., None], _halves(blocks, 2)[..., None]
    values: NDArray[Any] = d * scales * codes.astype(np.float32) - dmin * offsets
    return values.reshape(-1, 256)


def _from_q4_k(blocks: Octets) -> Floats:
    octets = blocks[:, 16:].reshape(-1, 4, 1, 32)
    return _affine(blocks, np.concatenate([octets & 15, octets >> 4], axis=2).reshape(-1, 8, 32))


def _from_q5_k(blocks: Octets) -> Floats:
    octets = blocks[:, 48:].reshape(-1, 4, 1, 32)
    codes = np.concatenate([octets & 15, octets >> 4], axis=2).reshape(-1, 8, 32)
    bits = blocks[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _affine(blocks, codes | bits << 4)


def _from_q6_k(blocks: Octets) -> Floats:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    codes = (low | high << 4).astype(np.int8) - np.int8(32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scale_of_16 = (_halves(blocks, 208) * scales)[..., None]
    return (scale_of_16 * codes.reshape(-1, 16, 16)).reshape(-1, 256)


DECODERS = {
    "Q8_0": _from_q8_0,
    "Q4_0": _from_q4_0,
    "Q4_1": _from_q4_1,
    "Q5_0": _from_q5_0,
    "Q5_1": _from_q5_1,
    "IQ4_NL": _from_iq4_nl,
    "Q2_K": _from_q2_k,
    "Q3_K": _from_q3_k,
    "Q4_K": _from_q4_k,
    "Q5_K": _from_q5_k,
    "Q6_K": _from_q6_k,
}


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
        steps = np.where(np.isfinite(inverse), rows * inverse, np.float32(0))  # 0 if scale is too small
    blocks = np.empty(len(rows), _Q8_0)
    blocks["scale"] = scale[:, 0]
    magnitudes = np.abs(steps)
    whole = np.floor(magnitudes)
    blocks["codes"] = np.copysign(whole + (magnitudes - whole >= 0.5), steps)
    return blocks.view(np.uint8)


def to_q4_0(values: Floats, name: str) -> NDArray[np.uint8]:
    """Round rows of float32 to Q4_0 as ggml does: the value of the largest magnitude becomes -8.

    Raises:
        MismatchError: a value is not finite, or too large for the scale.
    """
    rows = np.ascontiguousarray(values).reshape(-1, BLOCK_VALUES)
    extreme = np.take_along_axis(rows, np.abs(rows).argmax(axis=1, keepdims=True), axis=1)
    scale = extreme / np.float32(-8)
    if not np.isfinite(rows).all() or np.abs(scale).max() > np.finfo(np.float16).max:
        raise MismatchError(f"{name} cannot be stored as Q4_0: it holds values that are not finite, or beyond 5.2e5.")
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(scale != 0, np.float32(1) / scale, np.float32(0))
        steps = np.where(np.isfinite(inverse), rows * inverse, np.float32(0))  # as in Q8_0
    codes = np.minimum(np.trunc(steps + np.float32(8.5)), 15).astype(np.uint8)
    blocks = np.empty(len(rows), _Q4_0)
    blocks["scale"] = scale[:, 0]
    blocks["codes"] = codes[:, :16] | codes[:, 16:] << 4
    return blocks.view(np.uint8)


ENCODERS = {"Q8_0": to_q8_0, "Q4_0": to_q4_0}
