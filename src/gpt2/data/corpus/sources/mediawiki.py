"""MediaWiki dumps (`pages-articles.xml`, plain or compressed): the articles, their markup taken off."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.etree import ElementTree

from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.errors import MissingExtraError

_MAX_ARTICLE_CHARACTERS = 4 << 20
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_TABLES_IN_TABLES = 5
_MEDIA = re.compile(r"^(?:thumb|thumbnail|left|right|center|\d+px|upright[^|\n]*)\|.*$", re.MULTILINE)
_CATEGORY = re.compile(r"^[^\S\n]*(?:Category|File|Image):.*$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n\s*\n\s*")


class _Counting:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], on_read: OnRead) -> None:
        self._file, self._on_read = file, on_read

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._on_read(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def read_mediawiki(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """Every article (namespace 0, no redirect); what stands before a fault in the file is kept."""
    try:
        import mwparserfromhell  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of(f"{path} cannot be read", package="mwparserfromhell", extra="corpus") from error
    opened = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}.get(path.suffix)
    number = 0
    with path.open("rb") as file:
        source: Any = _Counting(file, on_read)
        try:
            base = ""
            for title, text, base in _articles(opened(source, "rb") if opened else source):
                number += 1
                if len(text) > _MAX_ARTICLE_CHARACTERS:
                    on_damage(Damage(file=str(path), offset=file.tell(), why=f"the article {title!r} is too long"))
                    continue
                plain = plain_text(text, mwparserfromhell)
                if plain:
                    address = f"{base.rsplit('/', 1)[0]}/{quote(title.replace(' ', '_'))}" if base else ""
                    yield Page(where=f", article {number}", text=plain, address=address)
        except (ElementTree.ParseError, EOFError, zlib.error, lzma.LZMAError, OSError, UnicodeDecodeError) as error:
            on_damage(Damage(file=str(path), offset=file.tell(), why=f"the dump cannot be read further ({error})"))


def _articles(source: Any) -> Iterator[tuple[str, str, str]]:
    base = ""
    root: Any = None
    for event, element in ElementTree.iterparse(source, ("start", "end")):
        if root is None:
            root = element
        if event == "start":
            continue
        name = element.tag.rsplit("}", 1)[-1]
        if name == "base":
            base = element.text or ""
        elif name == "page":
            found = {child.tag.rsplit("}", 1)[-1]: child for child in element.iter()}
            if "redirect" not in found and found.get("ns") is not None and found["ns"].text == "0":
                text = found.get("text")
                yield (
                    found["title"].text or "" if "title" in found else "",
                    (text.text or "") if text is not None else "",
                    base,
                )
            root.clear()  # so that memory does not grow with the dump


def plain_text(markup: str, parser: Any) -> str:
    """An article's words: templates, tables, references, files and categories left out."""
    for _ in range(_TABLES_IN_TABLES):
        markup, replaced = _TABLE.subn("", markup)
        if not replaced:
            break
    code = parser.parse(markup, skip_style_tags=True)
    for tag in code.filter_tags(matches=lambda node: str(node.tag).lower() in ("ref", "gallery", "math", "timeline")):
        try:
            code.remove(tag)
        except ValueError:  # it was inside one that is gone
            continue
    text = code.strip_code(normalize=True, collapse=True)
    text = _CATEGORY.sub("", _MEDIA.sub("", text)).replace("'''", "").replace("''", "")
    return _EMPTY_LINES.sub("\n\n", text).strip()
