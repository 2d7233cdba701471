"""Reads the mark of a long text as a whole and by parts, since the rest of the text dilutes a marked passage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2.detect.green import GreenMark
from gpt2.detect.watermark import Mark
from gpt2.detect.windows import character_offsets, holm, windows
from gpt2.tokenizer import Tokenizer

MarkVerdict = Literal["marked", "possibly marked", "no mark found"]

CLEAR_RATE = 1e-4  # weaker evidence occurs in any large set of unmarked texts, and is called possible


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedPart:
    """A stretch of a text.

    Attributes:
        start, end: characters of the text.
        mark: of this part's tokens alone.
        is_marked: after Holm's correction over all parts.
        verdict: the same in words, by strength.
    """

    start: int
    end: int
    mark: Mark | GreenMark
    is_marked: bool
    verdict: MarkVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The evidence for a key in a text.

    Attributes:
        whole: over all its tokens.
        parts: in order; empty for a short text.
        p_value: of "the text does not depend on this key": for a text with parts, twice the smaller of the whole's
            and of Bonferroni's over the parts.
        is_marked: whether that is at most the requested rate.
        verdict: the same in words: marked if it is also at most 1 in 10,000, else possibly marked.
    """

    whole: Mark | GreenMark
    parts: tuple[MarkedPart, ...]
    p_value: float
    is_marked: bool
    verdict: MarkVerdict


def read_marks(
    text: str,
    *,
    tokenizer: Tokenizer,
    read: Callable[[Sequence[int]], Mark | GreenMark],
    rate: float,
    window: int = 200,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Marks:
    """Read the mark of a text, and of its parts if it is longer than two windows.

    Args:
        text: unchanged.
        tokenizer: of the model that may have written it.
        read: `read_mark` or `read_green` with its key.
        rate: false-positive rate for text without the mark.
        window: tokens of a part.
        progress: called with the number of parts of a long text read and the total.
    """
    ids = tokenizer.encode(text)
    whole = read(ids)
    clear = min(rate, CLEAR_RATE)

    def summed_up(parts: tuple[MarkedPart, ...], p_value: float) -> Marks:
        verdict = _verdict(is_marked=p_value <= rate, is_clear=p_value <= clear)
        return Marks(whole=whole, parts=parts, p_value=p_value, is_marked=p_value <= rate, verdict=verdict)

    if len(ids) <= 2 * window:
        return summed_up((), whole.p_value)
    spans = windows(len(ids), window)
    offsets = character_offsets(tokenizer, ids, text, [end for _, end in spans])
    marks = list[Mark | GreenMark]()
    for start, end in spans:
        marks.append(read(ids[start:end]))
        progress(len(marks), len(spans))
    p_values = [mark.p_value for mark in marks]
    told, clearly = holm(p_values, rate / 2), holm(p_values, clear / 2)
    parts = tuple(
        MarkedPart(
            start=start,
            end=end,
            mark=mark,
            is_marked=is_marked,
            verdict=_verdict(is_marked=is_marked, is_clear=is_clear),
        )
        for start, end, mark, is_marked, is_clear in zip([0, *offsets[:-1]], offsets, marks, told, clearly, strict=True)
    )
    return summed_up(parts, min(1.0, 2 * min(whole.p_value, len(marks) * min(p_values))))


def _verdict(*, is_marked: bool, is_clear: bool) -> MarkVerdict:
    return "marked" if is_clear else "possibly marked" if is_marked else "no mark found"
