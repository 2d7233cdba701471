"""Web archives: WARC (with WAT and WET) and ARC, plain or compressed, sound or damaged.

Every readable record is yielded; damage is reported by file and offset, and reading continues at the next record.
(Libraries for WARC stop at the first damage, and refuse folded fields, which the standard permits.)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt2.data.corpus.sources.damage import OnDamage, OnRead
from gpt2.data.corpus.sources.http_message import Message, parse_fields, parse_message
from gpt2.data.corpus.sources.stretches import Stretches

MAX_RECORD_BYTES = 128 << 20
_LINE_BYTES = 1 << 16
_MAX_FIELDS = 1000
_WARC_BEGINS = re.compile(rb"\n(?=WARC/[01]\.)", re.IGNORECASE)
# URL, address, date, type and length, with up to five more fields between; the URL may hold spaces.
_ARC_LINE = re.compile(
    rb"(?P<uri>[A-Za-z][A-Za-z0-9+.-]*:\S.*?) [0-9a-fA-F.:]{3,45} \d{8,18} (?:(?P<type>\S+) )?"
    rb"(?:\S+ \S+ \S+ \S+ \S+ )?(?P<length>\S+)\r?\n?"
)

_ARC_HEADER = re.compile(rb"(?P<uri>filedesc:\S+) (?:.*[^\S\n])?(?P<type>)(?P<length>\S+)\r?\n?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record.

    Attributes:
        kind: "response", "conversion" and so on, lower-cased; "arc_header" for the first record of an ARC.
        uri: of its subject, without angle brackets; may be empty.
        content_type: of the block or, in an HTTP message, of its body.
        message: the block as an HTTP message, or as a body alone.
        offset: where in the file it, or the compressed member that holds it, begins.
    """

    kind: str
    uri: str
    content_type: str
    message: Message
    offset: int


def read_archive(
    path: str | Path,
    *,
    on_damage: OnDamage = lambda damage: None,
    on_read: OnRead = lambda n_bytes: None,
) -> Iterator[Record]:
    """Every record of a file, in order.

    Raises:
        MissingExtraError: the library for this compression is not installed.
        OSError: the file cannot be read.
    """
    with Stretches(path, on_damage, on_read) as source:
        while source.next_stretch():
            while True:
                source.skip(b"\r\n")
                offset = source.offset
                line = source.readline(_LINE_BYTES)
                if not line:
                    break
                if _is_warc(line):
                    record = _warc(source, offset)
                elif found := _ARC_LINE.fullmatch(line) or _ARC_HEADER.fullmatch(line):
                    record = _arc(source, offset, found)
                else:
                    source.damage(offset, f"no record begins here, but {line[:40]!r}")
                    _seek_record(source)
                    continue
                if record:
                    yield record


def _is_warc(line: bytes) -> bool:
    return line[:5].upper() == b"WARC/"


def _seek_record(source: Stretches) -> None:
    whole_line = True
    while line := source.readline(_LINE_BYTES):
        if whole_line and (_is_warc(line) or _ARC_LINE.fullmatch(line)):
            source.unread(line)
            return
        whole_line = line.endswith(b"\n")


def _warc(source: Stretches, offset: int) -> Record | None:
    lines: list[bytes] = []
    while (line := source.readline(_LINE_BYTES)).strip(b"\r\n"):
        lines.append(line)
        if len(lines) > _MAX_FIELDS:
            source.damage(offset, f"this record has more than {_MAX_FIELDS} fields")
            _seek_record(source)
            return None
    fields = parse_fields(lines)
    kind = fields.get("warc-type", "").lower()
    uri = fields.get("warc-target-uri", "").strip("<>").replace(" ", "%20")
    block = _block(source, offset, fields.get("content-length"))
    if block is None:
        return None
    content_type = fields.get("content-type", "")
    is_http = content_type.lower().startswith("application/http") or (
        kind in ("request", "response", "revisit") and uri.lower().startswith("http")
    )
    message = parse_message(block) if is_http else Message(body=block)
    return Record(
        kind=kind,
        uri=uri,
        content_type=message.fields.get("content-type", "") if is_http else content_type,
        message=message,
        offset=offset,
    )


def _block(source: Stretches, offset: int, length: str | None) -> bytes | None:
    """The block of a WARC record; reported as too short if the next record begins inside it."""
    n_bytes = _size(length)
    if n_bytes is None:
        source.damage(offset, f"this record's Content-Length is {length!r}" if length else "this record has no length")
        n_bytes = 0
    if n_bytes > MAX_RECORD_BYTES:
        source.damage(offset, f"this record of {n_bytes:,} bytes is above the limit of {MAX_RECORD_BYTES:,}")
        while n_bytes and (data := source.read(min(n_bytes, 1 << 20))):
            n_bytes -= len(data)
        return None
    block = source.read(n_bytes)
    short = len(block) < n_bytes
    if not short:
        source.skip(b"\r\n")
        following = source.readline(5)
        source.unread(following)
        if not following or _is_warc(following):
            return block
    if found := _WARC_BEGINS.search(block):
        source.damage(offset, f"this record's Content-Length of {n_bytes:,} runs into the next record")
        source.unread(block[found.end() :])
        return block[: found.start()].rstrip(b"\r\n")
    if short:
        source.damage(offset, f"this record is cut off: {len(block):,} of {n_bytes:,} bytes are there")
    return block


def _arc(source: Stretches, offset: int, found: "re.Match[bytes]") -> Record:
    uri = found["uri"].decode("utf-8", "replace")
    is_header = uri.startswith("filedesc:")
    n_bytes = _size(found["length"].decode("latin-1"))
    if n_bytes is None or n_bytes > MAX_RECORD_BYTES:
        source.damage(offset, f"this record's length is {found['length'].decode('latin-1')!r}")
        if is_header:  # its description, up to an empty line
            while source.readline(_LINE_BYTES).strip(b"\r\n"):
                pass
        n_bytes = 0
    block = source.read(n_bytes)
    if len(block) < n_bytes:
        source.damage(offset, f"this record is cut off: {len(block):,} of {n_bytes:,} bytes are there")
    # An ARC describes itself in two lines; some files have more after them.
    message = (
        Message(body=block.split(b"\n", 2)[-1] if block.count(b"\n") > 1 else b"")
        if is_header
        else parse_message(block)
    )
    told = (found["type"] or b"").decode("latin-1")
    return Record(
        kind="arc_header" if is_header else "response",
        uri=uri,
        content_type=message.fields.get("content-type", "" if told == "no-type" else told),
        message=message,
        offset=offset,
    )


def _size(length: str | None) -> int | None:
    return int(length) if length and length.isascii() and length.isdigit() and len(length) < 19 else None
