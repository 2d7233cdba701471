"""Text as Markdown and YAML: escaped, so that no name or text of a model can become part of the document."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from gpt2.report.numbers import readable

# CommonMark's and its usual extensions'; `:` and `@` make links. Round brackets mean something only after square ones.
_MARKS = re.compile(r"[\\`*_{}\[\]<>#|&~:@$!]")
_LONGEST_NAME = 200
# What may stay in a sample: line ends and tabs, but no other control, no direction mark, no half surrogate pair.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def line(value: object) -> str:
    """A name or number inside a line: one line, at most 200 characters, and none of it read as Markdown or HTML."""
    return _MARKS.sub(r"\\\g<0>", _printable(readable(value))).replace("www.", "www\\.")


def quoted(text: str) -> str:
    """A string of YAML, always in double quotes: YAML's are JSON's for printable text."""
    return json.dumps(_printable(text), ensure_ascii=False)


def verbatim(text: str) -> str:
    """A text exactly as it is, in a fence that it cannot close; what cannot be seen is shown as its code."""
    shown = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: int = 1) -> str:
    """A table; all columns from the one numbered `right` on end at their right edge."""
    rule = ["---:" if at >= right else "---" for at in range(len(columns))]
    lines = [map(line, columns), rule, *(map(line, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def facts(values: Mapping[str, object]) -> str:
    """A list of what is known, one line each."""
    return "\n".join(f"- {name}: {line(value)}" for name, value in values.items())


def _printable(text: str) -> str:
    kept = "".join(character if character.isprintable() else " " for character in text[: 2 * _LONGEST_NAME])
    kept = " ".join(kept.split())
    return kept if len(kept) <= _LONGEST_NAME else kept[: _LONGEST_NAME - 1] + "…"
