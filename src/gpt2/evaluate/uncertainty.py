"""Standard errors: how far a figure may be from its value over many more examples of the same kind.

That value is within two standard errors in about 95 of 100 cases, if the examples are drawn independently. Words of one
text are not; there the unit of drawing is a window.
"""

import math
from collections.abc import Sequence

Z_95 = 1.96  # standard errors to either side of a 95 % interval


def of_mean(values: Sequence[float]) -> float:
    """The standard error of the mean of some values; 0 for a single value."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return math.sqrt(variance / len(values))


def of_percent(percent: float, n: int) -> float:
    """The standard error, in percent, of the share of `n` examples that are right.

    Two right and two wrong ones are added (Agresti and Coull 1998), so that none or all of a few does not give 0.
    """
    share = (percent / 100 * n + 2) / (n + 4)
    return 100 * math.sqrt(share * (1 - share) / (n + 4))


def of_total(losses: Sequence[float], sizes: Sequence[int]) -> float:
    """The standard error of a sum of losses over parts of different sizes, from each part's distance to its share.

    Args:
        losses: of each part, two or more.
        sizes: tokens of each.
    """
    rate = math.fsum(losses) / sum(sizes)
    squares = math.fsum((loss - rate * size) ** 2 for loss, size in zip(losses, sizes, strict=True))
    return math.sqrt(squares * len(losses) / (len(losses) - 1))
