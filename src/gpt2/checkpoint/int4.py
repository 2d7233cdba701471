"""The int4 form: its definition in plain NumPy, and its layout in a file.

    weight = scale of its output * integer scale of its group, 1..127 * code, -8..7

Thirty-two inputs of an output are a group. Since the groups' scales are integers, a kernel sums a whole row exactly.
Files hold a matrix by outputs, whichever way it is multiplied: two codes a byte, the even input in the lower half, each
plus 8.

Axes: I inputs and O outputs of a matrix, G groups of 32 inputs. All floats are float32, and every operation of
`quantise_int4` is rounded as written: the engine packs the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint import weights
from gpt2.checkpoint.weights import StoredArray
from gpt2.errors import MismatchError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GROUP_INPUTS = 32
# The candidates for a group's scale put its largest weight at one of these codes. Beyond 7 the largest weights are
# clipped, which pays if the others gain more.
LARGEST_CODES = (6.5, 7.0, 7.4, 7.8, 8.2, 8.6, 9.1, 9.7)

_SMALLEST = np.float32(1e-30)  # below this a row counts as zeros: 127 / x must stay finite


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Int4Array(StoredArray):
    """A matrix in int4.

    Attributes:
        data: two codes a byte, uint8 [O, I / 2].
        scale: of each output, [O, 1].
        group_scale: of each group, uint8 [O, G].
        by_output: the matrix is [O, I], as the embedding is; otherwise [I, O].
    """

    scale: Floats  # pyright: ignore[reportGeneralTypeIssues]  # never None here
    group_scale: Bytes
    by_output: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix."""
        outputs, inputs = self.data.shape[0], 2 * self.data.shape[1]
        return (outputs, inputs) if self.by_output else (inputs, outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.data.nbytes + self.scale.nbytes + self.group_scale.nbytes

    def check_scales(self, name: str) -> None:
        """Refuse scales that do not fit the array called `name`.

        Raises:
            MismatchError: they do not fit the codes, or a group's scale is out of range.
        """
        outputs, groups = self.data.shape[0], -(-2 * self.data.shape[1] // GROUP_INPUTS)
        if self.scale.shape != (outputs, 1) or self.group_scale.shape != (outputs, groups):
            raise MismatchError(f"{name} is stored as int4 without a scale for each of its outputs and groups.")
        if self.group_scale.size and not 1 <= int(self.group_scale.min()) <= int(self.group_scale.max()) <= 127:
            raise MismatchError(f"{name} is stored as int4 with a group whose scale is not within 1 to 127.")

    def codes(self) -> NDArray[np.int8]:
        """-8..7, [O, I]."""
        codes_OI = np.empty((self.data.shape[0], 2 * self.data.shape[1]), np.int8)
        np.bitwise_and(self.data, 15, out=codes_OI[:, 0::2], casting="unsafe")
        np.right_shift(self.data, 4, out=codes_OI[:, 1::2], casting="unsafe")
        codes_OI -= 8
        return codes_OI

    def float32(self) -> Floats:
        """The values, a new array."""
        outputs, inputs = self.data.shape[0], 2 * self.data.shape[1]
        values_OI = np.empty((outputs, inputs), np.float32)
        at_once = _outputs_at_once(inputs)
        for begin in range(0, outputs, at_once):
            part = self._outputs(begin, begin + at_once)
            whole_OI = part.codes() * np.repeat(part.group_scale.astype(np.int16), GROUP_INPUTS, axis=1)[:, :inputs]
            with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scale, even NaN
                np.multiply(whole_OI, part.scale, out=values_OI[begin : begin + at_once], dtype=np.float32)
        return values_OI if self.by_output else np.ascontiguousarray(values_OI.T)

    def rows(self, begin: int, end: int) -> StoredArray:
        """The part from `begin` to `end` of the first axis."""
        return self._outputs(begin, end) if self.by_output else self._decoded().rows(begin, end)

    def transposed(self) -> StoredArray:
        """The matrix with its axes exchanged, without copying."""
        return Int4Array(
            data=self.data,
            dtype=self.dtype,
            scale=self.scale,
            group_scale=self.group_scale,
            by_output=not self.by_output,
        )

    def blocks(self) -> Iterator[StoredArray]:
        """The whole in pieces of a few megabytes."""
        if self.by_output:
            yield from StoredArray.blocks(self)
        else:
            yield from self._decoded().blocks()
            self.release()

    def release(self) -> None:
        """Let the system forget the mapped pages behind the codes."""
        StoredArray(data=self.data, dtype="U8").release()

    def _outputs(self, begin: int, end: int) -> "Int4Array":
        return Int4Array(
            data=self.data[begin:end],
            dtype=self.dtype,
            scale=self.scale[begin:end],
            group_scale=self.group_scale[begin:end],
            by_output=self.by_output,
        )

    def _decoded(self) -> StoredArray:
        return StoredArray(data=self.float32(), dtype="F32")


def to_int4(array: StoredArray, name: str, *, by_output: bool) -> Int4Array:
    """Round a matrix.

    Raises:
        MismatchError: a value is not finite, or the number of inputs is odd.
    """
    if isinstance(array, Int4Array):
        return array
    values = array.float32()
    w_OI = values if by_output else values.T
    outputs, inputs = w_OI.shape
    if inputs % 2:
        raise MismatchError(f"{name} cannot be stored as int4: it has {inputs:,} inputs, and two share a byte.")
    groups, at_once = -(-inputs // GROUP_INPUTS), _outputs_at_once(inputs)
    data, scale = np.empty((outputs, inputs // 2), np.uint8), np.empty((outputs, 1), np.float32)
    group_scale = np.empty((outputs, groups), np.uint8)
    for begin in range(0, outputs, at_once):
        part = slice(begin, begin + at_once)
        if not np.isfinite(w_OI[part]).all():
            raise MismatchError(f"{name} cannot be stored as int4: it holds values that are not finite.")
        codes_IO, group_scale_GO, row_scale_O = quantise_int4(np.ascontiguousarray(w_OI[part].T))
        shifted_OI = (codes_IO.T + 8).astype(np.uint8)
        data[part] = shifted_OI[:, 0::2] | shifted_OI[:, 1::2] << 4
        scale[part, 0], group_scale[part] = row_scale_O, group_scale_GO.T
    return Int4Array(data=data, dtype="I4", scale=scale, group_scale=group_scale, by_output=by_output)


def int4_scale(array: StoredArray, name: str, *, by_output: bool) -> Floats:
    """The scales of a matrix's outputs, [O, 1], as `to_int4` computes them, without the rest of its work.

    Raises:
        MismatchError: a value is not finite.
    """
    if isinstance(array, Int4Array):
        return array.scale
    axis = 1 if by_output else 0
    parts = [np.abs(block.float32()).max(axis=axis) for block in array.blocks()]
    largest_O = np.concatenate(parts) if by_output else np.max(parts, axis=0)
    if not np.isfinite(largest_O).all():
        raise MismatchError(f"{name} cannot be stored as int4: it holds values that are not finite.")
    return _row_scale(largest_O)[:, None]


def _row_scale(largest_O: Floats) -> Floats:
    """An output's scale: puts its largest weight at the smallest of `LARGEST_CODES` in a group of scale 127."""
    scale_O = largest_O / np.float32(LARGEST_CODES[0]) / np.float32(127)
    return np.where(largest_O > _SMALLEST, scale_O, np.float32(0)).astype(np.float32)


def quantise_int4(w_IO: Floats) -> tuple[NDArray[np.int8], NDArray[np.int32], Floats]:
    """A matrix as codes, group scales and output scales: [I, O] -> [I, O], [G, O], [O].

    For the computation, inputs are padded with zeros to whole groups.
    """
    inputs, outputs = w_IO.shape
    groups = -(-inputs // GROUP_INPUTS)
    w_GKO = np.zeros((groups * GROUP_INPUTS, outputs), np.float32)
    w_GKO[:inputs] = w_IO
    w_GKO = w_GKO.reshape(groups, GROUP_INPUTS, outputs)

    largest_GO = np.abs(w_GKO).max(axis=1)
    row_scale_O = _row_scale(largest_GO.max(axis=0))
    in_steps_GO = largest_GO * _inverse(row_scale_O)

    best_GO, best_inverse_GO = np.ones_like(largest_GO), np.zeros_like(largest_GO)
    least_GO = np.full_like(largest_GO, np.finfo(np.float32).max)
    for code in LARGEST_CODES:
        scale_GO = np.clip(np.rint(in_steps_GO / np.float32(code)), np.float32(1), np.float32(127))
        step_GO = scale_GO * row_scale_O
        inverse_GO = _inverse(step_GO)
        error_GO = np.zeros_like(largest_GO)
        for k in range(GROUP_INPUTS):  # in this order, to equal the engine's sum to the bit
            miss_GO = w_GKO[:, k] - _codes(w_GKO[:, k], inverse_GO) * step_GO
            error_GO += miss_GO * miss_GO
        better_GO = error_GO < least_GO
        best_GO = np.where(better_GO, scale_GO, best_GO)
        best_inverse_GO = np.where(better_GO, inverse_GO, best_inverse_GO)
        least_GO = np.minimum(error_GO, least_GO)
    codes_GKO = _codes(w_GKO, best_inverse_GO[:, None])
    return codes_GKO.reshape(-1, outputs)[:inputs].astype(np.int8), best_GO.astype(np.int32), row_scale_O


def _outputs_at_once(inputs: int) -> int:
    """The number of outputs that takes about a block's memory to round."""
    return max(1, weights.BLOCK_VALUES // (8 * inputs))


def _codes(w: Floats, inverse: Floats) -> Floats:
    return np.clip(np.rint(w * inverse), np.float32(-8), np.float32(7))


def _inverse(x: Floats) -> Floats:
    """1 / x, or 0 if x is too small to divide by."""
    small = x <= _SMALLEST
    inverse: Any = np.where(small, np.float32(0), np.float32(1) / np.where(small, np.float32(1), x))
    return inverse.astype(np.float32)
