"""The mean of the weights over the last steps of a run, often better than the last weights (Izmailov et al. 2018).

It is part of the optimizers' state, beside the moments, so saving those saves it too.
"""

from collections.abc import Iterable

import torch

_MEAN, _STEPS = "mean", "mean_steps"


@torch.no_grad()
def average(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """After a step, add the current weights to the mean of every parameter that has moved."""
    for optimizer in optimizers:
        for p, state in optimizer.state.items():
            if _MEAN not in state:
                state[_MEAN], state[_STEPS] = p.detach().clone(), torch.zeros(())
            state[_STEPS] += 1.0
            state[_MEAN].lerp_(p.detach(), 1.0 / float(state[_STEPS]))


@torch.no_grad()
def take_average(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Set the weights to their mean and drop the mean; parameters without one do not change."""
    for optimizer in optimizers:
        for p, state in optimizer.state.items():
            if _MEAN in state:
                p.copy_(state.pop(_MEAN))
                del state[_STEPS]
