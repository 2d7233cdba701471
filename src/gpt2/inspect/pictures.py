"""Draws results as HTML tables of shaded cells, for a notebook or a file; no script, all text escaped.

Axes: R rows, C columns, L layers, H heads.
"""

from collections.abc import Sequence

import numpy as np

from gpt2.backends.seam import Floats
from gpt2.generation.coloured import shown

MOST_COLUMNS = 60  # a longer text shows only its last tokens
MOST_CELLS = 10_000  # of all tables on a page together

_CUT = "max-width:12em;overflow:hidden;text-overflow:ellipsis"  # some tokens are 128 characters long
_HEAD = f"font-weight:normal;text-align:{{}};white-space:pre;padding:0 4px;{_CUT}"
_CAPTION = "text-align:left;white-space:nowrap"
_CELL = f"text-align:center;white-space:pre;padding:1px 4px;{_CUT}"


def shaded(
    values_RC: Floats,
    texts_RC: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
    most: float,
) -> str:
    """A table of texts on blue, darker as the value nears `most`, or on orange if it is below 0."""
    head = "".join(f'<th style="{_HEAD.format("center")}">{shown(column)}</th>' for column in columns)
    lines = [f'<caption style="{_CAPTION}">{shown(caption)}</caption><tr><th></th>{head}</tr>']
    for row, values_C, texts_C in zip(rows, values_RC.tolist(), texts_RC, strict=True):
        cells = "".join(
            f'<td style="{_CELL};background:{_shade(value, most)}" title="{value:.4g}">{shown(text)}</td>'
            for value, text in zip(values_C, texts_C, strict=True)
        )
        lines.append(f'<tr><th style="{_HEAD.format("right")}">{shown(row)}</th>{cells}</tr>')
    return f'<table style="border-collapse:collapse;font-size:smaller">{"".join(lines)}</table>'


def small(values_RC: Floats, *, caption: str) -> str:
    """The same without text, to fit beside many others."""
    cell = '<td style="width:6px;height:6px;padding:0;background:{}"></td>'
    lines = "".join(
        f"<tr>{''.join(cell.format(_shade(value, 1.0)) for value in values_C)}</tr>" for values_C in values_RC.tolist()
    )
    return (
        '<table style="border-collapse:collapse;display:inline-table;margin:4px;font-size:smaller">'
        f'<caption style="{_CAPTION}">{shown(caption)}</caption>{lines}</table>'
    )


def by_part(heads_LH: Floats, mlps_L: Floats, *, caption: str) -> str:
    """A table of each head's and MLP's effect on an answer, one row per layer."""
    values_RC = np.column_stack([heads_LH, mlps_L])
    return shaded(
        values_RC,
        [[f"{value:.2f}" if abs(value) >= 0.05 else "" for value in row] for row in values_RC.tolist()],
        rows=[f"layer {layer}" for layer in range(len(mlps_L))],
        columns=[*(f"head {head}" for head in range(heads_LH.shape[1])), "MLP"],
        caption=caption,
        most=float(np.abs(values_RC).max()),
    )


def of_last(n_shown: int, n_tokens: int) -> str:
    """The caption's note if not all tokens are shown."""
    return f"; the last {n_shown:,} of {n_tokens:,} tokens" if n_shown < n_tokens else ""


def _shade(value: float, most: float) -> str:
    depth = min(1.0, abs(value) / most) if most > 0 else 0.0
    color = "214,120,20" if value < 0 else "40,110,200"
    return f"rgba({color},{0.8 * depth:.2f})" if depth >= 0.005 else "none"
