"""Splits text into sentences."""

import re
from collections.abc import Iterator
from itertools import islice

# A full stop after these does not end a sentence; the last pattern is initials, except I.
_ABBREVIATIONS = re.compile(
    r"Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Gen|Col|Capt|Lt|Sgt|Rev|Sen|Rep|Gov|vs|etc|cf|Inc|Ltd|Co|Corp|"
    r"Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec|e\.g|i\.e|a\.m|p\.m|Mme|Mlle|(?!I$)(?:[A-Z]\.)*[A-Z]"
)
_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*(?=\s|$)|\n\s*\n")  # a run of stops is tried only from its first


def sentences(text: str) -> list[str]:
    """The sentences of `text`, without surrounding white space.

    A sentence ends at . ! ? or … with any closing quotes, before white space; and at an empty line. It does not end at
    the full stop of a common abbreviation or an initial (`Dr.`, `J. R.`, `U.S.`).
    """
    found: list[str] = []
    done = 0
    for end in _ends(text):
        found.append(text[done:end].strip())
        done = end
    return [sentence for sentence in (*found, text[done:].strip()) if sentence]


def first_sentences(text: str, n: int) -> str:
    """The first `n` sentences of `text`, without surrounding white space; all of it if it has fewer."""
    text = text.strip()
    end = next(islice(_ends(text), n - 1, None), len(text))
    return text[:end].rstrip()


def _ends(text: str) -> Iterator[int]:
    after = 0  # end of the previous stop; white space follows it, so no abbreviation reaches across
    for end in _END.finditer(text):
        if end[0] != "." or not _abbreviates(text[after : end.start()]):
            yield end.end()
        if not end[0].isspace():
            after = end.end()


def _abbreviates(before: str) -> bool:
    words = before.split()[-1:]
    word = words[0].lstrip("\"'“‘«([") if words else ""
    return bool(_ABBREVIATIONS.fullmatch(word))
