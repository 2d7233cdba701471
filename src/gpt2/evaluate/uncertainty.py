"""How far a figure may be from what more examples of the same kind would give: standard errors.

Twice the standard error to either side holds the value of the whole kind in about 95 of 100 cases, as far as the
examples are drawn from it one by one. Words of one text are not; there a window is the unit that is drawn.
"""

import math
from collections.abc import Sequence

Z_95 = 1.96  # standard errors to either side that hold 95 of 100


def of_mean(values: Sequence[float]) -> float:
    """The standard error of the mean of some values; 0 of a single one."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return math.sqrt(variance / len(values))


def of_percent(percent: float, n: int) -> float:
    """The standard error, in percent, of how many of `n` examples are right.

    Two right and two wrong ones are added (Agresti and Coull 1998), so that none or all of a few is no certainty.
    """
    share = (percent / 100 * n + 2) / (n + 4)
    return 100 * math.sqrt(share * (1 - share) / (n + 4))


def of_total(losses: Sequence[float], sizes: Sequence[int]) -> float:
    """The standard error of a sum of losses over parts of different sizes, by how far each is from its share.

    Args:
        losses: of each part, two or more.
        sizes: tokens of each.
    """
    rate = math.fsum(losses) / sum(sizes)
    squares = math.fsum((loss - rate * size) ** 2 for loss, size in zip(losses, sizes, strict=True))
    return math.sqrt(squares * len(losses) / (len(losses) - 1))
