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
    kinds = {"NORM": norm is not None, "GELU": gelu, "ADD": added_to_MG is not None}
    gain_D, shift_D, epsilon = (norm.gain_D, norm.shift_D, norm.epsilon) if norm else (x_MF, x_MF, 0.0)
    arrays = x_MF, weight_GF, bias_G, gain_D, shift_D, out_MG
    if M == 1:
        columns, inner, warps = one_row_blocks(F, has_norm=norm is not None)
        grid = (triton.cdiv(G, columns),)
        _linear_one[grid](*arrays, epsilon, F=F, G=G, **kinds, COLUMNS=columns, INNER=inner, num_warps=warps)
        return out_MG
    rows, columns, inner, warps, stages = blocks(M)
    grid = (triton.cdiv(G, columns), triton.cdiv(M, rows))
    sizes = {"ROWS": rows, "COLUMNS": columns, "INNER": inner, "num_warps": warps, "num_stages": stages}
    _linear[grid](*arrays, M, epsilon, F=F, G=G, **kinds, **sizes)
    return out_MG


def one_row_blocks(F: int, *, has_norm: bool) -> tuple[int, int, int]:
    """What one program of `_linear_one` does: columns, inputs at a time (all of them where there is a norm); warps."""
    whole = triton.next_power_of_2(F)
    return (8, whole, 4) if has_norm else (4, min(whole, 1024), 4)


def blocks(M: int) -> tuple[int, int, int, int, int]:
    """What one program of `_linear` does: rows, columns, inputs at a time; its warps, and inputs that are under way."""
    return (16, 16, 256, 4, 3) if M <= 16 else (16, 64, 128, 4, 4)


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
    arrays = qkv_M3D, keys_NHCK, values_NHCK, rows_M, lengths_M, mixed_MD
    tokens, warps = attention_blocks(M)
    sizes = {"WIDTH": triton.next_power_of_2(K), "TOKENS": tokens, "num_warps": warps}
    _attend[(M, H)](*arrays, keys_NHCK.stride(0), keys_NHCK.stride(1), K**-0.5, D=D, K=K, **sizes)
    return mixed_MD


def attention_blocks(M: int) -> tuple[int, int]:
    """Tokens that one program of `_attend` looks at at a time, and its warps."""
    return (256, 8) if M <= 8 else (128, 4)


def draw(logits_MV: Tensor, keys_M: Tensor, temperatures_M: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each row whose value plus noise is largest; `generation.draws` defines it.

    Args:
        logits_MV: fp32.
        keys_M: of the noise.
        temperatures_M: fp32; at 0 the largest logit is taken.

    Returns:
        The tokens [M], and the largest score of each row [M]: not a number if a logit of the row is not finite.
    """
    M, V = logits_MV.shape
    parts = triton.cdiv(V, _DRAWN_AT_ONCE)
    scores_MP = torch.empty(M, parts, device=logits_MV.device, dtype=torch.float64)
    ids_MP = torch.empty(M, parts, device=logits_MV.device, dtype=torch.int64)
    arrays = logits_MV, logits_MV.amax(-1), keys_M, temperatures_M, scores_MP, ids_MP
    _draw[(M, parts)](*arrays, V=V, parts=parts, TOKENS=_DRAWN_AT_ONCE, num_warps=4)
    winners_M1 = scores_MP.argmax(-1, keepdim=True)  # something that is not a number wins
    return ids_MP.gather(1, winners_M1)[:, 0], scores_MP.gather(1, winners_M1)[:, 0]


_DRAWN_AT_ONCE = 1024


@triton.jit
def _linear_one(
    x_ptr, weight_ptr, bias_ptr, gain_ptr, shift_ptr, out_ptr, epsilon,
    F: tl.constexpr, G: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One row: all loads are begun before anything is waited for, and no unit for matrices is used."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    weight_ptrs = weight_ptr + column[:, None] * F + inner[None, :]
    is_column = column < G
    sums = tl.zeros([COLUMNS, INNER], tl.float32)
    for first in tl.static_range(0, F, INNER):
        is_input = first + inner < F
        weight = tl.load(weight_ptrs + first, is_column[:, None] & is_input[None, :], 0.0)
        x = tl.load(x_ptr + first + inner, is_input, 0.0)
        if NORM:
            gain = tl.load(gain_ptr + first + inner, is_input, 0.0)
            shift = tl.load(shift_ptr + first + inner, is_input, 0.0)
            away = tl.where(is_input, x - tl.sum(x) / F, 0.0)
            x = away * tl.rsqrt(tl.sum(away * away) / F + epsilon) * gain + shift
            x = x.to(weight.dtype)
        sums += weight.to(tl.float32) * x.to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + column, is_column, 0.0)
    result = _bent(tl.sum(sums, 1) + bias.to(tl.float32), bias.dtype, GELU)
    if ADD:
        tl.store(out_ptr + column, tl.load(out_ptr + column, is_column, 0.0) + result.to(tl.float32), is_column)
    else:
        tl.store(out_ptr + column, result, is_column)


@triton.jit(do_not_specialize=["M"])
def _linear(
    x_ptr, weight_ptr, bias_ptr, gain_ptr, shift_ptr, out_ptr, M, epsilon,
    F: tl.constexpr, G: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    is_row, is_column = (row < M)[:, None], column < G
    x_ptrs = x_ptr + row[:, None] * F + inner[None, :]
    weight_ptrs = weight_ptr + column[:, None] * F + inner[None, :]

    if NORM:  # what is added up stays where it is until the end, for a sum across threads takes long
        sums = tl.zeros([ROWS, INNER], tl.float32)
        for first in tl.static_range(0, F, INNER):
            sums += tl.load(x_ptrs + first, is_row & (first + inner < F)[None, :], 0.0)
        mean = tl.sum(sums, 1)[:, None] / F
        sums = tl.zeros([ROWS, INNER], tl.float32)
        for first in tl.static_range(0, F, INNER):
            is_x = (first + inner < F)[None, :]
            away = tl.where(is_x, tl.load(x_ptrs + first, is_row & is_x, 0.0) - mean, 0.0)
            sums += away * away
        scale = tl.rsqrt(tl.sum(sums, 1)[:, None] / F + epsilon)

    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, F, INNER):
        is_input = first + inner < F
        weight = tl.load(weight_ptrs + first, is_column[:, None] & is_input[None, :], 0.0)
        x = tl.load(x_ptrs + first, is_row & is_input[None, :], 0.0)
        if NORM:
            gain = tl.load(gain_ptr + first + inner, is_input, 0.0)
            shift = tl.load(shift_ptr + first + inner, is_input, 0.0)
            x = ((x - mean) * scale * gain[None, :] + shift[None, :]).to(weight.dtype)
        product = tl.dot(x, tl.trans(weight), product, input_precision="ieee")

    bias = tl.load(bias_ptr + column, is_column, 0.0)
    result = _bent(product + bias.to(tl.float32)[None, :], bias.dtype, GELU)
    out_ptrs = out_ptr + row[:, None] * G + column[None, :]
    is_out = is_row & is_column[None, :]
    if ADD:
        tl.store(out_ptrs, tl.load(out_ptrs, is_out, 0.0) + result.to(tl.float32), is_out)
    else:
        tl.store(out_ptrs, result, is_out)


@triton.jit
def _bent(product, narrow: tl.constexpr, GELU: tl.constexpr):
    """In the narrow form, and through GELU: by tanh, which is 2 sigmoid(2 x) - 1."""
    result = product.to(narrow)
    if GELU:
        x = result.to(tl.float32)
        twice = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # 2 sqrt(2 / pi)
        result = (x / (1.0 + tl.exp(-twice))).to(narrow)
    return result


@triton.jit
def _attend(
    qkv_ptr, keys_ptr, values_ptr, rows_ptr, lengths_ptr, mixed_ptr, row_stride, head_stride, scale,
    D: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """A head of a text. TOKENS of them have each a softmax and a mix of their own, which become one at the end."""
    text, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths_ptr + text)
    place = tl.load(rows_ptr + text) * row_stride + head * head_stride  # 64 bits: a cache may have 2^31 numbers
    part = tl.arange(0, WIDTH)
    is_part = part < K
    new_ptrs = qkv_ptr + text * 3 * D + head * K + part
    query = tl.load(new_ptrs, is_part, 0.0).to(tl.float32) * scale
    new_key, new_value = tl.load(new_ptrs + D, is_part, 0.0), tl.load(new_ptrs + 2 * D, is_part, 0.0)
    if length >= 0:
        home = place + length * K + part
        tl.store(keys_ptr + home, new_key, is_part)
        tl.store(values_ptr + home, new_value, is_part)

    most = tl.full([TOKENS], -1e30, tl.float32)
    total = tl.zeros([TOKENS], tl.float32)
    mixed = tl.zeros([TOKENS, WIDTH], tl.float32)
    for first in range(0, length, TOKENS):
        token = first + tl.arange(0, TOKENS)
        is_there = (token < length)[:, None] & is_part[None, :]
        where = place + token[:, None] * K + part[None, :]
        key = tl.load(keys_ptr + where, is_there, 0.0)
        value = tl.load(values_ptr + where, is_there, 0.0)
        score = tl.sum(query[None, :] * key.to(tl.float32), 1)
        before, most = most, tl.where(token < length, tl.maximum(most, score), most)
        weight = tl.where(token < length, tl.exp(score - most), 0.0)
        shrunk = tl.exp(before - most)
        mixed = mixed * shrunk[:, None] + weight[:, None] * value.to(tl.float32)
        total = total * shrunk + weight

    new_score = tl.sum(query * new_key.to(tl.float32))
    highest = tl.maximum(tl.max(most), new_score)
    share, new_share = tl.exp(most - highest), tl.exp(new_score - highest)
    whole = tl.sum(mixed * share[:, None], 0) + new_share * new_value.to(tl.float32)
    whole = tl.where(length >= 0, whole / (tl.sum(total * share) + new_share), 0.0)
    tl.store(mixed_ptr + text * D + head * K + part, whole.to(mixed_ptr.dtype.element_ty), is_part)


@triton.jit
def _draw(
    logits_ptr, largest_ptr, keys_ptr, temperatures_ptr, scores_ptr, ids_ptr,
    V: tl.constexpr, parts: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Some tokens of a row; the 64 bits of their noise are SplitMix64's."""
    text, part = tl.program_id(0), tl.program_id(1)
    id = part * TOKENS + tl.arange(0, TOKENS)
    logit = tl.load(logits_ptr + text * V + id, id < V, float("-inf"))
    temperature = tl.load(temperatures_ptr + text)
    score = logit.to(tl.float64)
    if temperature > 0:
        if temperature != 1:
            score = tl.div_rn(logit - tl.load(largest_ptr + text), temperature).to(tl.float64)
        state = (tl.load(keys_ptr + text) + (id + 1).to(tl.int64) * -7046029254386353131).to(tl.uint64, bitcast=True)
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB
        bits = ((state ^ (state >> 31)) >> 12).to(tl.int64, bitcast=True)
        score -= tl.log(-tl.log((bits.to(tl.float64) + 0.5) * 2.220446049250313e-16))  # 2^-52
    is_finite = (logit - logit) == 0
    best, winner = tl.max(score, 0, return_indices=True)
    is_bad = tl.sum(tl.where((id < V) & ~is_finite, 1, 0)) > 0
    tl.store(scores_ptr + text * parts + part, tl.where(is_bad, float("nan"), best))
    tl.store(ids_ptr + text * parts + part, (part * TOKENS + winner).to(tl.int64))
