"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), as GPT-2 trainings use it."""

from collections.abc import Iterable

import torch
from torch import nn


def adamw(
    decayed: Iterable[nn.Parameter],
    others: Iterable[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """PyTorch's AdamW in its fused form: one pass over parameter, gradient and both moments.

    Args:
        decayed: parameters that shrink by `lr * weight_decay` a step.
        others: parameters without decay.
        lr: the peak; the schedule sets `lr` of every group before each step.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
        weight_decay: in units of 1 / learning rate.
    """
    groups = [
        {"params": list(decayed), "weight_decay": weight_decay},
        {"params": list(others), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=True)
