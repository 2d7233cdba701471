"""`gpt2 detect --watermark`: reads a key's mark in texts, as a sentence or as JSON."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gpt2.cli import output
from gpt2.cli.status_line import StatusLine
from gpt2.cli.verdicts import put_back, told, told_size

if TYPE_CHECKING:
    from gpt2.detect import GreenMark, Mark, Marks
    from gpt2.generation import ContextNoise, GreenList
    from gpt2.tokenizer import Tokenizer


def least_tokens(noise: "ContextNoise | GreenList") -> int:
    """The fewest tokens of a text in which a mark can be read."""
    from gpt2.generation import GreenList

    return noise.ngram if isinstance(noise, GreenList) else noise.width + 1


def write_marks(
    texts: Iterable[tuple[str | None, str]],
    noise: "ContextNoise | GreenList",
    tokenizer: "Tokenizer",
    *,
    vocab_size: int,
    rate: float,
    window: int,
    as_json: bool,
) -> None:
    """Read the mark of each (name, text) and write what was found.

    Args:
        texts: pairs of a name (or None) and a text.
        noise: of the key.
        tokenizer: of the model that may have written them.
        vocab_size: of that model, which may have more ids than its tokenizer.
        rate: how often unmarked text may be called marked.
        window: tokens of a part of a long text.
        as_json: an object a line instead of a sentence.
    """
    from gpt2.detect import normalise, read_green, read_mark, read_marks
    from gpt2.generation import GreenList

    def read(ids: Sequence[int]) -> "Mark | GreenMark":
        if isinstance(noise, GreenList):
            return read_green(ids, noise, vocab_size=vocab_size)
        return read_mark(ids, noise)

    least = least_tokens(noise)
    for where, text in texts:
        with StatusLine() as line:
            line.show(partial(told_size, where, text))
            plain, n_normalised = normalise(text)
            found = read_marks(
                plain,
                tokenizer=tokenizer,
                read=read,
                rate=rate,
                window=window,
                progress=lambda done, of, where=where: line.show(lambda: told(where, done, of)),
            )
        if as_json:
            facts = {
                "file": where,
                "marked": found.is_marked,
                "verdict": found.verdict,
                "p_value": found.p_value,
                "false_positive_rate": rate,
            }
            parts = [
                {
                    "start": part.start,
                    "end": part.end,
                    "marked": part.is_marked,
                    "verdict": part.verdict,
                    "p_value": part.mark.p_value,
                }
                | dataclasses.asdict(part.mark)
                for part in found.parts
            ]
            output.write_json(facts | dataclasses.asdict(found.whole) | {"n_normalised": n_normalised, "parts": parts})
            continue
        output.write(f"{where}: " if where else "")
        output.write(_sentence(found, least) + "\n")
        for part in found.parts:
            output.write(f"  characters {part.start:,}-{part.end:,}: {part.verdict} ({_p_value(part.mark)})\n")
        if n_normalised:
            output.write(f"{put_back(n_normalised)}\n")


def _sentence(found: "Marks", least: int) -> str:
    from gpt2.detect import GreenMark

    mark = found.whole
    if not mark.n_scored:
        return f"no mark: the text is too short to carry one ({mark.n_tokens} of at least {least} tokens)."
    n = f"{mark.n_scored:,}"
    said = "no mark of this key found" if not found.is_marked else f"{found.verdict} with this key"
    p_value = f"p = {found.p_value:.3g}" if found.parts and found.p_value > 1e-300 else _p_value(mark)
    if found.verdict == "possibly marked":
        p_value += f"; one unmarked text in {round(1 / found.p_value):,} looks like this"
    if isinstance(mark, GreenMark):
        return f"{said} ({p_value}): {mark.n_green:,} of {n} tokens are green, z = {mark.z_score:.2f}."
    return f"{said} ({p_value}): score {mark.score:.1f} over {n} tokens; unmarked text scores about {n}."


def _p_value(mark: "Mark | GreenMark") -> str:
    """A p-value with three digits; as a power of ten if too small for a float."""
    if mark.p_value > 1e-300:
        return f"p = {mark.p_value:.3g}"
    return f"p < 1e{math.ceil(mark.log_p_value / math.log(10))}"
