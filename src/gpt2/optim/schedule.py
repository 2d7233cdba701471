"""Schedules: pure functions of progress, the share of a run's tokens trained on so far, from 0 to 1.

Those of the learning rate return a fraction of the peak.
"""

import math
from collections.abc import Sequence


def cosine(progress: float, *, warmup: float = 0.0, final: float = 0.0) -> float:
    """Linear warm-up, then half a cosine down to `final` (Loshchilov and Hutter 2017, without restarts)."""
    if progress < warmup:
        return progress / warmup
    done = (progress - warmup) / (1.0 - warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def trapezoid(progress: float, *, warmup: float = 0.0, decay: float = 0.5, final: float = 0.0) -> float:
    """Linear warm-up, a flat part, and a linear decay to `final` over the last `decay` of the run.

    Warm-up, stable, decay: Hu et al. 2024 (MiniCPM); linear to zero: Bergsma et al. 2025.
    """
    if progress < warmup:
        return progress / warmup
    left = 1.0 - min(progress, 1.0)
    return 1.0 if left >= decay else final + (1.0 - final) * left / decay


def warm_momentum(step: int, *, steps: int, start: float, end: float) -> float:
    """Momentum that rises linearly from `start` to `end` over the first `steps` optimizer steps."""
    return end if step >= steps else start + (end - start) * step / steps


def stage(progress: float, stages: Sequence[tuple[float, int]]) -> int:
    """The value of the current stage: stages are (progress at which it begins, value), the first at 0."""
    return [value for begins, value in stages if begins <= progress][-1]
