"""Numbers formatted for people, in a table or on a tile."""

import math


def readable(value: object) -> str:
    """A cell's text: thousands separated, four significant digits for fractions, a dash for an unknown value."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return _fraction(value).replace("-", "−")
    return str(value)


def is_number(value: object) -> bool:
    """Whether a cell is right-aligned like a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fraction(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == 0 or 1e-4 <= size < 1e15:
        digits = 3 - math.floor(math.log10(size)) if size else 0
        text = f"{value:,.{min(max(digits, 0), 8)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"
