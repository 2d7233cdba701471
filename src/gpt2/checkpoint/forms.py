"""The forms in which weights are stored, and rounding into them.

`fp32`, `fp16` and `bf16` are one number type for every array. `int8` keeps vectors in fp32 and stores a matrix
as integers from -127 to 127 with one fp32 scale for every output: for each row of the embeddings `wte` and
`wpe` (a row of `wte` is an output of the tied head), for each column of an [in, out] matrix. `int4` is `int8` with the
matrices of the blocks and `wte` in the form of `int4.py`.

NumPy has no bfloat16, so its values are held as uint16, the upper half of a float32.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.errors import MismatchError

Floats = NDArray[np.float32]

FORMS = ("fp32", "fp16", "bf16", "int8", "int4")
COMPACT = ("int8", "int4")  # our own, which only this package reads
DTYPE_OF_FORM = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8", "int4": "I4"}
FORM_OF_DTYPE = {dtype: form for form, dtype in DTYPE_OF_FORM.items()} | {"F64": "fp32"}  # rounded when it is used

# NumPy's type for each of safetensors' types.
NUMPY_TYPE = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}

EMBEDDINGS = ("wte", "wpe")
_INT8_LARGEST = 127


def dtype_in_form(form: str, name: str, shape: tuple[int, ...]) -> str:
    """The stored dtype of an array in this form: the compact ones leave vectors in fp32, and int4 `wpe` in int8."""
    if form in COMPACT and len(shape) == 1:
        return "F32"
    return "I8" if form == "int4" and name == "wpe" else DTYPE_OF_FORM[form]


def decode(data: NDArray[Any], dtype: str, scale: Floats | None = None) -> Floats:
    """The float32 values of stored data; `data` itself if it holds them already.

    Raises:
        MismatchError: a finite float64 lies beyond the largest float32.
    """
    match dtype:
        case "F32":
            return data
        case "F16":
            return data.astype(np.float32)
        case "F64":
            with np.errstate(over="ignore"):
                rounded = data.astype(np.float32)
            if np.any(np.isinf(rounded) & np.isfinite(data)):
                largest = np.abs(data[np.isfinite(data)]).max()
                raise MismatchError(
                    f"The weights cannot be rounded to float32: they hold {largest:.4g} in float64, and float32 ends "
                    f"at {np.finfo(np.float32).max:.4g}."
                )
            return rounded
        case "BF16":
            return (data.astype(np.uint32) << 16).view(np.float32)
        case "I8":
            assert scale is not None
            with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scale, even NaN
                return data.astype(np.float32) * scale
        case _:
            raise AssertionError(f"{dtype} is no form of weights")


def encode(values: Floats, dtype: str, name: str) -> NDArray[Any]:
    """Round float32 values to F32, F16 or BF16: to the nearest, halves to even.

    Raises:
        MismatchError: a finite value lies beyond the largest fp16.
    """
    match dtype:
        case "F32":
            return values
        case "F16":
            with np.errstate(over="ignore"):
                halves = values.astype(np.float16)
            if np.any(np.isinf(halves) & np.isfinite(values)):
                raise MismatchError(
                    f"{name} cannot be stored as fp16: it holds {np.abs(values).max():.4g}, and fp16 ends at 65504. "
                    f"Choose bf16 or fp32."
                )
            return halves
        case "BF16":
            bits = np.ascontiguousarray(values).view(np.uint32)
            rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
            quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)  # keeps NaN: rounding could carry it to infinity
            return np.where(np.isnan(values), quiet_nan, rounded)
        case _:
            raise AssertionError(f"{dtype} is not a type to round to")


def int8_scale(blocks: Iterable[Floats], name: str) -> Floats:
    """The int8 scales of a matrix given in blocks of rows: its largest magnitude per output, / 127.

    Returns:
        [rows, 1] for `wte` and `wpe`, [1, columns] for the matrices of a block, so that
        `values = int8 * scale`. An output that is all zeros (or too small for fp32 to divide) has scale 1.

    Raises:
        MismatchError: a value is infinite or NaN.
    """
    if name in EMBEDDINGS:
        largest = np.concatenate([np.abs(block).max(axis=1, keepdims=True) for block in blocks])
    else:
        largest = np.max([np.abs(block).max(axis=0, keepdims=True) for block in blocks], axis=0)
    if not np.isfinite(largest).all():
        raise MismatchError(f"{name} cannot be stored as int8: it holds values that are not finite.")
    scale = largest / np.float32(_INT8_LARGEST)
    return np.where(scale > 0, scale, np.float32(1))


def int8_scale_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of a matrix's int8 scales: one for each row of an embedding, for each column of another matrix."""
    return (shape[0], 1) if name in EMBEDDINGS else (1, shape[1])


def int8_round(block: Floats, scale: Floats) -> NDArray[np.int8]:
    """Divide by the scale and round to the nearest integer, halves to even."""
    return np.clip(np.rint(block / scale), -_INT8_LARGEST, _INT8_LARGEST).astype(np.int8)
