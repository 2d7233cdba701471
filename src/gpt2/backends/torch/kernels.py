"""A layer of GPT-2 for one token of each of many texts, as five Triton kernels for NVIDIA GPUs.

    x [M, D], residual stream, fp32
     │
     ├─> linear: norm, times c_attn ──> q, k, v ──> attend: k, v into the cache, softmax of its scores, mix
     │                                                                                           │
     x <────────────── linear: times c_proj, added to x <────────────────────────────────────────┘
     │
     ├─> linear: norm, times c_fc, GELU ──> linear: times c_proj, added to x ──> x

Products are computed in the form of the weights and summed in fp32. Values that PyTorch rounds to that form between
two operations are rounded here too.

Axes: M texts, D embedding, F inputs and G outputs of a matrix, N slots, C capacity of each, H heads, K width of a head.
"""

# Code that Triton compiles has no Python types.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportPossiblyUnboundVariable=false, reportMissingImports=false

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
    """A matrix product, fused with the operations before and after it.

    Args:
        x_MF: the input: fp32 if there is a norm, else in the form of the weights.
        weight_GF: the matrix.
        bias_G: added to the product.
        norm: applied to `x_MF` first.
        gelu: applied to the product last.
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
        columns, inner = (4, triton.next_power_of_2(F)) if norm else (8 if F <= 1024 else 2, 1024)
        grid = (triton.cdiv(G, columns),)
        _linear_one[grid](*arrays, epsilon, F=F, G=G, **kinds, COLUMNS=columns, INNER=inner, num_warps=4, **_FUSED)
        return out_MG
    if M <= 16:
        rows, columns, inner, stages = (16, 32, 128, 4) if norm else (16, 16, 256, 3)
    else:
        rows, columns, inner, stages = (32, 64, 128, 3) if norm else (16, 64, 128, 4)
    if weight_GF.dtype == torch.float32:  # twice as wide, and shared memory is small
        inner //= 2
    grid = (triton.cdiv(G, columns), triton.cdiv(M, rows))
    sizes = {"ROWS": rows, "COLUMNS": columns, "INNER": inner, "num_warps": 4, "num_stages": stages, **_FUSED}
    _linear[grid](*arrays, M, epsilon, F=F, G=G, **kinds, **sizes)
    return out_MG


def attend(qkv_M3D: Tensor, keys_NHCK: Tensor, values_NHCK: Tensor, rows_M: Tensor, lengths_M: Tensor) -> Tensor:
    """Store the new keys and values, and mix the values of all tokens up to the new one.

    Args:
        qkv_M3D: queries, keys and values of the new tokens.
        keys_NHCK: of all slots; the new ones are written.
        values_NHCK: likewise.
        rows_M: the slot of each text.
        lengths_M: tokens in it before the new one; negative: no text, and its row of the result is 0.

    Returns:
        [M, D], in the form of the cache.
    """
    M, D = len(qkv_M3D), qkv_M3D.shape[1] // 3
    _, H, C, K = keys_NHCK.shape
    mixed_MD = torch.empty(M, D, device=qkv_M3D.device, dtype=qkv_M3D.dtype)
    arrays = qkv_M3D, keys_NHCK, values_NHCK, rows_M, lengths_M, mixed_MD
    tokens, warps = (64, 4) if C <= 256 else (128, 8)
    sizes = {"WIDTH": triton.next_power_of_2(K), "TOKENS": tokens, "num_warps": warps, **_FUSED}
    _attend[(M, H)](*arrays, keys_NHCK.stride(0), keys_NHCK.stride(1), K**-0.5, D=D, K=K, **sizes)
    return mixed_MD


def draw(logits_MV: Tensor, keys_M: Tensor, temperatures_M: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each row whose value plus noise is largest; `generation.draws` defines it.

    Args:
        logits_MV: fp32.
        keys_M: keys of the noise.
        temperatures_M: fp32; at 0 the largest logit is taken.

    Returns:
        The tokens [M], and the largest score of each row [M]: NaN if a logit of the row is not finite.
    """
    M, V = logits_MV.shape
    parts = triton.cdiv(V, _AT_ONCE)
    largest_MP, scores_MP, ids_MP = (
        torch.empty(M, parts, device=logits_MV.device, dtype=dtype)
        for dtype in (torch.float32, torch.float64, torch.int64)
    )
    sizes = {"V": V, "parts": parts, "TOKENS": _AT_ONCE, **_FUSED}
    row_stride = logits_MV.stride(0)
    _largest[(M, parts)](logits_MV, row_stride, largest_MP, **sizes)
    rows = largest_MP.amax(-1), keys_M, temperatures_M
    _draw[(M, parts)](logits_MV, row_stride, *rows, scores_MP, ids_MP, **sizes)
    winners_M1 = scores_MP.argmax(-1, keepdim=True)  # NaN wins
    return ids_MP.gather(1, winners_M1)[:, 0], scores_MP.gather(1, winners_M1)[:, 0]


def score(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per row: the log-probability and the rank of its target, and the row's entropy in nats.

    If a logit is not finite, log-probability and entropy are NaN and the rank is negative.
    """
    M, V = logits_MV.shape
    logprobs_M, entropies_M = (torch.empty(M, device=logits_MV.device) for _ in range(2))
    ranks_M = torch.empty(M, device=logits_MV.device, dtype=torch.int32)
    _score[(M,)](
        logits_MV, logits_MV.stride(0), targets_M, logprobs_M, ranks_M, entropies_M, V=V, TOKENS=_AT_ONCE, **_FUSED
    )
    return logprobs_M, ranks_M, entropies_M


_AT_ONCE = 1024  # tokens of the vocabulary
_FUSED = {"enable_fp_fusion": True}  # fused multiply-add, which newer Tritons leave off by default


@triton.jit
def _linear_one(
    x_ptr, weight_ptr, bias_ptr, gain_ptr, shift_ptr, out_ptr, epsilon,
    F: tl.constexpr, G: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One row: issues all loads before waiting for any, and uses no tensor cores."""
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

    if NORM:  # partial sums stay in their threads until the end: a sum across threads is slow
        sums = tl.zeros([ROWS, INNER], tl.float32)
        for first in tl.range(0, F, INNER, loop_unroll_factor=6):
            sums += tl.load(x_ptrs + first, is_row & (first + inner < F)[None, :], 0.0)
        mean = tl.sum(sums, 1)[:, None] / F
        sums = tl.zeros([ROWS, INNER], tl.float32)
        for first in tl.range(0, F, INNER, loop_unroll_factor=6):
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
    """Round to the narrow form, then apply GELU, with tanh(x) as 2 sigmoid(2 x) - 1."""
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
    """One head of one text. TOKENS partial softmaxes and mixes run side by side and are merged at the end."""
    text, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths_ptr + text)
    place = tl.load(rows_ptr + text) * row_stride + head * head_stride  # 64 bits: a cache may hold 2^31 numbers
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
def _largest(logits_ptr, row_stride, largest_ptr, V: tl.constexpr, parts: tl.constexpr, TOKENS: tl.constexpr):
    text, part = tl.program_id(0), tl.program_id(1)
    id = part * TOKENS + tl.arange(0, TOKENS)
    logit = tl.load(logits_ptr + text.to(tl.int64) * row_stride + id, id < V, float("-inf"))
    tl.store(largest_ptr + text * parts + part, tl.max(logit))


@triton.jit
def _draw(
    logits_ptr, row_stride, largest_ptr, keys_ptr, temperatures_ptr, scores_ptr, ids_ptr,
    V: tl.constexpr, parts: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One part of a row's vocabulary; the 64 bits of noise come from SplitMix64."""
    text, part = tl.program_id(0), tl.program_id(1)
    id = part * TOKENS + tl.arange(0, TOKENS)
    logit = tl.load(logits_ptr + text.to(tl.int64) * row_stride + id, id < V, float("-inf"))
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


@triton.jit
def _score(
    logits_ptr, row_stride, targets_ptr, logprobs_ptr, ranks_ptr, entropies_ptr, V: tl.constexpr, TOKENS: tl.constexpr
):
    """One pass: TOKENS sums run side by side, each of exponentials relative to its own largest logit so far."""
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * row_stride
    target = tl.load(targets_ptr + row)
    goal = tl.load(row_ptr + target)
    most = tl.full([TOKENS], -1e30, tl.float32)
    total, away = tl.zeros([TOKENS], tl.float32), tl.zeros([TOKENS], tl.float32)
    before, bad = tl.zeros([TOKENS], tl.int32), tl.zeros([TOKENS], tl.int32)
    for first in range(0, V, TOKENS):
        id = first + tl.arange(0, TOKENS)
        logit = tl.load(row_ptr + id, id < V, -1e30)
        bad += ((logit - logit) != 0).to(tl.int32)
        before += ((id < V) & ((logit > goal) | ((logit == goal) & (id < target)))).to(tl.int32)
        last, most = most, tl.maximum(most, logit)
        shrunk, weight = tl.exp(last - most), tl.exp(logit - most)
        # away: the sum of each weight times its distance below the largest logit
        away = (away + total * (most - last)) * shrunk + weight * (most - logit)
        total = total * shrunk + weight
    largest = tl.max(most)
    share = tl.exp(most - largest)
    away = tl.sum((away + total * (largest - most)) * share)
    total = tl.sum(total * share)
    logprob, entropy, rank = goal - largest - tl.log(total), tl.log(total) + away / total, tl.sum(before)
    is_bad = tl.sum(bad) > 0
    tl.store(logprobs_ptr + row, tl.where(is_bad, float("nan"), logprob))
    tl.store(entropies_ptr + row, tl.where(is_bad, float("nan"), entropy))
    tl.store(ranks_ptr + row, tl.where(is_bad, -1, rank))
