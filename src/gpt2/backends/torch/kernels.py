"""A layer of GPT-2 for one token of each of many texts, as five Triton kernels; what runs on an NVIDIA GPU.

    x [M, D], residual stream, fp32
     │
     ├─> linear: norm, times c_attn ──> q, k, v ──> attend: k, v into the cache, softmax of its scores, mix
     │                                                                                           │
     x <────────────── linear: times c_proj, added to x <────────────────────────────────────────┘
     │
     ├─> linear: norm, times c_fc, GELU ──> linear: times c_proj, added to x ──> x

Products are made in the form of the weights and summed in fp32; what PyTorch would round to that form between two
operations is rounded here as well.

Axes: M texts, D embedding, F inputs and G outputs of a matrix, N slots, C capacity of each, H heads, K width of a head.
"""

# pyright: reportMissingParameterType=false, reportUnknownParameterType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportMissingImports=false, reportCallIssue=false

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """A layer norm before a product."""

    gain_D: Tensor
    shift_D: Tensor
    epsilon: float


def linear(
    x_MF: Tensor,
    weight_GF: Tensor,
    bias_G: Tensor,
    *,
    norm: Norm | None = None,
    gelu: bool = False,
    added_to_MG: Tensor | None = None,
) -> Tensor:
    """The product with a matrix, and what comes before and after it.

    Args:
        x_MF: what is multiplied: fp32 where there is a norm, else in the form of the weights.
        weight_GF: the matrix.
        bias_G: added to the product.
        norm: of `x_MF`, first.
        gelu: of the product, last.
        added_to_MG: the residual stream, fp32, to which the product is added in place.

    Returns:
        [M, G]: the product, or `added_to_MG`.
    """
    (M, F), G = x_MF.shape, len(weight_GF)
    out_MG = torch.empty(M, G, device=x_MF.device, dtype=weight_GF.dtype) if added_to_MG is None else added_to_MG
    rows, columns, inner, warps, stages = _blocks(M)
    _linear[(triton.cdiv(G, columns), triton.cdiv(M, rows))](
        x_MF,
        weight_GF,
        bias_G,
        norm.gain_D if norm else x_MF,
        norm.shift_D if norm else x_MF,
        out_MG,
        M,
        norm.epsilon if norm else 0.0,
        F=F,
        G=G,
        NORM=norm is not None,
        GELU=gelu,
        ADD=added_to_MG is not None,
        ROWS=rows,
        COLUMNS=columns,
        INNER=inner,
        num_warps=warps,
        num_stages=stages,
    )
    return out_MG


def attend(qkv_M3D: Tensor, keys_NHCK: Tensor, values_NHCK: Tensor, rows_M: Tensor, lengths_M: Tensor) -> Tensor:
    """Put the new keys and values where they belong, and mix the values of all tokens up to the new one.

    Args:
        qkv_M3D: queries, keys and values of the new tokens.
        keys_NHCK: of all slots; the new ones are written.
        values_NHCK: likewise.
        rows_M: the slot of each text.
        lengths_M: tokens in it before the new one; below 0: there is no such text, and its row is 0.

    Returns:
        [M, D], in the form of the cache.
    """
    M, D = len(qkv_M3D), qkv_M3D.shape[1] // 3
    _, H, _, K = keys_NHCK.shape
    mixed_MD = torch.empty(M, D, device=qkv_M3D.device, dtype=qkv_M3D.dtype)
    _attend[(M, H)](
        qkv_M3D,
        keys_NHCK,
        values_NHCK,
        rows_M,
        lengths_M,
        mixed_MD,
        keys_NHCK.stride(0),
        keys_NHCK.stride(1),
        K**-0.5,
        D=D,
        K=K,
        WIDTH=triton.next_power_of_2(K),
        TOKENS=128,
        num_warps=4,
    )
    return mixed_MD


def _blocks(M: int) -> tuple[int, int, int, int, int]:
    """What one program of `linear` does: rows, columns, inputs at a time; its warps, and inputs that are under way."""
    if M <= 16:
        return 16, 16, 128, 4, 4
    return (32, 32, 128, 4, 4) if M <= 32 else (64, 32, 128, 4, 4)


@triton.jit(do_not_specialize=["M"])
def _linear(
    x_ptr, weight_ptr, bias_ptr, gain_ptr, shift_ptr, out_ptr,
    M, epsilon,
    F: tl.constexpr, G: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    is_row, is_column = (row < M)[:, None], column < G
    x_ptrs = x_ptr + row[:, None] * F + inner[None, :]
    weight_ptrs = weight_ptr + column[:, None] * F + inner[None, :]

    if NORM:
        total = tl.zeros([ROWS], tl.float32)
        for first in range(0, F, INNER):
            total += tl.sum(tl.load(x_ptrs + first, is_row & (first + inner < F)[None, :], 0.0), 1)
        mean = total / F
        total = tl.zeros([ROWS], tl.float32)
        for first in range(0, F, INNER):
            is_input = (first + inner < F)[None, :]
            away = tl.where(is_input, tl.load(x_ptrs + first, is_row & is_input, 0.0) - mean[:, None], 0.0)
            total += tl.sum(away * away, 1)
        scale = tl.rsqrt(total / F + epsilon)

    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, F, INNER):
        is_input = first + inner < F
        weight = tl.load(weight_ptrs + first, is_column[:, None] & is_input[None, :], 0.0)
        x = tl.load(x_ptrs + first, is_row & is_input[None, :], 0.0)
        if NORM:
            gain = tl.load(gain_ptr + first + inner, is_input, 0.0)
            shift = tl.load(shift_ptr + first + inner, is_input, 0.0)
            x = ((x - mean[:, None]) * scale[:, None] * gain[None, :] + shift[None, :]).to(weight.dtype)
        product = tl.dot(x, tl.trans(weight), product, input_precision="ieee")

    narrow = weight_ptr.dtype.element_ty
    product += tl.load(bias_ptr + column, is_column, 0.0)[None, :].to(tl.float32)
    result = product.to(narrow)
    if GELU:
        wide = result.to(tl.float32)
        twice = 1.5957691216057308 * (wide + 0.044715 * wide * wide * wide)  # 2 sqrt(2 / pi)
        result = (wide / (1.0 + tl.exp(-twice))).to(narrow)
    out_ptrs = out_ptr + row[:, None] * G + column[None, :]
    is_out = is_row & is_column[None, :]
    if ADD:
        tl.store(out_ptrs, tl.load(out_ptrs, is_out, 0.0) + result.to(tl.float32), is_out)
    else:
        tl.store(out_ptrs, result, is_out)


@triton.jit
def _attend(
    qkv_ptr, keys_ptr, values_ptr, rows_ptr, lengths_ptr, mixed_ptr, row_stride, head_stride, scale,
    D: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    text, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths_ptr + text)
    place = tl.load(rows_ptr + text) * row_stride + head * head_stride  # 64 bits: a cache may have 2^31 numbers
    part = tl.arange(0, WIDTH)
    is_part = part < K
    new_ptrs = qkv_ptr + text * 3 * D + head * K + part
    query = tl.load(new_ptrs, is_part, 0.0).to(tl.float32) * scale
    new_key, new_value = tl.load(new_ptrs + D, is_part, 0.0), tl.load(new_ptrs + 2 * D, is_part, 0.0)
    home = place + length * K + part
    if length >= 0:
        tl.store(keys_ptr + home, new_key, is_part)
        tl.store(values_ptr + home, new_value, is_part)

    # the new token first, and then those before it, some at a time
    most = tl.sum(query * new_key.to(tl.float32))
    total = most * 0 + 1
    mixed = new_value.to(tl.float32)
    for first in range(0, length, TOKENS):
        token = first + tl.arange(0, TOKENS)
        is_there = (token < length)[:, None] & is_part[None, :]
        where = place + token[:, None] * K + part[None, :]
        key = tl.load(keys_ptr + where, is_there, 0.0).to(tl.float32)
        score = tl.where(token < length, tl.sum(query[None, :] * key, 1), float("-inf"))
        before, most = most, tl.maximum(most, tl.max(score))
        weight = tl.exp(score - most)
        value = tl.load(values_ptr + where, is_there, 0.0).to(tl.float32)
        mixed = mixed * tl.exp(before - most) + tl.sum(weight[:, None] * value, 0)
        total = total * tl.exp(before - most) + tl.sum(weight)
    mixed = tl.where(length >= 0, mixed / total, 0.0)
    tl.store(mixed_ptr + text * D + head * K + part, mixed.to(mixed_ptr.dtype.element_ty), is_part)
