"""Pages from web archives and from HTML files."""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.archives import Record, read_archive
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.corpus.sources.stretches import read_whole

_HTML = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")
_CHARSET = re.compile(r"charset\s*=\s*(?:[\"']\s*)?([\w.:-]+)", re.IGNORECASE)
_MAX_FILE_BYTES = 64 << 20


def charset_of(content_type: str) -> str:
    """The charset that a Content-Type names; may be empty."""
    found = _CHARSET.search(content_type)
    return found[1] if found else ""


def read_archive_pages(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """The pages of a WARC or ARC, and the texts of a WET; other records are skipped."""
    for number, record in enumerate(read_archive(path, on_damage=on_damage, on_read=on_read), start=1):
        page = _page(record, f", record {number}")
        if page is None:
            continue
        if record.message.whole:
            yield page
        else:
            why = f"the page {record.uri} is larger than 64 MiB, or packed in a way that is not known"
            on_damage(Damage(file=str(path), offset=record.offset, why=why))


def _page(record: Record, where: str) -> Page | None:
    kind = record.content_type.split(";")[0].strip().lower()
    address = record.uri if record.uri.lower().startswith(("http://", "https://")) else ""
    if record.kind == "conversion" and kind == "text/plain":
        text = record.message.body.decode("utf-8", "replace")
        return Page(where=where, text=text, address=address, is_web=True)
    if record.kind not in ("response", "resource") or record.message.status not in ("", "200"):
        return None
    if not record.message.body:
        return None
    if kind in _HTML or (not kind and record.message.body.lstrip()[:1] == b"<"):
        return Page(
            where=where,
            html=record.message.body,
            charset=charset_of(record.content_type),
            address=address,
            is_web=True,
        )
    return None


def read_html(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """An HTML file as a page."""
    data = read_whole(path, _MAX_FILE_BYTES, on_damage, on_read)
    if data is not None:
        yield Page(where="", html=data, is_web=True)
