"""The parts of a page besides charts: sections, tables, tiles of facts, text samples, marked text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gpt2.report.markup import caption, escape
from gpt2.report.numbers import is_number, readable

MARK_LEVELS = 5


class Block(Protocol):
    """Anything that a section can contain."""

    def html(self, name: str) -> str:
        """The block as HTML; `name` is unique in the page, for what needs an id."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A headed part of a page.

    Attributes:
        title: the heading; sections of a page need not have different ones.
        blocks: its content, in order; a string is a paragraph (parts in `backticks` are code).
    """

    title: str
    blocks: Sequence["str | Block"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under named columns; numbers are formatted for reading and right-aligned.

    Attributes:
        columns: their names.
        rows: cells, as many as columns; None is shown as a dash.
        caption: says what the table is.
        strong_rows: indices of rows to emphasise.
        decimals: of every fraction, to compare them down a column; None: four significant digits.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    strong_rows: Sequence[int] = ()
    decimals: int | None = None

    def html(self, name: str) -> str:
        """The table."""
        assert all(len(row) == len(self.columns) for row in self.rows), "every row has a cell for every column"
        numeric = [
            any(is_number(row[i]) for row in self.rows)
            and all(row[i] is None or is_number(row[i]) for row in self.rows)
            for i in range(len(self.columns))
        ]
        kinds = [' class="n"' if n else "" for n in numeric]
        head = "".join(f'<th scope="col"{k}>{escape(c)}</th>' for c, k in zip(self.columns, kinds, strict=True))
        label = escape(self.caption or "a table")
        opened = f'<div class="scroll" tabindex="0" role="group" aria-label="{label}">'  # scrollable by keyboard
        lines = [f"{opened}<table>{caption(self.caption, 'caption')}<thead><tr>{head}</tr></thead><tbody>"]
        for i, row in enumerate(self.rows):
            first, *others = zip(row, kinds, strict=True)
            cells = f'<th scope="row"{first[1]}>{escape(self._cell(first[0]))}</th>'
            cells += "".join(f"<td{k}>{escape(self._cell(value))}</td>" for value, k in others)
            lines.append(f"<tr{' class=strong' if i in self.strong_rows else ''}>{cells}</tr>")
        return "\n".join([*lines, "</tbody></table></div>"])

    def _cell(self, value: object) -> str:
        if self.decimals is not None and isinstance(value, float) and math.isfinite(value):
            return f"{value:,.{self.decimals}f}".replace("-", "−")
        return readable(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A row of tiles with the most important facts.

    Attributes:
        values: name and value; numbers are formatted for reading.
    """

    values: Mapping[str, object]

    def html(self, name: str) -> str:
        """The tiles, as a list of terms."""
        tiles = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(readable(value))}</dd></div>"
            for name, value in self.values.items()
        )
        return f'<dl class="facts">{tiles}</dl>'


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A text that a model wrote.

    Attributes:
        text: its text, with line breaks.
        prompt: that it continues; shown apart from it.
        caption: such as the step it was written at.
    """

    text: str
    prompt: str = ""
    caption: str = ""

    def html(self, name: str) -> str:
        """The sample."""
        prompt = f"<b>{escape(self.prompt)}</b>" if self.prompt else ""
        return f"<figure>{caption(self.caption)}<blockquote>{prompt}{escape(self.text)}</blockquote></figure>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A stretch of a marked text.

    Attributes:
        text: its text.
        level: 0 (not marked) to 4 (most).
        note: shown under the pointer.
    """

    text: str
    level: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        assert 0 <= self.level < MARK_LEVELS


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A text whose pieces are shaded by a level: ranks, log-probabilities, copied passages.

    Attributes:
        pieces: of the text, in order.
        legend: what each level means, in order; shown with the shades.
        caption: says what the text is.
    """

    pieces: Sequence[Piece]
    legend: Sequence[str] = field(default=())
    caption: str = ""

    def html(self, name: str) -> str:
        """The text with its shades, and their legend."""
        pieces = "".join(
            f'<mark class="m{p.level}" title="{escape(p.note)}">{escape(p.text)}</mark>'
            if p.level or p.note
            else escape(p.text)
            for p in self.pieces
        )
        legend = "".join(f'<li><mark class="m{i}">{escape(t)}</mark></li>' for i, t in enumerate(self.legend))
        below = f'<ul class="legend">{legend}</ul>' if legend else ""
        return f"<figure>{caption(self.caption)}<blockquote>{pieces}</blockquote>{below}</figure>"
