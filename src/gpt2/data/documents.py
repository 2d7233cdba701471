"""Sources to documents: plain text, JSON Lines and Parquet, compressed or not, as a stream in constant memory.

Text is kept unchanged: CRLF stays CRLF, and nothing is stripped but a byte order mark at the beginning of a file.
"""

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2.data.compressed import STDIN, SUFFIXES, open_source
from gpt2.errors import DataError, MissingExtraError
from gpt2.files import CONVERT, is_utf8, refuse_other_documents
from gpt2.tokenizer.cuts import last_cut

_PIECE = 4 << 20  # characters of a document, bytes of a file
PARQUET_ROWS = 8  # at a time: a row may be a book, and a text of 8 MB that every row repeats takes a few hundred bytes
_CUT_WITHIN = 1 << 16  # characters searched for a place to cut
_TEXT = (".txt", ".text", ".md")
_JSONL = (".jsonl", ".ndjson")
_WRITTEN = frozenset((".docx", ".doc", ".odt", ".rtf", ".pages", ".pdf"))  # texts that no reader here takes
_KINDS = {
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
OnRead = Callable[[int], None] | None
KNOWN = (*(kind + packed for kind in (*_TEXT, *_JSONL) for packed in ("", *SUFFIXES)), ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document, or one piece of a plain text too large to be held at once.

    Attributes:
        text: its text.
        where: file and line, for messages.
        begins: False for a piece that continues the one before.
        ends: False for a piece that another one continues.
    """

    text: str
    where: str
    begins: bool = True
    ends: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How sources are read.

    Attributes:
        kind: "text" or "jsonl", whatever the name; "auto" goes by the name, and takes standard input as text.
        errors: "strict" refuses bytes that are not UTF-8; "replace" puts U+FFFD for them.
        field: the field of a JSON line, or the Parquet column, that holds the text.
        split_on: the separator of documents in a plain text; None: a file is one document.
        max_document_bytes: a longer JSON line is refused, so that a broken file cannot fill the memory.
    """

    kind: Literal["auto", "text", "jsonl"] = "auto"
    errors: Literal["strict", "replace"] = "strict"
    field: str = "text"
    split_on: str | None = None
    max_document_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, text in (("field", self.field), ("split_on", self.split_on or "")):
            if not is_utf8(text):
                raise DataError(f"No text can be read by {name} {text!r}: that is not UTF-8. Name it in UTF-8.")


def find_sources(names: Sequence[str | Path], kind: str = "auto") -> list[str]:
    """The files at these names, in order: a folder stands for its files, recursively and sorted.

    Inside a folder, hidden files and files of unknown kinds are skipped. `-` is standard input. A file that is named
    itself may have any name if `kind` is given.

    Raises:
        DataError: a name does not exist, a file is of unknown kind, or a folder has nothing to read.
    """
    found: list[str] = []
    for name in map(str, names):
        path = Path(name)
        if name == STDIN:
            found.append(name)
        elif path.is_dir():
            inside = [str(file) for file in files_in(path) if file.name.lower().endswith(KNOWN)]
            if not inside:
                raise DataError(f"{name} holds no file that can be read. Known are {', '.join(KNOWN)}.")
            found += inside
        elif not path.exists():
            raise DataError(f"{name} cannot be read: there is no such file or folder.")
        elif kind == "auto" and not path.name.lower().endswith(KNOWN):
            raise DataError(
                f"{name} cannot be read: its kind is not known. "
                f"Known are {', '.join(KNOWN)}. Of a text by another name say the format (--format); save any other "
                f"document as plain text."
            )
        else:
            found.append(name)
    return found


def is_known(name: str, endings: tuple[str, ...] = KNOWN) -> bool:
    """Whether the name says that the file can be read."""
    return name.lower().endswith(endings)


def passed_over(folder: Path, is_read: Callable[[str], bool] = is_known) -> str:
    """What a folder holds besides files to read, by their names, for people; empty if nothing, or for a file."""
    others = [file.suffix.lower() or file.name for file in files_in(folder) if not is_read(file.name)]
    if not others:
        return ""
    kinds = [kind for kind, _ in Counter(others).most_common()]
    named = ", ".join(kinds[:5] + ["..."] * (len(kinds) > 5))
    files = "1 file of another kind" if len(others) == 1 else f"{len(others):,} files of other kinds"
    advice = "; save documents as plain text (.txt) to have them read" if not _WRITTEN.isdisjoint(kinds) else ""
    return f"skipped in {folder}: {files} ({named}){advice}"


def files_in(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, recursively and sorted."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def read_documents(
    source: str | Path, options: ReadOptions | None = None, *, on_read: OnRead = None
) -> Iterator[Document]:
    """The documents of one file, or of standard input (`-`, read as plain text), in order.

    `on_read` receives the number of bytes read of the file itself since its last call.

    Raises:
        DataError: bytes that are not UTF-8 (named by offset), a broken line (named by number), a broken archive.
        MissingExtraError: the library for this compression or for Parquet is not installed.
        OSError: the file cannot be opened or read.
    """
    options = options or ReadOptions()
    name = str(source)
    if not has_fields(name, options.kind):
        return _text(name, options, on_read)
    if name.lower().endswith(".parquet") and options.kind == "auto":
        return _parquet(name, options)
    return _jsonl(name, options, on_read)


def has_fields(name: str, kind: str = "auto") -> bool:
    """Whether this file holds its text in a field or column, as JSON Lines and Parquet do."""
    if kind != "auto":
        return kind == "jsonl"
    name = name.lower()
    packed = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return name.endswith(".parquet") or name.removesuffix(packed).endswith(_JSONL)


def _lines(name: str, options: ReadOptions, on_read: OnRead) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of every line."""
    offset = 0
    limit = options.max_document_bytes
    with open_source(name, on_read) as file:
        number = 0
        while line := file.readline(limit + 1):
            number += 1
            if len(line) > limit:
                raise DataError(
                    f"{name}, line {number}, is longer than {limit:,} bytes. "
                    f"Cut it, or raise the limit for a document (--max-document-mb of `gpt2 prepare`)."
                )
            if number == 1:
                refuse_other_documents(name, line)
                if line.startswith(codecs.BOM_UTF8):
                    line, offset = line[3:], 3
            yield number, offset, line
            offset += len(line)


def _jsonl(name: str, options: ReadOptions, on_read: OnRead) -> Iterator[Document]:
    for where, value in read_json_lines(name, options, on_read=on_read):
        text = value.get(options.field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            if isinstance(value, dict) and options.field in value:
                raise DataError(
                    f"{where}, has no text in a field {options.field!r}: that field holds {_KINDS[type(text)]}. "
                    f"Put a text there, or name another field (--field)."
                )
            seen = f"the fields {', '.join(map(str, value))}" if isinstance(value, dict) else type(value).__name__
            raise DataError(
                f"{where}, has no text in a field {options.field!r}: it holds {seen}. "
                f"Name the field of the text (--field)."
            )
        yield Document(text=whole_characters(text, where, options), where=where)


def read_json_lines(
    name: str, options: ReadOptions | None = None, *, on_read: OnRead = None
) -> Iterator[tuple[str, Any]]:
    """The place (file and line, for messages) and the value of each line that is not empty.

    Raises:
        DataError: as `read_documents`.
        MissingExtraError: the library for this compression is not installed.
        OSError: the file cannot be opened or read.
    """
    options = options or ReadOptions()
    for number, offset, line in _lines(name, options, on_read):
        if line.isspace():
            continue
        where = f"{name}, line {number}"
        text = _decode(line, name, offset, options)
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}, is not JSON: {error}. Mend or remove the line.") from error
        yield where, value


def whole_characters(text: str, where: str, options: ReadOptions) -> str:
    """`text` of a JSON line without lone surrogates, which escapes may have put there.

    Raises:
        DataError: there is one, and `options` are strict.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if options.errors == "strict":
            raise DataError(
                f"{where}, holds half a surrogate pair at character {error.start}. "
                f"Mend it, or read U+FFFD in its place (--errors replace)."
            ) from error
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _decode(data: bytes, name: str, offset: int, options: ReadOptions) -> str:
    try:
        return data.decode("utf-8", options.errors)
    except UnicodeDecodeError as error:
        raise _not_utf8(name, offset + error.start, data[error.start]) from error


def _not_utf8(name: str, offset: int, byte: int) -> DataError:
    if offset == 0 and byte in (0xFF, 0xFE):  # UTF-16, which Windows calls Unicode
        return DataError(
            f"{name} is not UTF-8: it begins as UTF-16 does. Convert the file (`iconv -f utf-16 -t utf-8`), or save it "
            f"as UTF-8."
        )
    return DataError(
        f"{name} is not UTF-8: the byte 0x{byte:02x} at offset {offset:,} cannot be read. "
        f"{CONVERT}, or read U+FFFD in place of such bytes (--errors replace)."
    )


def _text(name: str, options: ReadOptions, on_read: OnRead) -> Iterator[Document]:
    separator = options.split_on
    number, begins, held = 1, True, ""
    for text in _decoded(name, options, on_read):
        held += text
        if separator:
            *whole, held = held.split(separator)
            for part in whole:
                yield Document(text=part, where=f"{name}, document {number}", begins=begins)
                number, begins = number + 1, True
        if len(held) > _PIECE:
            stop = len(held) - len(separator or "")
            start = max(0, stop - _CUT_WITHIN)
            cut = last_cut(held, start, stop)
            if cut == start and len(held) > options.max_document_bytes:
                cut = stop
            if cut > start:
                yield Document(text=held[:cut], where=f"{name}, document {number}", begins=begins, ends=False)
                held, begins = held[cut:], False
    if held or not begins:
        yield Document(text=held, where=f"{name}, document {number}", begins=begins)


def _decoded(name: str, options: ReadOptions, on_read: OnRead) -> Iterator[str]:
    offset, pending = 0, b""
    with open_source(name, on_read) as file:
        while True:
            block = file.read(_PIECE)
            data = pending + block
            if offset == 0:
                refuse_other_documents(name, data)
                if data.startswith(codecs.BOM_UTF8):
                    data, offset = data[3:], 3
            try:
                text, n_bytes = codecs.utf_8_decode(data, options.errors, not block)
            except UnicodeDecodeError as error:
                raise _not_utf8(name, offset + error.start, data[error.start]) from error
            pending = data[n_bytes:]
            offset += n_bytes
            if text:
                yield text
            if not block:
                return


def _parquet(name: str, options: ReadOptions) -> Iterator[Document]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of(f"{name} cannot be read", package="pyarrow", extra="data") from error
    try:
        with parquet.ParquetFile(name) as file:
            columns: list[str] = file.schema_arrow.names
            if options.field not in columns:
                raise DataError(
                    f"{name} has no column {options.field!r}: it has {', '.join(columns)}. "
                    f"Name the column of the text (--field)."
                )
            row = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[options.field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text is None:
                        continue
                    if not isinstance(text, str):
                        raise DataError(
                            f"{name} has no text in the column {options.field!r}: row {row} holds "
                            f"{type(text).__name__}. Name the column of the text (--field)."
                        )
                    yield Document(text=text, where=f"{name}, row {row}")
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{name} is broken: {str(error).rstrip('.')}. Fetch it again.") from error
