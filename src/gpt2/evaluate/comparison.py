"""Comparing two results of `evaluate`: changes, different settings, and whether chance explains the changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2.errors import DataError
from gpt2.evaluate import uncertainty
from gpt2.evaluate.benchmark import COUNTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One figure in both results.

    Attributes:
        benchmark: its title.
        figure: its name.
        before: in the first result; None if it is not there.
        after: in the second.
        standard_error: of the difference, over the examples that both answered; None if examples have no scores.
    """

    benchmark: str
    figure: str
    before: float | None
    after: float | None
    standard_error: float | None = None


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[Difference], list[str]]:
    """The figures of both, and a sentence for each thing that makes them hard to compare.

    Raises:
        DataError: one of them is not a result of `gpt2 evaluate`.
    """
    try:
        return _differences(before, after), _otherwise(before, after)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"The results cannot be compared: one is not what `gpt2 evaluate --out` writes ({error!r})."
        ) from None


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    found: list[Difference] = []
    one, other = before["benchmarks"], after["benchmarks"]
    for name in (*one, *(name for name in other if name not in one)):
        first, second = one.get(name, {}), other.get(name, {})
        figures = dict.fromkeys((*first.get("figures", {}), *second.get("figures", {})))
        title = (first or second)["title"]
        for figure in figures:
            one_value, other_value = (each.get("figures", {}).get(figure) for each in (first, second))
            if not isinstance(title, str) or not all(
                isinstance(value, int | float | None) for value in (one_value, other_value)
            ):
                raise TypeError(f"{figure} of {name}")
            if figure in COUNTS and (one_value == other_value or None in (one_value, other_value)):
                continue  # it measures the text, which is the same
            found.append(
                Difference(
                    benchmark=title,
                    figure=figure,
                    before=one_value,
                    after=other_value,
                    standard_error=_error(figure, first, second),
                )
            )
    return found


def _error(figure: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> float | None:
    """The standard error of the mean difference over examples, if the figure is the mean of their scores."""
    if not figure == first.get("scored") == second.get("scored"):
        return None
    a, b = first.get("scores"), second.get("scores")
    if not a or not b or len(a) != len(b) or len(a) < 2 or first["files"] != second["files"]:
        return None
    return uncertainty.of_mean([100 * (y - x) for x, y in zip(a, b, strict=True)])


def _otherwise(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    for place in ("model", "settings", "versions"):
        for name in dict.fromkeys((*before[place], *after[place])):
            was, now = before[place].get(name), after[place].get(name)
            if was != now:
                said.append(f"{place}: {name} is {_short(was)} in the first and {_short(now)} in the second")
    for name, first in before["benchmarks"].items():
        second = after["benchmarks"].get(name)
        if second is None or "missing" in first or "missing" in second:
            continue
        said += [
            f"{name}: {what} differ ({_short(first[what])}; {_short(second[what])})"
            for what in ("choices", "files", "examples")
            if first[what] != second[what]
        ]
    return said


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
