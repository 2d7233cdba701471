"""Quantisation-aware training: the forward pass uses rounded weights, the optimizer keeps the exact ones.

The gradient at the rounded weights updates the exact ones (a straight-through estimator: Bengio et al. 2013, section
3.4; Jacob et al. 2018 for whole networks), so that in the end the rounded weights have a low loss. The forms are those
of `checkpoint/forms.py` and `int4.py`; these functions equal them except at near ties.

Axes: O outputs and I inputs of a matrix, G groups of 32 inputs, K inputs of one group.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gpt2.checkpoint.int4 import GROUP_INPUTS, LARGEST_CODES

_SMALLEST = 1e-30


@contextlib.contextmanager
def rounded(parameters: Sequence[Tensor], round_to: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Inside the block the parameters, [out, in], are rounded by `round_to`; afterwards they are exact again."""
    exact = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            p.copy_(round_to(p))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, values in zip(parameters, exact, strict=True):
                p.copy_(values)


def round_int8(w_OI: Tensor) -> Tensor:
    """Each output's weights as -127..127 times one scale."""
    scale_O1 = w_OI.abs().amax(1, keepdim=True) / 127
    return (w_OI * _inverse(scale_O1)).round().clamp(-127, 127) * scale_O1


def round_int4(w_OI: Tensor) -> Tensor:
    """Codes of -8..7 times a group's integer scale of 1..127 times the output's scale."""
    inputs = w_OI.shape[1]
    w_OGK = functional.pad(w_OI, (0, -inputs % GROUP_INPUTS)).unflatten(1, (-1, GROUP_INPUTS))
    largest_OG1 = w_OGK.abs().amax(2, keepdim=True)
    row_scale_O11 = largest_OG1.amax(1, keepdim=True) / LARGEST_CODES[0] / 127
    in_steps_OG1 = largest_OG1 * _inverse(row_scale_O11)
    best_OGK = torch.zeros_like(w_OGK)
    least_OG1 = torch.full_like(largest_OG1, torch.inf)
    for code in LARGEST_CODES:
        step_OG1 = (in_steps_OG1 / code).round().clamp(1, 127) * row_scale_O11
        tried_OGK = (w_OGK * _inverse(step_OG1)).round().clamp(-8, 7) * step_OG1
        error_OG1 = (w_OGK - tried_OGK).square().sum(2, keepdim=True)
        best_OGK = torch.where(error_OG1 < least_OG1, tried_OGK, best_OGK)
        least_OG1 = torch.minimum(error_OG1, least_OG1)
    return best_OGK.flatten(1)[:, :inputs]


ROUND = {"int8": round_int8, "int4": round_int4}


def _inverse(x: Tensor) -> Tensor:
    """1 / x, or 0 if x is too small to divide by."""
    return torch.where(x > _SMALLEST, 1.0 / x, 0.0)
