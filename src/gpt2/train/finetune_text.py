"""A user's own text as examples: plain text, CSV, JSON Lines, Parquet, one file or a folder of them.

An example is a document, or a prompt with a completion to learn. A plain text file is one document, or several with
`<|endoftext|>` between them.
"""

import csv
import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gpt2.data import documents
from gpt2.data.documents import (
    KNOWN,
    ReadOptions,
    find_sources,
    has_fields,
    read_documents,
    read_json_lines,
    whole_characters,
)
from gpt2.errors import DataError
from gpt2.tokenizer.vocabulary import END_OF_TEXT

_CSV = (".csv", ".tsv")
_JSONL = (".jsonl", ".ndjson")
_PACKED = ("", ".gz", ".zst")
_FIELD_LIMIT = 1 << 26  # characters of one CSV cell
_KINDS = (*KNOWN, *(kind + packed for kind in _CSV for packed in _PACKED))
_KNOWN = ".txt, .text, .md, .jsonl, .ndjson, .csv and .tsv, each also with .gz or .zst, and .parquet"

Errors = Literal["strict", "replace"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One thing to learn.

    Attributes:
        text: the document, or the completion of the prompt.
        prompt: only read; empty for a document.
        where: file and line, for messages.
        begins: False for a piece that continues the document of the piece before.
    """

    text: str
    prompt: str = ""
    where: str
    begins: bool = True


def sources(path: Path) -> list[str]:
    """The files to read, in order.

    Raises:
        DataError: there is nothing, or nothing that can be read.
    """
    if path.is_dir():
        tables = [
            str(file)
            for file in sorted(path.rglob("*"))
            if file.is_file() and _is(file.name, _CSV) and not file.name.startswith(".")
        ]
        try:
            return sorted([*find_sources([path]), *tables])
        except DataError:
            if tables:
                return tables
            what = "holds no file that can be read" if any(path.iterdir()) else "is an empty folder"
            raise DataError(f"{path} {what}: there is nothing to learn. Known are {_KNOWN}.") from None
    if not path.exists():
        raise DataError(
            f"{path} cannot be read: there is no such file or folder. Name a text file, or a folder of them."
        )
    if _is(path.name, _CSV):
        return [str(path)]
    try:
        return find_sources([path])
    except DataError:
        raise DataError(
            f"{path} cannot be read: its kind is not known. Known are {_KNOWN}. If it is plain text, call it .txt; "
            f"`gpt2 corpus build` reads EPUB and HTML; save any other document as plain text."
        ) from None


def passed_over(path: Path) -> str:
    """What a folder holds that is not read, for people; empty if nothing."""
    return documents.passed_over(path, lambda name: documents.is_known(name, _KINDS))


def read_examples(path: Path, *, field: str = "", errors: Errors = "strict") -> Iterator[Example]:
    """The examples of a file or folder, in order, in constant memory.

    Args:
        path: the file or folder.
        field: of a JSON line or a table that holds the text; empty: `text`, or `prompt` with `completion`.
        errors: "strict" refuses bytes that are not UTF-8; "replace" puts U+FFFD for them.

    Raises:
        DataError: a file cannot be read or lacks the needed fields; place and fields are named.
        MissingExtraError: the library for its compression, or for Parquet, is not installed.
        OSError: it cannot be opened.
    """
    for name in sources(path):
        if _is(name, _CSV):
            yield from _table(name, field, errors)
        elif _is(name, _JSONL):
            yield from _json_lines(name, field, errors)
        else:
            options = ReadOptions(split_on=END_OF_TEXT, field=field or "text", errors=errors)
            is_empty = not has_fields(name)  # a plain text is a document, even of 0 bytes
            for document in read_documents(name, options):
                is_empty = False
                yield Example(text=document.text, where=document.where, begins=document.begins)
            if is_empty:
                yield Example(text="", where=name)


def _is(name: str, kinds: tuple[str, ...]) -> bool:
    return name.lower().endswith(tuple(kind + packed for kind in kinds for packed in _PACKED))


def _json_lines(name: str, field: str, errors: Errors) -> Iterator[Example]:
    options = ReadOptions(errors=errors)
    for where, value in read_json_lines(name, options):
        if not isinstance(value, dict):
            raise DataError(
                f'{where}, is not an object: write {{"text": "…"}} or {{"prompt": "…", "completion": "…"}}.'
            )
        example = _example(value, where, field)
        prompt, text = (whole_characters(part, where, options) for part in (example.prompt, example.text))
        yield replace(example, prompt=prompt, text=text)


def _table(name: str, field: str, errors: Errors) -> Iterator[Example]:
    text = "".join(document.text for document in read_documents(name, ReadOptions(kind="text", errors=errors)))
    delimiter = "\t" if _is(name, (".tsv",)) else ","
    csv.field_size_limit(_FIELD_LIMIT)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        only = len(header) == 1 and not field  # one column of texts: the form of other fine-tuning tools
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{name}, line {rows.line_num}"
            if len(row) != len(header):
                # Excel saves so in many countries
                semicolons = len(header) == 1 and delimiter == "," and ";" in header[0]
                raise DataError(
                    f"{where}, has {_counted(len(row), 'cell')}, and the first line names "
                    f"{_counted(len(header), 'column')}. "
                    + (
                        "It parts them by semicolons: save the table with commas, or with tabs as .tsv."
                        if semicolons
                        else "Put texts with commas or line ends in double quotes, and close them."
                    )
                )
            yield (
                Example(text=row[0], where=where)
                if only
                else _example(dict(zip(header, row, strict=True)), where, field)
            )
    except csv.Error as error:
        raise DataError(f"{name} is not a table of cells: {error}, near line {rows.line_num}.") from error


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _example(value: dict[str, Any], where: str, field: str) -> Example:
    if field:
        wanted = (field,)
    elif "prompt" in value or "completion" in value:
        wanted = ("prompt", "completion")
    else:
        wanted = ("text",)
    for key in wanted:
        if key in value and not isinstance(value[key], str):
            raise DataError(f"{where}, has no text in {key!r}: it holds {value[key]!r:.60}. Put a text there.")
        if key not in value:
            near = difflib.get_close_matches(key, map(str, value), n=1)
            advice = "Name the field of the text (--field)."
            if len(wanted) == 2:
                advice = "Call the two fields prompt and completion, or name the only one to learn from (--field)."
            if near:
                advice = f"Did you misspell it, as {near[0]!r}?"
            if not field and {"prompt", "completion"} <= {str(name).lower() for name in value}:
                advice = "Write the names prompt and completion in lower case."
            if "messages" in value:
                advice = "GPT-2 knows no chat: write each exchange as a prompt and a completion."
            raise DataError(f"{where}, has no text {key!r}: it has {', '.join(map(str, value)) or 'nothing'}. {advice}")
    if wanted == ("prompt", "completion"):
        return Example(prompt=value["prompt"], text=value["completion"], where=where)
    return Example(text=value[wanted[0]], where=where)
