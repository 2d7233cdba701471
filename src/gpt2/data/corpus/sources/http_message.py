"""An HTTP message as an archive or a server gives it: status, fields, and the body as it was meant."""

import functools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_BODY_BYTES = 64 << 20
_MAX_CODINGS = 16  # each looks through the whole body; a server puts on one or two
_PIECE_BYTES = 1 << 20
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message.

    Attributes:
        status: "200"; empty for a request.
        fields: by lower-cased name; of a repeated one the last.
        body: after chunks and compression were undone.
        whole: False where the body would not fit `MAX_BODY_BYTES` and was cut, or its compression is unknown.
    """

    status: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    whole: bool = True


def parse_message(block: bytes) -> Message:
    """Any bytes; what does not begin like HTTP is a body without fields."""
    first, _, _ = block.partition(b"\n")
    words = first.split(None, 2)
    is_response = first.startswith(b"HTTP/")
    if not is_response and not (len(words) == 3 and words[2].startswith(b"HTTP/")):
        return Message(body=block)
    found = _END_OF_HEAD.search(block)
    head, body = (block[: found.start()], block[found.end() :]) if found else (block, b"")
    fields = parse_fields(head.split(b"\n")[1:])
    status = words[1].decode("latin-1") if is_response and len(words) > 1 else ""
    body, whole = decode_body(body, fields)
    return Message(status=status, fields=fields, body=body, whole=whole)


def parse_fields(lines: list[bytes]) -> dict[str, str]:
    """`Name: value` lines, a folded one joined to the one before; what is not UTF-8 is read as Latin-1."""
    fields: dict[str, list[str]] = {}
    last = ""
    for line in lines:
        text = _text(line)
        if line[:1] in (b" ", b"\t") and last:
            fields[last].append(text)
            continue
        name, colon, value = text.partition(":")
        if colon:
            last = name.strip().lower()
            fields[last] = [value]
    return {name: " ".join(parts).strip() for name, parts in fields.items()}


def _text(line: bytes) -> str:
    line = line.strip(b"\r\n")
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return line.decode("latin-1").strip()


def decode_body(body: bytes, fields: Mapping[str, str]) -> tuple[bytes, bool]:
    """Undo chunks and compression as the fields tell; False beside it where that gives not the whole."""
    told = ",".join(fields.get(name, "") for name in ("content-encoding", "transfer-encoding"))
    codings = [coding for word in told.lower().split(",") if (coding := word.strip())]
    if len(codings) > _MAX_CODINGS:
        return body, False
    for coding in reversed(codings):
        body, whole = _undo(body, coding)
        if not whole:
            return body, False
    return body, True


def _undo(body: bytes, coding: str) -> tuple[bytes, bool]:
    """The body before one coding was put on it: itself, where that was undone by an archive that left the field."""
    if coding in ("identity", "none", "utf-8"):
        return body, True
    if coding == "chunked":
        return _join_chunks(body), True
    if coding in ("gzip", "x-gzip", "deflate"):
        return _inflate(body, 47 if "gzip" in coding else 15)
    if coding == "br":
        try:
            import brotli  # pyright: ignore[reportMissingImports]
        except ImportError:
            return body, False
        inflater = brotli.Decompressor()
        inflate = functools.partial(inflater.process, output_buffer_limit=_PIECE_BYTES)
        return _bounded(inflate, body, brotli.error, is_hungry=inflater.can_accept_more_data)
    if coding == "zstd":
        try:
            import zstandard
        except ImportError:
            return body, False
        return _bounded(zstandard.ZstdDecompressor().decompressobj().decompress, body, zstandard.ZstdError)
    return body, body.lstrip()[:1] == b"<"  # servers also put words there that say nothing of a compression


def _join_chunks(body: bytes) -> bytes:
    joined = bytearray()  # not a list: a chunk may be a single byte
    at = 0
    while True:
        line_end = body.find(b"\n", at)
        try:
            size = int(body[at:line_end].split(b";")[0].strip(), 16) if line_end >= 0 else -1
        except ValueError:
            size = -1
        if size < 0:  # no chunk begins here: what was undone already, or cut
            return bytes(joined + body[at:]) if joined else body[at:]
        if size == 0:
            return bytes(joined)
        joined += body[line_end + 1 : line_end + 1 + size]
        at = line_end + 1 + size
        if body[at : at + 2] == b"\r\n":
            at += 2
        elif body[at : at + 1] == b"\n":
            at += 1
        if at >= len(body):
            return bytes(joined)


def _inflate(body: bytes, wbits: int) -> tuple[bytes, bool]:
    for bits in (wbits, -15):  # some servers send deflate without its frame
        inflater = zlib.decompressobj(wbits=bits)
        parts: list[bytes] = []
        left = MAX_BODY_BYTES
        try:
            while body and left > 0 and not inflater.eof:
                data = inflater.decompress(inflater.unconsumed_tail or body, min(left, _PIECE_BYTES))
                if not data and not inflater.unconsumed_tail:
                    break
                left -= len(data)
                parts.append(data)
                body = body if inflater.unconsumed_tail else b""
        except zlib.error:
            if not parts:
                continue
        return b"".join(parts), left > 0
    return body, True  # often an archive has undone it and left the field


def _bounded(
    inflate: Callable[[bytes], bytes],
    body: bytes,
    error: type[Exception],
    *,
    is_hungry: Callable[[], bool] = lambda: True,
) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    left = MAX_BODY_BYTES
    at = 0
    try:
        while at < len(body) or not is_hungry():
            bite = body[at : at + 1024] if is_hungry() else b""
            at += len(bite)
            data = inflate(bite)
            parts.append(data)
            left -= len(data)
            if left <= 0:
                return b"".join(parts)[:MAX_BODY_BYTES], False
    except error:
        return (b"".join(parts) or body), True
    return b"".join(parts), True
