"""A run's optimizers, and their rates by the schedule."""

from collections.abc import Iterable

import torch
from torch import nn

from gpt2.optim import Muon, adamw, cosine, partition, trapezoid, warm_momentum
from gpt2.train.config import OptimConfig, ScheduleConfig, TrainConfig

_MOMENTUM_START = 0.85


def build_optimizers(
    model: nn.Module, optim: OptimConfig, products: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; each parameter is in exactly one.

    Args:
        model: on its device, shared between processes if it will be.
        optim: the settings.
        products: dtype of Muon's matrix products; None: that of the parameters.
    """
    kinds = partition(model.named_parameters())
    by_muon = kinds["matrix"] if optim.matrices == "muon" else {}
    by_adamw = {} if by_muon else kinds["matrix"]
    optimizers: list[torch.optim.Optimizer] = []
    if by_muon:
        optimizers.append(
            Muon(
                by_muon.items(),
                lr=optim.muon_lr,
                momentum=optim.muon_momentum,
                weight_decay=optim.muon_weight_decay,
                cautious=optim.muon_cautious,
                products=products,
            )
        )
    optimizers.append(
        adamw(
            [*by_adamw.values(), *kinds["embedding"].values()],
            kinds["vector"].values(),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
    )
    return optimizers


def set_rates(optimizers: Iterable[torch.optim.Optimizer], config: TrainConfig, *, progress: float, step: int) -> float:
    """Write learning rates and momentum into the optimizers, and return AdamW's rate.

    Args:
        optimizers: of `build_optimizers`.
        config: of the run.
        progress: fraction of the run's tokens done.
        step: number of the coming step, from 1.
    """
    optim = config.optim
    factor = lr_factor(config.schedule, progress)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(optimizer, Muon):
                group["lr"] = optim.muon_lr * factor
                group["momentum"] = warm_momentum(
                    step - 1,
                    steps=config.schedule.momentum_warmup_steps,
                    start=min(_MOMENTUM_START, optim.muon_momentum),
                    end=optim.muon_momentum,
                )
            else:
                group["lr"] = optim.lr * factor
    return optim.lr * factor


def lr_factor(schedule: ScheduleConfig, progress: float) -> float:
    """The learning rate at a point of the run, as a fraction of the peak."""
    if schedule.shape == "cosine":
        return cosine(progress, warmup=schedule.warmup_fraction, final=schedule.final_fraction)
    return trapezoid(
        progress, warmup=schedule.warmup_fraction, decay=schedule.decay_fraction, final=schedule.final_fraction
    )
