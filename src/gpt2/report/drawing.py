"""From a matplotlib figure to an inline SVG with the page's colours and unique ids.

The figure is drawn in key colours that nothing else uses; each is then replaced by a variable of the style.
"""

import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

from gpt2.errors import MissingExtraError
from gpt2.report.blocks import Table
from gpt2.report.markup import escape
from gpt2.report.numbers import readable

# key colour -> variable of page.css
_INK, _SOFT, _RULE = "#010101", "#020202", "#030303"
_SERIES = [f"#04040{i}" for i in range(1, 9)]
_VARIABLES = {
    _INK: "--ink",
    _SOFT: "--soft",
    _RULE: "--rule",
    **{key: f"--s{i}" for i, key in enumerate(_SERIES, 1)},
}
_DASHES: list[tuple[float, ...]] = [
    (),
    (6, 2),
    (2, 1.5),
    (7, 2, 2, 2),
    (10, 3),
    (4, 1, 1, 1, 1, 1),
    (1, 1),
    (12, 2, 4, 2),
]
_HATCHES = ["", "////", "....", "\\\\\\\\", "xx", "--", "||", "oo"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
_SHORT = {1e3: "k", 1e6: "M", 1e9: "B", 1e12: "T"}
_LARGE = 20_000
_ONE_LINE = 60  # characters of names that fit beside each other in a legend
_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": _SOFT,
    "axes.grid": True,
    "axes.labelcolor": _SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "figure.figsize": (8.0, 3.8),
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so text widths are the same on every machine
    "font.size": 10.5,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "legend.labelcolor": _INK,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text, for screen readers, search and copying
    "svg.hashsalt": "gpt2",
    "text.color": _INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}


def series_color(i: int) -> str:
    """The key colour of the i-th series, from 0."""
    return _SERIES[i % len(_SERIES)]


def series_dashes(i: int) -> tuple[float, ...]:
    """The dashes of the i-th series; the first is solid."""
    return _DASHES[i % len(_DASHES)]


def series_hatch(i: int) -> str:
    """The hatching of the i-th series; the first has none."""
    return _HATCHES[i % len(_HATCHES)]


def series_marker(i: int) -> str:
    """The marker of the i-th series' points."""
    return _MARKERS[i % len(_MARKERS)]


def new_axes(x_label: str, y_label: str, *, height: float = 3.8) -> tuple[Any, Any]:
    """An empty figure and its axes, without a window or matplotlib's global state."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.0, height), layout="constrained")
    axes: Any = drawn.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_axisbelow(True)
    return drawn, axes


def set_scales(axes: Any, *, log_x: bool = False, log_y: bool = False, names_on_y: bool = False) -> None:
    """Set logarithmic or linear axes after drawing: large numbers short (2M), small ones written out."""
    for axis, log, low, high in ((axes.xaxis, log_x, *axes.get_xlim()), (axes.yaxis, log_y, *axes.get_ylim())):
        if axis is axes.yaxis and names_on_y:
            continue
        if log:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            axis.set_major_formatter(_short)
            low, high = (axes.get_xlim if axis is axes.xaxis else axes.get_ylim)()
            if high < 100 * low:  # one or two powers of ten are in sight
                axis.get_minor_locator().set_params(subs=range(2, 10) if high < 10 * low else (2, 5))
                axis.set_minor_formatter(_short)
            else:
                axis.set_minor_formatter("")
        elif max(abs(low), abs(high)) >= _LARGE:
            axis.set_major_formatter(_short)


def add_legend(axes: Any) -> None:
    """What the series are, above the drawing from its left edge on: nothing is below it, and a narrow page shows it."""
    names = axes.get_legend_handles_labels()[1]
    columns = next(n for n in (3, 2, 1) if n == 1 or _width(names, n) <= _ONE_LINE)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def _width(names: Sequence[str], n_columns: int) -> int:
    """Characters of a legend's line: of the longest name of each column, which matplotlib fills one after the other."""
    least, n_longer = divmod(len(names), n_columns)
    ends = [column * least + min(column, n_longer) for column in range(n_columns + 1)]
    return sum(max(map(len, names[start:end]), default=0) for start, end in pairwise(ends))


def _short(value: float, place: int) -> str:
    """An axis number: 2M, 0.03."""
    size = max((s for s in _SHORT if abs(value) >= s), default=1.0)
    return readable(value / size) + _SHORT.get(size, "")


def check_charts() -> None:
    """Check that charts can be drawn, before hours of work whose result needs them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError.of("The report cannot be drawn", package="matplotlib", extra="report")


def figure(title: str, name: str, draw: Callable[[], Any], numbers: Table) -> str:
    """A chart as HTML: its title, the drawing, and a table of its numbers to unfold.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_charts()
    import matplotlib

    written = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context(cast("Any", _SETTINGS)):
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts are used, not matplotlib's
        draw().savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return (
        f'<figure class="chart"><figcaption><strong>{escape(title)}</strong></figcaption>\n'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(title)}, drawn">'
        f"{inline(written.getvalue(), title, name)}</div>\n"
        f"<details><summary>The numbers</summary>\n{numbers.html(name)}\n</details></figure>"
    )


def inline(svg: str, title: str, name: str) -> str:
    """An SVG file's text for a page: no prologue, ids that begin with `name`, the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"|\sversion="[^"]*"', "", svg, count=3)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub("#0[1-4]0[1-4]0[1-8]", lambda found: f"var({_VARIABLES[found.group()]})", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = svg.replace("#ffffff", "var(--paper)").replace("#000000", "var(--ink)").replace("#808080", "var(--soft)")
    return re.sub(
        r'<svg\s[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(title)}">', svg, count=1
    )
