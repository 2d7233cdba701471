"""A scored text as HTML, for a notebook or a file: the less expected a token, the darker its background."""

import html
import math
import re
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.generation.scoring import Score

MOST_TOKENS = 2_000  # a longer text is cut after these

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_TEXT = "white-space:pre-wrap;unicode-bidi:plaintext;text-align:start"  # each line runs as its script does
# GLTR's classes (Gehrmann et al. 2019): ranks below 10, 100, 1,000, and the rest, each with its darkness
_CLASSES = ((10, 0.0), (100, 0.2), (1_000, 0.45), (math.inf, 0.75))


def coloured(score: "Score") -> str:
    """The text of a score, with the rank and probability of each token where the pointer rests.

    Tokens that are one character together are one, on the ground of the least expected.
    """
    spans: list[str] = []
    depth = 0.0
    notes: list[str] = []  # both of the tokens whose text is not whole yet: a character may be several tokens
    rows = zip(score.completed, score.ranks, score.logprobs, strict=True)
    for text, rank, logprob in islice(rows, MOST_TOKENS):
        if rank is not None and logprob is not None:
            depth = max(depth, next(depth for below, depth in _CLASSES if rank < below))
            notes.append(f"rank {rank:,}, probability {math.exp(logprob):.2g}")
        if text and notes:
            spans.append(
                f'<span style="background:rgba(214,120,20,{depth})" title="{"; ".join(notes)}">{shown(text)}</span>'
            )
            depth, notes = 0.0, []
        else:
            spans.append(shown(text))
    left = len(score.pieces) - MOST_TOKENS
    more = f" … and {left:,} tokens more" if left > 0 else ""
    return (
        f'<p style="{_TEXT}">{"".join(spans).replace("⏎", "⏎<br>")}{more}</p>'
        f"<p>perplexity {score.perplexity:,.1f} a token; no ground: among the model's first 10 guesses; "
        "light, darker, darkest: first 100, first 1,000, beyond</p>"
    )


def shown(text: str) -> str:
    """Escape text for HTML: line ends and tabs become symbols, control and text-direction characters U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", text).replace("\n", "⏎").replace("\t", "⇥"))
