"""Choosing PyTorch's fastest attention kernel for a run, by timing each on its GPU at its shapes.

Axes: B sequences, T tokens, H heads, K the width of a head.
"""

import itertools
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2.config import ModelConfig
from gpt2.train.precision import Precision

_log = logging.getLogger("gpt2")
_CANDIDATES = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
_OTHERS = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
_TRIES = 5


class AttentionKernels:
    """The order in which to try attention kernels; empty: PyTorch's own."""

    def __init__(self, order: tuple[SDPBackend, ...] = ()) -> None:
        self.order = order

    def preferred(self) -> AbstractContextManager[Any]:
        """A context in which the forward pass uses the first kernel that supports it."""
        return sdpa_kernel(list(self.order), set_priority=True) if self.order else nullcontext()


def choose_attention(model: ModelConfig, precision: Precision, *, sequences: int, seq_tokens: int) -> AttentionKernels:
    """Time the kernels forward and backward at the shape of a micro-batch, and order them; only on a GPU."""
    if precision.device.type != "cuda" or not precision.is_short:
        return AttentionKernels()
    seconds: dict[SDPBackend, float] = {}
    for kernel in _CANDIDATES:
        try:
            seconds[kernel] = _seconds(kernel, model, precision, sequences, seq_tokens)
        except RuntimeError as error:  # this GPU or build has no such kernel
            _log.debug("attention by %s: %s", kernel.name, error)
    order = tuple(sorted(seconds, key=seconds.__getitem__))
    said = ", ".join(f"{kernel.name} {1e3 * seconds[kernel]:.2f} ms" for kernel in order)
    _log.info("attention of a micro-batch, forward and backward: %s", said or "neither of the fast kernels is here")
    return AttentionKernels((*order, *_OTHERS))


def _seconds(kernel: SDPBackend, model: ModelConfig, precision: Precision, sequences: int, seq_tokens: int) -> float:
    device = precision.device
    x_BTD = torch.randn(sequences, seq_tokens, 3 * model.n_embd, device=device, dtype=precision.dtype)
    x_BTD.requires_grad_()
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(_TRIES + 1)]
    for at in range(-2, _TRIES):  # the first ones load kernels and plan
        if at >= 0:
            events[at].record()
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (model.n_head, -1)).transpose(1, 2) for part in x_BTD.chunk(3, dim=-1)
        )
        with sdpa_kernel([kernel]):
            mixed_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        mixed_BHTK.backward(mixed_BHTK.detach())
    events[_TRIES].record()
    torch.cuda.synchronize(device)
    return min(a.elapsed_time(b) for a, b in itertools.pairwise(events)) / 1e3
