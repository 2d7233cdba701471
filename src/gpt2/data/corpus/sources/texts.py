"""Documents from plain text, JSON Lines and Parquet, compressed or not; a broken line costs only itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2.data.corpus.charset import decode_page
from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.corpus.sources.stretches import Stretches, read_whole
from gpt2.data.documents import PARQUET_ROWS
from gpt2.errors import MissingExtraError

MAX_TEXT_BYTES = 64 << 20
_ADDRESS = ("url", "address", "link")
_LICENCE = ("licence", "license")
_GUTENBERG_BEGINS, _GUTENBERG_ENDS = "*** START OF", "*** END OF"


def read_text(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """A text file as a document; of a Project Gutenberg text, only what is between its marks."""
    data = read_whole(path, MAX_TEXT_BYTES, on_damage, on_read)
    if data is None:
        return
    text, _ = decode_page(data)
    if "\0" in text:  # no text has NUL; pictures, archives and encrypted files do
        on_damage(Damage(file=str(path), offset=0, why="this is no text, whatever its name: it holds zero bytes"))
        return
    yield Page(where="", text=without_gutenberg(text.replace("\r\n", "\n")))


def without_gutenberg(text: str) -> str:
    """A Project Gutenberg text without the notices before and after it; any other text unchanged."""
    begins = text.find(_GUTENBERG_BEGINS)
    if begins < 0 or "gutenberg" not in text[: begins + 200].lower():
        return text
    begins = text.find("\n", begins)
    ends = text.find(_GUTENBERG_ENDS, begins)
    return text[begins if begins >= 0 else 0 : ends if ends >= 0 else len(text)].strip()


def read_jsonl(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """The lines of a file: `text` is the text; `source`, `licence` and `url` are kept if present."""
    number = 0
    with Stretches(path, on_damage, on_read) as source:
        while source.next_stretch():
            while True:
                offset = source.offset
                line = source.readline(MAX_TEXT_BYTES)
                if not line:
                    break
                number += 1
                if len(line) == MAX_TEXT_BYTES and not line.endswith(b"\n"):
                    source.damage(offset, f"line {number:,} is longer than {MAX_TEXT_BYTES:,} bytes")
                    while (rest := source.readline(1 << 20)) and not rest.endswith(b"\n"):
                        pass
                    continue
                if line.isspace():
                    continue
                try:
                    value: Any = json.loads(line)
                except (ValueError, RecursionError) as error:
                    source.damage(offset, f"line {number:,} is not JSON ({error})")
                    continue
                if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                    source.damage(offset, f"line {number:,} has no text in a field 'text'")
                    continue
                yield _page(value, f", line {number}")


def read_parquet(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[Page]:
    """The rows of a file, with columns of the same names."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of(f"{path} cannot be read", package="pyarrow", extra="data") from error
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in ("text", "source", *_LICENCE, *_ADDRESS)]
            if "text" not in wanted:
                on_damage(Damage(file=str(path), offset=0, why="there is no column 'text'"))
                return
            row = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
                on_read(batch.nbytes)
                for value in batch.to_pylist():
                    row += 1
                    if isinstance(value["text"], str):
                        yield _page(value, f", row {row}")
                    elif value["text"] is not None:
                        why = f"row {row:,} has no text in the column 'text', but {type(value['text']).__name__}"
                        on_damage(Damage(file=str(path), offset=0, why=why))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        on_damage(Damage(file=str(path), offset=0, why=f"the file is broken ({error})"))


def _page(value: dict[str, Any], where: str) -> Page:
    def first(names: tuple[str, ...]) -> str:
        return next((value[name] for name in names if isinstance(value.get(name), str)), "")

    text = value["text"]
    if not text.isascii():  # only an escape can produce half a surrogate pair
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    address = first(_ADDRESS)
    return Page(
        where=where,
        text=text,
        source=first(("source",)),
        licence=first(_LICENCE),
        address=address if address.lower().startswith(("http://", "https://")) else "",
    )
