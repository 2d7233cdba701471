"""A scored text as HTML, each token on the darker ground the less the model expected it: for a notebook or a file."""

import html
import math
import re
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.generation.scoring import Score

MOST_TOKENS = 2_000  # that are shown of a longer text: its first

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# GLTR's classes (Gehrmann et al. 2019): the likeliest 10, 100, 1,000, and the rest; how dark each is
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
        f'<p style="white-space:pre-wrap">{"".join(spans).replace("⏎", "⏎<br>")}{more}</p>'
        f"<p>perplexity {score.perplexity:,.1f} a token; no ground: among the model's first 10 guesses; "
        "light, darker, darkest: first 100, first 1,000, beyond</p>"
    )


def shown(text: str) -> str:
    """Text for HTML: a line end or tab as a sign, what steers a terminal or the direction of writing as U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", text).replace("\n", "⏎").replace("\t", "⇥"))
