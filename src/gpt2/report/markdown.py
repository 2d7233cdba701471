"""Text as Markdown and YAML: escaped, so that no name or text of a model can become markup."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from gpt2.report.numbers import readable

# Of CommonMark and its usual extensions; `:` and `@` make links. Parentheses have a meaning only after square brackets.
_MARKS = re.compile(r"[\\`*_{}\[\]<>#|&~:@$!]")
_LONGEST_NAME = 200
# Characters not shown in a sample: controls other than line ends and tabs, direction marks, lone surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def line(value: object) -> str:
    """A name or number for use inside a line: at most 200 characters, with Markdown and HTML escaped."""
    return _MARKS.sub(r"\\\g<0>", _printable(readable(value))).replace("www.", "www\\.")


def quoted(text: str) -> str:
    """A YAML string in double quotes, which for printable text equals JSON's."""
    return json.dumps(_printable(text), ensure_ascii=False)


def verbatim(text: str) -> str:
    """A text unchanged, in a fence that it cannot close; invisible characters are shown as their codes."""
    shown = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: int = 1) -> str:
    """A table; the columns from index `right` on are right-aligned."""
    rule = ["---:" if at >= right else "---" for at in range(len(columns))]
    lines = [map(line, columns), rule, *(map(line, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def facts(values: Mapping[str, object]) -> str:
    """A list of facts, one line each."""
    return "\n".join(f"- {name}: {line(value)}" for name, value in values.items())


def _printable(text: str) -> str:
    kept = "".join(character if character.isprintable() else " " for character in text[: 2 * _LONGEST_NAME])
    kept = " ".join(kept.split())
    return kept if len(kept) <= _LONGEST_NAME else kept[: _LONGEST_NAME - 1] + "…"
