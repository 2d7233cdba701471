"""Text from an argument, a file or standard input, with an option for bytes that are not UTF-8.

A byte order mark at the beginning of a file or of standard input is not part of the text.
"""

import codecs
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import click

from gpt2.cli.options import Name, Verb
from gpt2.cli.output import is_terminal
from gpt2.errors import DataError
from gpt2.files import CONVERT, refuse_other_documents

BYTE_ORDER_MARK = "\ufeff"

log = logging.getLogger("gpt2")


def field_option(whose: str) -> Callable[[Verb], Verb]:
    """Add --field, for documents that have fields; `tell_of_field` warns if none has."""
    return click.option(
        "--field",
        type=Name(),
        default="text",
        show_default=True,
        metavar="NAME",
        help=f"Field or column that holds {whose} text.",
    )


def errors_option(verb: Verb) -> Verb:
    """Add --errors, for text that is read."""
    return click.option(
        "--errors",
        type=click.Choice(["strict", "replace"]),
        default="strict",
        show_default=True,
        help="How to handle input that is not UTF-8: stop, or substitute U+FFFD.",
    )(verb)


def read_text(argument: str | None, *, errors: str) -> str | None:
    """The text of `argument`, or standard input for `-` and for None; None if that is an idle terminal.

    One newline at the end of standard input ends the line, and is not part of the text.

    Raises:
        DataError: the input is not UTF-8; the message names the offset.
    """
    if argument is not None and argument != "-":
        return argument
    if argument is None and is_terminal(sys.stdin):
        return None
    return _without_newline(decode(sys.stdin.buffer.read(), "standard input", errors=errors))


def tell_of_file(argument: str | None, instead: str) -> None:
    """Warn if a text is the name of an existing file: it is still taken as text.

    Args:
        argument: the text as given.
        instead: the command that reads the file, with `{}` for its name.
    """
    if argument in (None, "", "-") or len(argument) >= 256 or "\0" in argument:
        return
    if os.path.isfile(argument):  # noqa: PTH113 - as in verdicts
        log.warning("%s is a file, but is taken as text; %s", argument, instead.replace("{}", shlex.quote(argument)))


def read_file(path: Path, *, errors: str) -> str:
    """The text of a file.

    Raises:
        DataError: it is not UTF-8; the message names the offset.
        OSError: it cannot be read.
    """
    return decode(path.read_bytes(), str(path), errors=errors)


def read_prompts(path: Path, *, errors: Literal["strict", "replace"]) -> Iterator[str]:
    """The prompts of a file, one by one: its lines, or `prompt` of each object if the name ends in .jsonl.

    Raises:
        DataError: a line is not UTF-8, or not an object with a prompt of whole characters; the message names the line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for number, text in enumerate(lines_of(file, str(path), errors=errors), start=1):
            if path.suffix.lower() != ".jsonl":
                yield text
            elif text.strip():
                yield _prompt_of(text, f"{path}, line {number}", errors=errors)


def lines_of(file: BinaryIO, source: str, *, errors: str) -> Iterator[str]:
    """The lines of a file or of standard input as they come, without their ends.

    Raises:
        DataError: a line is not UTF-8; the message names the offset.
    """
    offset = 0
    for line in file:
        yield _without_newline(decode(line, source, errors=errors, offset=offset))
        offset += len(line)


def decode(data: bytes, source: str, *, errors: str, offset: int = 0) -> str:
    """Decode UTF-8 without a byte order mark; `offset` is that of the first byte in `source`."""
    if not offset:
        refuse_other_documents(source, data)
    try:
        text = data.decode("utf-8", errors)
        return text if offset else text.removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        if not offset and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{source} cannot be read as UTF-8: it begins with 0x{data[0]:02x} 0x{data[1]:02x}, as UTF-16 does. "
                f"Save it as UTF-8."
            ) from None
        raise DataError(
            f"{source} cannot be read as UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start:,} "
            f"({error.reason}). {CONVERT}, or give --errors replace to read it all the same."
        ) from None


def _prompt_of(line: str, place: str, *, errors: Literal["strict", "replace"]) -> str:
    from gpt2.data.documents import ReadOptions, whole_characters

    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}.") from None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise DataError(f'{place} has no prompt: each line must look like {{"prompt": "Once upon a time"}}.')
    return whole_characters(found["prompt"], place, ReadOptions(errors=errors))


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def tell_of_field(find: Callable[[], Sequence[str]], kind: str = "auto") -> None:
    """Warn if --field was given but no file has fields: it would be silently ignored."""
    from gpt2.data.documents import has_fields

    if click.get_current_context().get_parameter_source("field") is click.core.ParameterSource.DEFAULT:
        return
    files = find()
    if not any(has_fields(name, kind) for name in files):
        log.warning("--field has no effect: %s is read as plain text, which has no fields", files[0])
