"""Causal attention as block products, faster than PyTorch's flash attention on a CPU with bf16 units.

PyTorch's CPU kernel goes through its tiles one after another, and reaches about a third of the throughput of the matrix
units. Here one batched product multiplies a block of queries with all keys up to its end, so a little more than half of
the square is computed; the compiler fuses the softmax between the products. The attention weights are kept for the
backward pass, in the dtype of the products.

Axes: B sequences, T tokens, H heads, K the width of a head, N = B H, Q queries of one block, S keys up to its end.
"""

from typing import Any

import torch
from torch import Tensor

_BLOCK_TOKENS = 128


def attend_in_blocks(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Causal attention, [B, H, T, K]; meant to be compiled."""
    mixed: Any = _BlockAttention.apply(q_BHTK, k_BHTK, v_BHTK)
    return mixed


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        q_NTK, k_NTK, v_NTK = (x.flatten(0, 1).contiguous() for x in (q_BHTK, k_BHTK, v_BHTK))
        sums = _sums(q_NTK)
        # scores in bf16 would have errors of one per cent, and so would the weights
        scaled_NTK, wide_k_NTK = q_NTK.to(sums) * q_NTK.shape[2] ** -0.5, k_NTK.to(sums)
        mixed: list[Tensor] = []
        weights: list[Tensor] = []
        for begin, end in _blocks(q_NTK.shape[1]):
            with torch.autocast(q_NTK.device.type, enabled=False):
                scores_NQS = scaled_NTK[:, begin:end] @ wide_k_NTK[:, :end].mT
            query_Q1 = torch.arange(begin, end, device=q_NTK.device)[:, None]
            is_later_QS = torch.arange(end, device=q_NTK.device) > query_Q1
            weights_NQS = scores_NQS.masked_fill(is_later_QS, -torch.inf).softmax(-1).to(v_NTK.dtype)
            mixed.append(weights_NQS @ v_NTK[:, :end])
            weights.append(weights_NQS)
        mixed_NTK = torch.cat(mixed, 1)
        ctx.save_for_backward(q_NTK, k_NTK, v_NTK, mixed_NTK, *weights)
        return mixed_NTK.view(q_BHTK.shape)

    @staticmethod
    def backward(ctx: Any, grad_BHTK: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q_NTK, k_NTK, v_NTK, mixed_NTK, *weights = ctx.saved_tensors
        grad_NTK = grad_BHTK.flatten(0, 1).contiguous()
        blocks = _blocks(q_NTK.shape[1])
        mean_NT1 = (grad_NTK.to(_sums(q_NTK)) * mixed_NTK).sum(-1, keepdim=True)
        dq: list[Tensor] = []
        dk: list[Tensor] = []
        dv: list[Tensor] = []
        for (begin, end), weights_NQS in zip(blocks, weights, strict=True):
            grad_NQK = grad_NTK[:, begin:end]
            rise_NQS = (grad_NQK @ v_NTK[:, :end].mT).to(_sums(q_NTK)) - mean_NT1[:, begin:end]
            dscores_NQS = (weights_NQS * rise_NQS * q_NTK.shape[2] ** -0.5).to(q_NTK.dtype)
            dq.append(dscores_NQS @ k_NTK[:, :end])
            dk.append(dscores_NQS.mT @ q_NTK[:, begin:end])
            dv.append(weights_NQS.mT @ grad_NQK)
        whole = torch.cat(dq, 1), _summed(dk, blocks), _summed(dv, blocks)
        return tuple(x_NTK.view(grad_BHTK.shape) for x_NTK in whole)


def _blocks(n_tokens: int) -> list[tuple[int, int]]:
    """Begin and end of each block of queries."""
    return [(begin, min(begin + _BLOCK_TOKENS, n_tokens)) for begin in range(0, n_tokens, _BLOCK_TOKENS)]


def _sums(x: Tensor) -> torch.dtype:
    """The dtype of the softmax."""
    return torch.promote_types(x.dtype, torch.float32)


def _summed(parts: list[Tensor], blocks: list[tuple[int, int]]) -> Tensor:
    """The sum of what each block of queries contributes to the keys up to its end, [N, S, K] each."""
    rows: list[Tensor] = []
    for i, (begin, end) in enumerate(blocks):
        total_NQK = parts[i][:, begin:end].to(_sums(parts[i]))
        for part_NSK in parts[i + 1 :]:
            total_NQK = total_NQK + part_NSK[:, begin:end]
        rows.append(total_NQK.to(parts[i].dtype))
    return torch.cat(rows, 1)
