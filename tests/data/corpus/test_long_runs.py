"""What strangers can make long: a pattern is tried once in a run, and finds what the plain one finds.

Each text is so long that work that grows with its square would last for hours.
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gpt2.data.corpus import charset, extract, quality
from gpt2.data.corpus.sources import archives, http_message, mediawiki, web

LONG = 1_000_000

# By what it is for: the pattern, and the plain one that says what is meant.
PATTERNS: dict[str, tuple[str | bytes, str | bytes]] = {
    "line breaks": (extract._BREAKS.pattern, r"\s*\n\s*"),
    "ends of sentences": (quality._SENTENCE.pattern, r"[.!?…。！？]+[\"'”’)\]]*(?=\s|$)"),
    "charset of a header": (web._CHARSET.pattern, r"charset\s*=\s*[\"']?\s*([\w.:-]+)"),
    "charset of a page": (
        charset._DECLARED.pattern,
        rb"""<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""",
    ),
    "header of an ARC": (
        archives._ARC_HEADER.pattern + rb"\Z",
        rb"(?P<uri>filedesc:\S+) .*?(?P<type>)(?P<length>\S+)\r?\n?\Z",
    ),
}
PARTS: dict[str, Sequence[str]] = {
    "line breaks": ["a", "b", " ", "\n", "\t", "\u3000", "\u2028", "\x1c", "\r\n"],
    "ends of sentences": ["a", " ", ".", "!", "…", "。", '"', "”", ")", "\n"],
    "charset of a header": ["charset", "=", " ", "\t", '"', "'", "utf-8", "x", ";"],
    "charset of a page": ["<meta ", "<?xml ", "charset", "encoding", "=", " ", '"', "'", "utf-8", ">", "\n"],
    "header of an ARC": ["filedesc:", "x", "12", " ", "  ", "\t", "\r", "\n", "\r\n"],
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_finds_what_the_plain_one_finds(name: str) -> None:
    draw, n_found = random.Random(0), 0
    for _ in range(20_000):
        text: Any = "".join(draw.choices(PARTS[name], k=draw.randrange(14)))
        text = text.encode() if isinstance(PATTERNS[name][0], bytes) else text
        ours, plain = ([(f.span(), f.groups()) for f in re.finditer(each, text)] for each in PATTERNS[name])
        assert ours == plain, text
        n_found += len(plain)
    assert n_found > 100


def test_an_article_is_what_plain_patterns_make_of_it() -> None:
    plain = re.compile(r"^\s*(?:Category|File|Image):.*$", re.MULTILINE)
    draw = random.Random(0)
    for _ in range(20_000):
        parts = ["a", " ", "\n", "\n\n", "\u3000", "\x85", "''", "Category:x", "File:", "thumb|y", "upright=1|z", "|"]
        text = "".join(draw.choices(parts, k=draw.randrange(14)))
        expected = plain.sub("", mediawiki._MEDIA.sub("", text)).replace("'''", "").replace("''", "")
        assert mediawiki.plain_text(text, Nothing) == mediawiki._EMPTY_LINES.sub("\n\n", expected).strip(), repr(text)


class Nothing:
    """A parser that takes no markup off."""

    @staticmethod
    def parse(text: str, **settings: bool) -> Any:
        class Code:
            nodes: Sequence[object] = ()

            @staticmethod
            def strip_code(**settings: bool) -> str:
                return text

        return Code


LONG_TEXTS: dict[str, tuple[Callable[[], object], object]] = {
    "wide blanks": (lambda: extract.tidy("a" + "\u3000" * LONG + "b"), "a" + "\u3000" * LONG + "b"),
    "wide blanks and an end": (lambda: extract.tidy("a" + "\u2003" * LONG + "\nb"), "a\nb"),
    "a tag without an end": (lambda: extract.as_html("<" + "a" * LONG), "<" + "a" * LONG),
    "empty lines": (lambda: mediawiki.plain_text("a" + "\n" * LONG + "b", Nothing), "a\n\nb"),
    "upright": (lambda: len(mediawiki.plain_text("upright\n" * LONG, Nothing)), 8 * LONG - 1),
    "dots": (lambda: quality._SENTENCE.findall("." * LONG + "x"), []),
    "charset of a header": (lambda: web.charset_of("charset=" + " " * LONG + "!"), ""),
    "header of an ARC": (lambda: archives._ARC_HEADER.fullmatch(b"filedesc:x " + b"a" * LONG + b" b "), None),
    "folded lines": (
        lambda: len(http_message.parse_fields([b"a: b"] + [b" " + b"c" * 99] * LONG)["a"]),
        100 * LONG + 1,
    ),
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_long_run_comes_to_an_end(name: str) -> None:
    made, expected = LONG_TEXTS[name]
    assert made() == expected


def test_folded_lines_are_joined_by_a_space() -> None:
    lines = [b" x", b"A: b\r\n", b"\t c \r\n", b"nothing", b"  d", b"E:", b" f", b"A: g", b"H:", b" "]
    assert http_message.parse_fields(lines) == {"a": "g", "e": "f", "h": ""}
    assert http_message.parse_fields(lines[:5]) == {"a": "b c d"}
