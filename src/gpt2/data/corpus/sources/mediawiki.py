"""MediaWiki dumps (`pages-articles.xml`, plain or compressed): the articles, their markup taken off."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.corpus.sources.stretches import Stretches
from gpt2.errors import MissingExtraError

_MAX_ARTICLE_CHARACTERS = 4 << 20
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_TABLES_IN_TABLES = 5
_ASIDE = frozenset(("file", "image", "category"))  # in every wiki, beside its own words for them
_MEDIA = re.compile(r"^(?:thumb|thumbnail|left|right|center|\d+px|upright[^|\n]*)\|.*$", re.MULTILINE)
_CATEGORY = re.compile(r"^[^\S\n]*(?:Category|File|Image):.*$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n\s*\n\s*")


def read_mediawiki(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """Every article (namespace 0, no redirect); what stands before a fault in the file is kept."""
    try:
        import mwparserfromhell  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of(f"{path} cannot be read", package="mwparserfromhell", extra="corpus") from error
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
                plain = plain_text(text, mwparserfromhell, aside)
                if plain:
                    address = f"{base.rsplit('/', 1)[0]}/{quote(title.replace(' ', '_'))}" if base else ""
                    yield Page(where=f", article {number}", text=plain, address=address)
        except (ElementTree.ParseError, UnicodeDecodeError) as error:
            why = f"the dump cannot be read further ({broken[0].why if broken else error})"
            broken = [Damage(file=str(path), offset=source.offset, why=why)]
    for one in broken:
        on_damage(one)


def _articles(source: Any) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """Title and markup of each article, the wiki's base, and what it calls its namespaces of files and categories."""
    base = ""
    aside = _ASIDE
    root: Any = None
    for event, element in ElementTree.iterparse(source, ("start", "end")):
        if root is None:
            root = element
        if event == "start":
            continue
        name = element.tag.rsplit("}", 1)[-1]
        if name == "base":
            base = element.text or ""
        elif name == "namespace" and element.get("key") in ("6", "14"):
            aside |= {(element.text or "").lower()}
        elif name == "page":
            found = {child.tag.rsplit("}", 1)[-1]: child for child in element.iter()}
            if "redirect" not in found and found.get("ns") is not None and found["ns"].text == "0":
                text = found.get("text")
                yield (
                    found["title"].text or "" if "title" in found else "",
                    (text.text or "") if text is not None else "",
                    base,
                    aside,
                )
            root.clear()  # so that memory does not grow with the dump


def plain_text(markup: str, parser: Any, aside: frozenset[str] = _ASIDE) -> str:
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
    left_out = code.filter_tags(matches=lambda node: str(node.tag).lower() in ("ref", "gallery", "math", "timeline"))
    left_out += code.filter_wikilinks(matches=lambda node: _namespace(str(node.title)) in aside)
    for node in left_out:
        try:
            code.remove(node)
        except ValueError:  # it was inside one that is gone
            continue
    text = code.strip_code(normalize=True, collapse=True)
    text = _CATEGORY.sub("", _MEDIA.sub("", text)).replace("'''", "").replace("''", "")
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _namespace(title: str) -> str:
    name, colon, _ = title.partition(":")
    return name.strip().lower() if colon else ""
