"""MediaWiki dumps (`pages-articles.xml`, plain or compressed): the articles, their markup taken off."""

import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.parsers import expat

from gpt2.data.corpus.confined import TOO_COSTLY, confined
from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.corpus.sources.stretches import Stretches
from gpt2.errors import MissingExtraError

_MAX_ARTICLE_CHARACTERS = 4 << 20
_MAX_PAGE_BYTES = 256 << 20  # of XML until a page or a revision ends: an archive may swell without end
_MAX_DEPTH = 100  # of elements; a dump has 5
_PIECE_BYTES = 1 << 16
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_WORDLESS = frozenset(("ref", "gallery", "math", "timeline"))
_TABLES_IN_TABLES = 5
_ASIDE = frozenset(("file", "image", "category"))  # in every wiki, beside its own words for them
_MEDIA = re.compile(r"^(?:thumb|thumbnail|left|right|center|\d+px|upright[^|\n]*)\|.*$", re.MULTILINE)
_CATEGORY = re.compile(r"^[^\S\n]*(?:Category|File|Image):.*$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n\s*\n\s*")


def read_mediawiki(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """Every article (namespace 0, no redirect); what stands before a fault in the file is kept."""
    if find_spec("mwparserfromhell") is None:
        raise MissingExtraError.of(f"{path} cannot be read", package="mwparserfromhell", extra="corpus")
    broken: list[Damage] = []
    number = 0
    with Stretches(path, broken.append, on_read) as source:
        source.next_stretch()
        try:
            for title, text, base, aside in _articles(source):
                number += 1
                if len(text) > _MAX_ARTICLE_CHARACTERS:
                    why = f"the article {title!r} is too long"
                    on_damage(Damage(file=str(path), offset=source.offset, why=why))
                    continue
                plain = confined(article_text, text, sorted(aside))
                if plain is None:
                    why = f"the article {title!r} is left out: {TOO_COSTLY}"
                    on_damage(Damage(file=str(path), offset=source.offset, why=why))
                elif plain:
                    address = f"{base.rsplit('/', 1)[0]}/{quote(title.replace(' ', '_'))}" if base else ""
                    yield Page(where=f", article {number}", text=plain, address=address)
        except (expat.ExpatError, UnicodeDecodeError) as error:
            why = f"the dump cannot be read further ({broken[0].why if broken else error})"
            broken = [Damage(file=str(path), offset=source.offset, why=why)]
    for one in broken:
        on_damage(one)


def _articles(source: Stretches) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """Title and markup of each article, the wiki's base, and what it calls its namespaces of files and categories."""
    dump = _Dump()
    while data := source.read(_PIECE_BYTES):
        try:
            dump.feed(data)
        finally:  # what stands before a fault is kept
            yield from dump.articles
            dump.articles.clear()
    dump.close()


class _Dump:
    """The XML of a dump; one revision is held, and no more of it than can be an article."""

    def __init__(self) -> None:
        self.articles: list[tuple[str, str, str, frozenset[str]]] = []
        self._base, self._aside = "", _ASIDE
        self._page: dict[str, str] = {}  # of the page that is open: what stood in its elements
        self._depth = 0
        self._text: list[str] = []  # of the element that is open
        self._n_characters = 0
        self._n_bytes = 0  # since a page or revision ended
        self._namespace = ""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def feed(self, data: bytes) -> None:
        self._n_bytes += len(data)
        if self._n_bytes > _MAX_PAGE_BYTES:
            raise expat.ExpatError(f"more than {_MAX_PAGE_BYTES:,} bytes, and no page ends")
        self._parser.Parse(data)

    def close(self) -> None:
        self._parser.Parse(b"", True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise expat.ExpatError(f"elements are nested more than {_MAX_DEPTH} deep")
        self._text, self._n_characters = [], 0
        self._namespace = attributes.get("key", "")

    def _characters(self, text: str) -> None:
        if self._n_characters <= _MAX_ARTICLE_CHARACTERS:
            self._text.append(text)
            self._n_characters += len(text)

    def _end(self, name: str) -> None:
        name = name.rsplit(":", 1)[-1]
        self._depth -= 1
        text = "".join(self._text)
        self._text, self._n_characters = [], 0
        if name == "base":
            self._base = text
        elif name == "namespace" and self._namespace in ("6", "14"):
            self._aside |= {text.lower()}
        elif name in ("title", "ns", "text", "redirect"):
            self._page[name] = text
        elif name == "revision":
            self._n_bytes = 0
        elif name == "page":
            page, self._page, self._n_bytes = self._page, {}, 0
            if "redirect" not in page and page.get("ns") == "0":
                self.articles.append((page.get("title", ""), page.get("text", ""), self._base, self._aside))


def article_text(markup: str, aside: Collection[str]) -> str:
    """`plain_text` by mwparserfromhell."""
    import mwparserfromhell  # pyright: ignore[reportMissingImports]

    return plain_text(markup, mwparserfromhell, aside)


def plain_text(markup: str, parser: Any, aside: Collection[str] = _ASIDE) -> str:
    """An article's words: templates, tables, references, files and categories left out.

    Args:
        markup: of the article.
        parser: mwparserfromhell.
        aside: what the namespaces of files and categories are called, lower-cased.
    """
    for _ in range(_TABLES_IN_TABLES):
        markup, replaced = _TABLE.subn("", markup)
        if not replaced:
            break
    code = parser.parse(markup, skip_style_tags=True)
    _leave_out(code, aside)
    text = code.strip_code(normalize=True, collapse=True)
    text = _CATEGORY.sub("", _MEDIA.sub("", text)).replace("'''", "").replace("''", "")
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _leave_out(code: Any, aside: Collection[str]) -> None:
    """Take tags that hold no words, and files and categories, out of parsed markup, however deep they are in it."""
    code.nodes = [node for node in code.nodes if not _is_aside(node, aside)]
    for node in code.nodes:
        for child in node.__children__():
            _leave_out(child, aside)


def _is_aside(node: Any, aside: Collection[str]) -> bool:
    kind = type(node).__name__
    if kind == "Tag":
        return str(node.tag).lower() in _WORDLESS
    return kind == "Wikilink" and _namespace(str(node.title)) in aside


def _namespace(title: str) -> str:
    name, colon, _ = title.partition(":")
    return name.strip().lower() if colon else ""
