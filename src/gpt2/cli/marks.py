"""`gpt2 detect --watermark`: what a key says of texts, as a sentence or as JSON."""

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpt2.cli import output

if TYPE_CHECKING:
    from gpt2.detect import Mark
    from gpt2.generation import ContextNoise
    from gpt2.tokenizer import Tokenizer


def write_marks(
    texts: Iterable[tuple[str | None, str]],
    noise: "ContextNoise",
    tokenizer: "Tokenizer",
    *,
    rate: float,
    as_json: bool,
) -> None:
    """Read the mark of each (name, text) and write what was found.

    Args:
        texts: names (None for text that has none) and texts.
        noise: of the key.
        tokenizer: of the model that may have written them.
        rate: how often unmarked text may be called marked.
        as_json: an object a line instead of a sentence.
    """
    from gpt2.detect import normalise, read_mark

    for where, text in texts:
        plain, n_normalised = normalise(text)
        mark = read_mark(tokenizer.encode(plain), noise)
        is_marked = mark.p_value <= rate
        if as_json:
            facts = {"file": where, "marked": is_marked, "p_value": mark.p_value, "false_positive_rate": rate}
            output.write_json(facts | dataclasses.asdict(mark) | {"n_normalised": n_normalised})
            continue
        output.write(f"{where}: " if where else "")
        output.write(_sentence(mark, noise.width, is_marked=is_marked) + "\n")
        if n_normalised:
            output.write(f"{n_normalised:,} look-alike or invisible characters were put back before reading.\n")


def _sentence(mark: "Mark", width: int, *, is_marked: bool) -> str:
    if not mark.n_scored:
        return f"no mark: the text is too short to carry one ({mark.n_tokens} of at least {width + 1} tokens)."
    n = f"{mark.n_scored:,}"
    found = "marked with this key" if is_marked else "no mark of this key found"
    return f"{found} ({_p_value(mark)}): score {mark.score:.1f} over {n} tokens; about {n} without a mark."


def _p_value(mark: "Mark") -> str:
    """Of three digits; of a p-value too small for a float the power of ten."""
    if mark.p_value > 1e-300:
        return f"p = {mark.p_value:.3g}"
    return f"p < 1e{math.ceil(mark.log_p_value / math.log(10))}"
