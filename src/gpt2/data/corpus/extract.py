"""The main text of a page: a cheap reading of all its words first, the real extraction only for pages that survive.

The reading is resiliparse's, about a millisecond a page. The extraction is trafilatura's fast mode, run once. Its full
mode replaces it if the fast result is very short, or differs much in length from that of a second, cheaper extractor
(resiliparse's); or if it is short, most of its lines are not sentences (teasers, lists), and the full mode leaves some
of it out. This has the full mode's quality at little more than the fast mode's cost.
"""

import functools
import re
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from gpt2.data.corpus.charset import decode_page
from gpt2.data.corpus.confined import TOO_COSTLY, confined
from gpt2.data.corpus.page import Dropped, Page, Step
from gpt2.errors import MissingExtraError

MAX_HTML_BYTES = 4 << 20
MAX_TAGS = 60_000  # with more, above all nested ones, a parser takes minutes or the whole stack
MAX_DEPTH = 2_000
_SHORT_CHARACTERS = 500
_DOUBTFUL_CHARACTERS = 2500  # in shorter results some lines should be sentences
_LEAST_SENTENCES = 0.3  # share of lines
_SENTENCE_ENDS = (*".!?…:;。！？", '"', "'", "”", "’", ")", "»")
_LEAST, _MOST = 0.7, 1.5  # ratio of the two extractions' lengths; outside it they disagree
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "li", "link", "meta", "p", "source", "td", "th", "tr"]
)
_CLOSED = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)(\w[\w:.-]*+)([^<>]*)/>"
)
_SPACES = re.compile(r"[ \t\r\f\v\u00a0]+")
_BREAKS = re.compile(r"(?<!\s)\s*\n\s*")  # tried once per run of white space, not at each place in it


def require_extractors() -> None:
    """Check that the packages for reading pages are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for name in ("trafilatura", "lxml_html_clean", "resiliparse"):
        if find_spec(name) is None:
            raise MissingExtraError.of("Web pages cannot be read", package=name, extra="corpus")


def as_html(xhtml: str) -> str:
    """XHTML for an HTML parser, to which `<title/>` opens a title that contains all that follows."""
    return _CLOSED.sub(r"<\1\2></\1>", xhtml)


def decode_html(page: Page) -> Page | Dropped:
    """Decode a page into `text`, still as HTML; drop a page that is too large or too deep."""
    if page.html is None:
        return page
    if len(page.html) > MAX_HTML_BYTES:
        return Dropped(page=page, reason="html.too_large", detail=f"{len(page.html):,} > {MAX_HTML_BYTES:,} bytes")
    text, charset = decode_page(page.html, page.charset)
    text = text.replace("\0", "")
    if text.startswith("<?xml"):
        text = as_html(text)
    tags = text.count("<")
    if tags > MAX_TAGS:
        return Dropped(page=page, reason="html.too_many_tags", detail=f"{tags:,} > {MAX_TAGS:,}")
    if tags > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        return Dropped(page=page, reason="html.too_deep", detail=f"{depth:,} > {MAX_DEPTH:,} open tags")
    return replace(page, text=text).measured(charset=charset)


def _depth(html: str) -> int:
    """About how deep the tags are nested, estimated from opening and closing tags."""
    depth = most = 0
    for closing, name in _TAG.findall(html):
        if name.lower() in _VOID:
            continue
        depth += -1 if closing else 1
        depth = max(depth, 0)
        most = max(most, depth)
    return most


def skim(html: str) -> str:
    """All words of a page, navigation included, in about a millisecond."""
    return _plain_text(html, main_content=False)


def _plain_text(html: str, *, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    return extract_plain_text(_parse(html), main_content=main_content, alt_texts=False, links=False, noscript=False)


@functools.lru_cache(maxsize=1)  # a page is skimmed, and then extracted
def _parse(html: str) -> Any:
    from resiliparse.parse.html import HTMLTree  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    return HTMLTree.parse(html)


@functools.cache
def _options(*, fast: bool) -> Any:
    """trafilatura's settings; made once, since reading its configuration takes as long as parsing a small page."""
    from trafilatura.settings import Extractor  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    options = Extractor(fast=fast, comments=False)
    if fast:
        # In its "balanced" focus it measures the whole page to retry short results, which costs a quarter of the time.
        # Any other focus prevents that; here the full mode follows a doubtful result.
        options.focus = "once"
    return options


def extract_text(html: str) -> str:
    """The main text of a page; empty if none is found."""
    import trafilatura  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    text = trafilatura.extract(html, options=_options(fast=True)) or ""
    if len(text) < _SHORT_CHARACTERS:
        return _in_full(html)
    other = _plain_text(html, main_content=True)
    if not _LEAST * len(other) <= len(text) <= _MOST * len(other):
        return _in_full(html)
    if len(text) < _DOUBTFUL_CHARACTERS and _share_of_sentences(text) < _LEAST_SENTENCES:
        full = _in_full(html)
        return full if 0 < len(full) < len(text) else text
    return text


def _in_full(html: str) -> str:
    import trafilatura  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    return trafilatura.extract(html, options=_options(fast=False)) or ""


def _share_of_sentences(text: str) -> float:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return sum(line.endswith(_SENTENCE_ENDS) for line in lines) / max(1, len(lines))


def extract_main(page: Page) -> Page | Dropped:
    """Replace HTML by its main text."""
    if page.html is None:
        return page
    text = confined(extract_text, page.text)
    if text is None:
        return Dropped(page=page, reason="html.too_costly", detail=TOO_COSTLY)
    text = tidy(text)
    if not text:
        return Dropped(page=page, reason="extraction.nothing_found")
    return replace(page, text=text, html=None)


def tidy(text: str) -> str:
    """A text without empty lines or white space at the ends of lines."""
    return _BREAKS.sub("\n", _SPACES.sub(" ", text)).strip()


def skim_gate(*, least_characters: int, is_wanted: Step) -> Step:
    """Before the costly extraction, drop a page with too few words in all, or in no wanted language."""

    def gate(page: Page) -> Page | Dropped:
        if page.html is None:
            return page
        words = confined(skim, page.text)
        if words is None:
            return Dropped(page=page, reason="html.too_costly", detail=TOO_COSTLY)
        if len(words) < least_characters:
            return Dropped(
                page=replace(page, text=words), reason="skim.too_short", detail=f"{len(words)} < {least_characters}"
            )
        verdict = is_wanted(replace(page, text=words, html=None))
        if isinstance(verdict, Dropped):
            return replace(verdict, reason=f"skim.{verdict.reason}")
        return page

    return gate
