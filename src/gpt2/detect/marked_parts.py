"""A mark in a long text: of the whole, and of its parts, for a marked passage in a long text is diluted by the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt2.detect.green import GreenMark
from gpt2.detect.watermark import Mark
from gpt2.detect.windows import character_offsets, holm, windows
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedPart:
    """A stretch of a text.

    Attributes:
        start, end: characters of it.
        mark: of its tokens alone.
        is_marked: in the light of all parts (Holm's correction).
    """

    start: int
    end: int
    mark: Mark | GreenMark
    is_marked: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What a key says of a text.

    Attributes:
        whole: of all its tokens.
        parts: in order; none where the text is short.
        p_value: of "it owes nothing to this key": twice the smaller of the whole's and of Bonferroni's over the parts.
        is_marked: whether that is at most the rate asked for.
    """

    whole: Mark | GreenMark
    parts: tuple[MarkedPart, ...]
    p_value: float
    is_marked: bool


def read_marks(
    text: str,
    *,
    tokenizer: Tokenizer,
    read: Callable[[Sequence[int]], Mark | GreenMark],
    rate: float,
    window: int = 200,
) -> Marks:
    """Read the mark of a text, and of its parts where it has more tokens than two windows.

    Args:
        text: as it stands.
        tokenizer: of the model that may have written it.
        read: `read_mark` or `read_green` with its key.
        rate: how often text without the mark may be called marked.
        window: tokens of a part.
    """
    ids = tokenizer.encode(text)
    whole = read(ids)
    if len(ids) <= 2 * window:
        return Marks(whole=whole, parts=(), p_value=whole.p_value, is_marked=whole.p_value <= rate)
    spans = windows(len(ids), window)
    offsets = character_offsets(tokenizer, ids, text, [end for _, end in spans])
    marks = [read(ids[start:end]) for start, end in spans]
    told = holm([mark.p_value for mark in marks], rate / 2)
    p_value = min(1.0, 2 * min(whole.p_value, len(marks) * min(mark.p_value for mark in marks)))
    return Marks(
        whole=whole,
        parts=tuple(
            MarkedPart(start=start, end=end, mark=mark, is_marked=is_marked)
            for start, end, mark, is_marked in zip([0, *offsets[:-1]], offsets, marks, told, strict=True)
        ),
        p_value=p_value,
        is_marked=p_value <= rate,
    )
