"""The definition of integer activations and products in plain NumPy, which the kernels implement.

Matrix products equal it exactly. Attention also has exponentials, which NumPy and each level round differently, and
their float sum: an output is within one step of a weight, 1.01 / (127 * 128) of the largest value's magnitude.

`checkpoint/int4.py` defines how weights become int4. Axes: I inputs and O outputs of a matrix, G groups of 32 inputs,
N rows of activations; D width of a head, S positions of a text, R the last of them. All floats are float32, and every
operation below rounds as written.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

GROUP_INPUTS = 32
_SMALLEST = np.float32(1e-30)  # a row below this counts as zeros, so that 127 / x stays finite


def quantise_rows(x_NI: Floats) -> tuple[Bytes, Floats]:
    """Activations as codes -127..127 and a scale per row: [N, I] -> [N, I], [N]."""
    largest_N = np.abs(x_NI).max(axis=1)
    inverse_N, scale_N = (
        _ratio(127, largest_N),
        np.where(largest_N > _SMALLEST, largest_N / np.float32(127), np.float32(0)),
    )
    return np.rint(x_NI * inverse_N[:, None]).astype(np.int8), scale_N.astype(np.float32)


def quantise_int8(w_IO: Floats) -> tuple[Bytes, Floats]:
    """A matrix as codes -127..127 and a scale per output: [I, O] -> [I, O], [O]."""
    codes_OI, scale_O = quantise_rows(np.ascontiguousarray(w_IO.T))
    return codes_OI.T, scale_O


def apply(
    x_NI: Floats, codes_IO: NDArray[np.integer], row_scale_O: Floats, group_scale_GO: NDArray[np.int32] | None = None
) -> Floats:
    """[N, I] -> [N, O]: integer products and sums, then one multiplication by both scales."""
    x_codes_NI, x_scale_N = quantise_rows(x_NI)
    w_IO = codes_IO.astype(np.int64)
    if group_scale_GO is not None:
        w_IO = w_IO * np.repeat(group_scale_GO, GROUP_INPUTS, axis=0)[: len(w_IO)]
    sums_NO = x_codes_NI.astype(np.int64) @ w_IO
    scale_NO = (row_scale_O * x_scale_N[:, None]).astype(np.float32)
    return sums_NO.astype(np.int32).astype(np.float32) * scale_NO


def attend(q_RD: Floats, k_SD: Floats, v_SD: Floats) -> Floats:
    """Attention of one head in the integer forms, for the last R of S positions: -> [R, D].

    Queries, keys and values are codes with a scale per position. The exponentials times the values' scales are
    quantised too, with a row's largest at 127 * 128: 14 bits and a sign.
    """
    (R, D), S = q_RD.shape, len(k_SD)
    q_codes_RD, q_scale_R = quantise_rows(q_RD)
    k_codes_SD, k_scale_S = quantise_rows(k_SD)
    v_codes_SD, v_scale_S = quantise_rows(v_SD)
    sums_RS = (q_codes_RD.astype(np.int64) @ k_codes_SD.astype(np.int64).T).astype(np.float32)
    score_RS = sums_RS * k_scale_S * (q_scale_R * np.float32(D**-0.5))[:, None]
    score_RS[np.arange(S) > np.arange(S - R, S)[:, None]] = -np.inf
    e_RS = np.exp(score_RS - score_RS.max(axis=1, keepdims=True))
    weight_RS = e_RS * v_scale_S
    largest_R1 = weight_RS.max(axis=1, keepdims=True)
    codes_RS = np.rint(weight_RS * _ratio(127 * 128, largest_R1)).astype(np.int64)
    mixed_RD = (codes_RS @ v_codes_SD.astype(np.int64)).astype(np.float32)
    return mixed_RD * (largest_R1 / np.float32(127 * 128) / e_RS.sum(axis=1, keepdims=True))


def _ratio(numerator: float, x: Floats) -> Floats:
    """numerator / x, or 0 if x is too small to divide by."""
    small = x <= _SMALLEST
    return np.where(small, np.float32(0), np.float32(numerator) / np.where(small, np.float32(1), x)).astype(np.float32)
