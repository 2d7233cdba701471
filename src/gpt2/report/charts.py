"""Charts: lines, bars, points. Drawn by matplotlib as SVG, coloured by the page, with their numbers in a table.

Colours are variables of the page's style, so a chart follows the reader's light or dark theme. Series also differ in
dashes, hatches or marks, for readers who cannot tell colours apart. A value of None or NaN is a gap.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2.report.blocks import Table
from gpt2.report.drawing import (
    add_legend,
    figure,
    new_axes,
    series_color,
    series_dashes,
    series_hatch,
    series_marker,
    set_scales,
)

_MOST_DRAWN = 800  # points of a line: no use in more than pixels
_MOST_ROWS = 60  # of the table below a chart

Number = float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend and the table.
        x: ascending.
        y: as many; None is a gap.
        low: lower end of a band around the line, as many; empty: no band.
        high: upper end of it.
        faint: drawn thin and pale, such as a noisy curve behind its mean.
        color: number of the colour, from 1, for lines that belong together; 0: the next.
    """

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    faint: bool = False
    color: int = 0

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), f"{self.name}: {len(self.x)} places and {len(self.y)} values"
        assert len(self.low) == len(self.high), f"{self.name}: a band has two ends"


@dataclass(frozen=True, kw_only=True, slots=True)
class LineChart:
    """Values over something.

    Attributes:
        title: says what it shows.
        x_label: with its unit.
        y_label: with its unit.
        lines: one or more.
        log_x: whether x is on a logarithmic scale.
        log_y: whether y is.
        levels: horizontal lines by name, such as a target.
        steps: whether values hold until the next one.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    levels: Mapping[str, float] = field(default_factory=dict[str, float])
    steps: bool = False

    def html(self, name: str) -> str:
        """The drawing and its table."""
        return figure(self.title, name, self._draw, self._table())

    def _draw(self) -> Any:
        drawn, axes = new_axes(self.x_label, self.y_label)
        drawn_through = 0
        for line in self.lines:
            color = series_color((line.color or drawn_through + 1) - 1)
            kept = _extremes(line.y)
            x = [line.x[k] for k in kept]
            style: dict[str, Any] = {"color": color, "drawstyle": "steps-post" if self.steps else "default"}
            if line.faint:
                style |= {"linewidth": 0.8, "alpha": 0.45}
            else:
                style |= {"linewidth": 1.9, "dashes": series_dashes(drawn_through), "label": line.name}
                drawn_through += 1
            if len(kept) == 1:
                style |= {"marker": "o"}
            axes.plot(x, _floats(line.y, kept), **style)
            if line.low:
                low, high = _floats(line.low, kept), _floats(line.high, kept)
                axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        for i, (name, value) in enumerate(self.levels.items(), drawn_through):
            axes.axhline(value, color=series_color(i), linewidth=1.2, dashes=(2, 2), label=name)
        set_scales(axes, log_x=self.log_x, log_y=self.log_y)
        if drawn_through + len(self.levels) > 1:
            add_legend(axes)
        return drawn

    def _table(self) -> Table:
        shown = [line for line in self.lines if not line.faint] or list(self.lines)
        x = sorted({value for line in shown for value in line.x})
        kept = [x[k] for k in _spread(len(x), _MOST_ROWS)]
        values = [dict(zip(line.x, line.y, strict=True)) for line in shown]
        return Table(
            columns=[self.x_label, *(line.name for line in shown)],
            rows=[[at, *(_known(by_x.get(at)) for by_x in values)] for at in kept],
            caption=_caption(self.title, len(kept), len(x)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """Values of named things, side by side.

    Attributes:
        title: says what it shows.
        y_label: of the values, with their unit.
        names: of the things.
        series: values by the name of the series, one for each thing.
        errors: half the height of an error bar, by the name of the series.
    """

    title: str
    y_label: str
    names: Sequence[str]
    series: Mapping[str, Sequence[Number]]
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])

    def __post_init__(self) -> None:
        assert all(len(values) == len(self.names) for values in self.series.values()), "a value for every name"

    def html(self, name: str) -> str:
        """The drawing and its table."""
        return figure(self.title, name, self._draw, self._table())

    def _draw(self) -> Any:
        # horizontal bars: names of any length are legible, and many fit
        bars = len(self.names) * len(self.series)
        drawn, axes = new_axes(self.y_label, "", height=1.0 + 0.22 * bars + 0.12 * len(self.names))
        thick = 0.8 / max(1, len(self.series))
        for i, (name, values) in enumerate(self.series.items()):
            places = [place + (i - (len(self.series) - 1) / 2) * thick for place in range(len(self.names))]
            lengths = _floats(values, range(len(values)))
            error = {"xerr": self.errors[name], "ecolor": "black"} if name in self.errors else {}
            style = {"color": series_color(i), "hatch": series_hatch(i), "edgecolor": "white", "linewidth": 0}
            axes.barh(places, lengths, thick * 0.92, label=name, **style, **error)
        axes.set_yticks(range(len(self.names)), self.names)
        axes.invert_yaxis()
        set_scales(axes, names_on_y=True)
        if all(isinstance(value, int) for values in self.series.values() for value in values):
            axes.xaxis.get_major_locator().set_params(integer=True)  # there is no half document
        axes.grid(visible=False, axis="y")
        if len(self.series) > 1:
            add_legend(axes)
        return drawn

    def _table(self) -> Table:
        columns, rows = [""], [[name] for name in self.names]
        wide: list[list[object]] = [list(row) for row in rows]
        for name, values in self.series.items():
            columns.append(name)
            for row, value in zip(wide, values, strict=True):
                row.append(_known(value))
            if name in self.errors:
                columns.append(f"± {name}")
                for row, error in zip(wide, self.errors[name], strict=True):
                    row.append(error)
        return Table(columns=columns, rows=wide, caption=f"{self.title}: {self.y_label}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """One kind of points of a scatter chart.

    Attributes:
        name: in the legend and the table.
        x: of each.
        y: of each.
        labels: written beside each; empty: none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y) and len(self.labels) in (0, len(self.x))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterChart:
    """Things by two of their values.

    Attributes:
        title: says what it shows.
        x_label: with its unit.
        y_label: with its unit.
        points: one kind or more.
        log_x: whether x is on a logarithmic scale.
        log_y: whether y is.
        diagonal: whether to draw where x equals y.
    """

    title: str
    x_label: str
    y_label: str
    points: Sequence[Points]
    log_x: bool = False
    log_y: bool = False
    diagonal: bool = False

    def html(self, name: str) -> str:
        """The drawing and its table."""
        return figure(self.title, name, self._draw, self._table())

    def _draw(self) -> Any:
        drawn, axes = new_axes(self.x_label, self.y_label)
        for i, kind in enumerate(self.points):
            few = len(kind.x) <= 200
            axes.scatter(
                kind.x,
                kind.y,
                s=36 if few else 12,
                alpha=0.9 if few else 0.5,
                color=series_color(i),
                marker=series_marker(i),
                linewidths=0,
                label=kind.name,
            )
            for x, y, label in zip(kind.x, kind.y, kind.labels, strict=False):
                axes.annotate(label, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)
        set_scales(axes, log_x=self.log_x, log_y=self.log_y)
        if self.diagonal:
            axes.axline((0, 0), slope=1, color="gray", linewidth=1, dashes=(3, 3))
        if len(self.points) > 1:
            add_legend(axes)
        return drawn

    def _table(self) -> Table:
        rows = [
            [kind.labels[i] if kind.labels else kind.name, x, y, kind.name]
            for kind in self.points
            for i, (x, y) in enumerate(zip(kind.x, kind.y, strict=True))
        ]
        kept = _spread(len(rows), _MOST_ROWS)
        return Table(
            columns=["", self.x_label, self.y_label, "kind"],
            rows=[rows[k] for k in kept],
            caption=_caption(self.title, len(kept), len(rows)),
        )


def _caption(title: str, shown: int, total: int) -> str:
    return title if shown == total else f"{title}: {shown} of {total:,} points, evenly spread"


def _known(value: Number) -> Number:
    return None if value is None or not math.isfinite(value) else value


def _floats(values: Sequence[Number], kept: Sequence[int]) -> list[float]:
    return [math.nan if (value := values[k]) is None else float(value) for k in kept]


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of n indices, evenly spread, including the first and the last."""
    if n <= most:
        return list(range(n))
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]


def _extremes(values: Sequence[Number]) -> list[int]:
    """The points to draw: all of a few, else the lowest and highest of every stretch, so that no spike is lost."""
    n = len(values)
    if n <= _MOST_DRAWN:
        return list(range(n))
    kept = {0, n - 1}
    edges = _spread(n + 1, _MOST_DRAWN // 2 + 1)
    for begin, end in itertools.pairwise(edges):
        known = [(value, k) for k in range(begin, end) if (value := _known(values[k])) is not None]
        kept |= {min(known)[1], max(known)[1]} if known else {begin}
    return sorted(kept)
