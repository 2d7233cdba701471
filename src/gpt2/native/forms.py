"""What the integer weight forms mean, in plain NumPy: the definition that the kernels equal exactly.

Axes: I inputs and O outputs of a matrix, G groups of 32 inputs, N rows of activations. All floats are float32,
and every operation below is rounded as it stands.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

GROUP_INPUTS = 32
# A group's scale is chosen among those that would put its largest weight at one of these codes. Beyond 7 the
# largest weights are clipped, which pays when the others gain more.
LARGEST_CODES = (6.5, 7.0, 7.4, 7.8, 8.2, 8.6, 9.1, 9.7)

_SMALLEST = np.float32(1e-30)  # below this a row counts as zeros: 127 / x must stay finite


def quantise_rows(x_NI: Floats) -> tuple[Bytes, Floats]:
    """Activations as codes of -127..127 and a scale for each row: [N, I] -> [N, I], [N]."""
    largest_N = np.abs(x_NI).max(axis=1)
    inverse_N, scale_N = (
        _ratio(127, largest_N),
        np.where(largest_N > _SMALLEST, largest_N / np.float32(127), np.float32(0)),
    )
    return np.rint(x_NI * inverse_N[:, None]).astype(np.int8), scale_N.astype(np.float32)


def quantise_int8(w_IO: Floats) -> tuple[Bytes, Floats]:
    """A matrix as codes of -127..127 and a scale for each output: [I, O] -> [I, O], [O]."""
    codes_OI, scale_O = quantise_rows(np.ascontiguousarray(w_IO.T))
    return codes_OI.T, scale_O


def quantise_int4(w_IO: Floats) -> tuple[Bytes, NDArray[np.int32], Floats]:
    """A matrix as codes of -8..7, whole group scales of 1..127, and a scale for each output.

    Weight = row scale * group scale * code. [I, O] -> [I, O], [G, O], [O]; inputs are padded with zeros to whole
    groups in the computation, and the padding is cut off again.
    """
    inputs, outputs = w_IO.shape
    groups = -(-inputs // GROUP_INPUTS)
    w_GKO = np.zeros((groups * GROUP_INPUTS, outputs), np.float32)
    w_GKO[:inputs] = w_IO
    w_GKO = w_GKO.reshape(groups, GROUP_INPUTS, outputs)

    largest_GO = np.abs(w_GKO).max(axis=1)
    row_scale_O = largest_GO.max(axis=0) / np.float32(LARGEST_CODES[0]) / np.float32(127)
    row_scale_O = np.where(largest_GO.max(axis=0) > _SMALLEST, row_scale_O, np.float32(0)).astype(np.float32)
    in_steps_GO = largest_GO * _ratio(1, row_scale_O)

    best_GO, best_inverse_GO = np.ones_like(largest_GO), np.zeros_like(largest_GO)
    least_GO = np.full_like(largest_GO, np.finfo(np.float32).max)
    for code in LARGEST_CODES:
        scale_GO = np.clip(np.rint(in_steps_GO / np.float32(code)), np.float32(1), np.float32(127))
        step_GO = scale_GO * row_scale_O
        inverse_GO = _ratio(1, step_GO)
        error_GO = np.zeros_like(largest_GO)
        for k in range(GROUP_INPUTS):  # in order: the sum is the kernels' to the bit
            miss_GO = w_GKO[:, k] - _codes(w_GKO[:, k], inverse_GO) * step_GO
            error_GO += miss_GO * miss_GO
        better_GO = error_GO < least_GO
        best_GO = np.where(better_GO, scale_GO, best_GO)
        best_inverse_GO = np.where(better_GO, inverse_GO, best_inverse_GO)
        least_GO = np.minimum(error_GO, least_GO)
    codes_GKO = _codes(w_GKO, best_inverse_GO[:, None])
    return codes_GKO.reshape(-1, outputs)[:inputs].astype(np.int8), best_GO.astype(np.int32), row_scale_O


def apply(
    x_NI: Floats, codes_IO: NDArray[np.integer], row_scale_O: Floats, group_scale_GO: NDArray[np.int32] | None = None
) -> Floats:
    """[N, I] -> [N, O]: whole products and sums, then one multiplication by both scales."""
    x_codes_NI, x_scale_N = quantise_rows(x_NI)
    w_IO = codes_IO.astype(np.int64)
    if group_scale_GO is not None:
        w_IO = w_IO * np.repeat(group_scale_GO, GROUP_INPUTS, axis=0)[: len(w_IO)]
    sums_NO = x_codes_NI.astype(np.int64) @ w_IO
    scale_NO = (row_scale_O * x_scale_N[:, None]).astype(np.float32)
    return sums_NO.astype(np.int32).astype(np.float32) * scale_NO


def _codes(w: Floats, inverse: Floats) -> Floats:
    return np.clip(np.rint(w * inverse), np.float32(-8), np.float32(7))


def _ratio(numerator: float, x: Floats) -> Floats:
    """numerator / x, and 0 where x is too small to divide by."""
    small = x <= _SMALLEST
    return np.where(small, np.float32(0), np.float32(numerator) / np.where(small, np.float32(1), x)).astype(np.float32)
