"""EPUB books: their chapters in reading order, as one document."""

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from gpt2.data.corpus.charset import decode_page
from gpt2.data.corpus.confined import TOO_COSTLY, confined
from gpt2.data.corpus.extract import as_html, tidy
from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.errors import MissingExtraError

_MAX_BOOK_BYTES = 64 << 20
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    ElementTree.ParseError,
    NotImplementedError,
    RuntimeError,
    EOFError,
)


def read_epub(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """A book as a document; a chapter that cannot be read is reported and left out."""
    if find_spec("resiliparse") is None:
        raise MissingExtraError.of(f"{path} cannot be read", package="resiliparse", extra="corpus")
    on_read(path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as book:
            room = _MAX_BOOK_BYTES
            licence, names = _reading_order(book)
            locked = _encrypted(book).intersection(names)
            if locked:
                why = f"{len(locked):,} of {len(names):,} chapters are encrypted"
                on_damage(Damage(file=str(path), offset=0, why=why))
            chapters: list[str] = []
            for name in names:
                if name in locked:
                    continue
                try:
                    with book.open(name) as file:
                        data = file.read(room + 1)
                except _BROKEN as error:
                    on_damage(Damage(file=str(path), offset=0, why=f"the chapter {name} cannot be read ({error})"))
                    continue
                room -= len(data)
                if room < 0:
                    on_damage(
                        Damage(file=str(path), offset=0, why=f"the book is larger than {_MAX_BOOK_BYTES:,} bytes")
                    )
                    return
                chapter = confined(chapter_text, decode_page(data)[0])
                if chapter is None:
                    why = f"the chapter {name} is left out: {TOO_COSTLY}"
                    on_damage(Damage(file=str(path), offset=0, why=why))
                chapters.append(chapter or "")
    except (*_BROKEN, StopIteration, ValueError) as error:
        on_damage(Damage(file=str(path), offset=0, why=f"the book is broken ({error})"))
        return
    yield Page(where="", text="\n\n".join(filter(None, chapters)), licence=licence)


def chapter_text(xhtml: str) -> str:
    """All words of a chapter."""
    from resiliparse.extract.html2text import (  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
        extract_plain_text,
    )

    return tidy(extract_plain_text(as_html(xhtml), main_content=False, alt_texts=False))


def _reading_order(book: zipfile.ZipFile) -> tuple[str, list[str]]:
    """The book's statement of rights, and the names of its chapters in reading order."""
    container = ElementTree.fromstring(_head(book, "META-INF/container.xml"))
    root = next(one.attrib["full-path"] for one in container.iter() if one.tag.endswith("}rootfile"))
    package = ElementTree.fromstring(_head(book, root))
    items = {one.attrib["id"]: one.attrib for one in package.iter() if one.tag.endswith("}item")}
    folder = posixpath.dirname(root)
    names = [
        posixpath.normpath(posixpath.join(folder, unquote(items[one.attrib["idref"]]["href"])))
        for one in package.iter()
        if one.tag.endswith("}itemref") and one.attrib.get("idref") in items
    ]
    rights = next((one.text or "" for one in package.iter() if one.tag.endswith("}rights")), "")
    return rights.strip(), names


def _encrypted(book: zipfile.ZipFile) -> set[str]:
    """The names of encrypted files, as in books with copy protection."""
    try:
        listed = ElementTree.fromstring(_head(book, "META-INF/encryption.xml"))
    except KeyError:
        return set()
    references = (one.attrib.get("URI", "") for one in listed.iter() if one.tag.endswith("}CipherReference"))
    return {posixpath.normpath(unquote(reference)) for reference in references}


def _head(book: zipfile.ZipFile, name: str) -> bytes:
    with book.open(name) as file:
        return file.read(4 << 20)
