"""`gpt2 tokenize`: text to token ids."""

import contextlib
import json
import logging
import sys
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import Sectioned, output_options
from gpt2.cli.reading import BYTE_ORDER_MARK, errors_option, tell_of_file

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer
    from gpt2.tokenizer.stream import Errors

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("text", required=False)
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read the text from this file."
)
@click.option("--allow-special", is_flag=True, help="Read <|endoftext|> as the special token, not as text.")
@click.option("--pieces", is_flag=True, help="Write the piece of text beside each id.")
@errors_option
@click.option("--model", metavar="NAME|DIR", help="Whose vocabulary to use.  [default: the published one]")
@output_options
def tokenize(
    *,
    text: str | None,
    file: Path | None,
    allow_special: bool,
    pieces: bool,
    errors: "Errors",
    model: str | None,
    as_json: bool,
) -> None:
    """Write the token ids of TEXT, one per line.

    Without TEXT, or with -, read standard input; one newline at its end is not part of the text. A file is read as
    it is, byte order mark included, so that `gpt2 detokenize` gives back every byte. Neither has to fit into memory,
    except with --json.

    --json writes one object: the ids, their pieces (as text, or as a list of byte values where a piece splits a
    character), and where each begins and ends, in bytes of UTF-8.
    """
    if text is not None and file is not None:
        raise click.UsageError("TEXT and --file cannot be had together: there is one text to encode.")
    from gpt2.tokenizer import encode_stream

    tokenizer = tokenizer_of(model)
    with _texts(text, file, errors) as texts:
        parts = encode_stream(tokenizer, texts, allow_special=allow_special)
        if as_json:
            _write_json(tokenizer, [i for ids in parts for i in ids])
            return
        for ids in parts:
            if pieces:
                rows = zip(ids, tokenizer.pieces(ids), strict=True)
                output.write("".join(f"{i}\t{_quoted(piece)}\n" for i, piece in rows))
            else:
                sys.stdout.write("".join(f"{i}\n" for i in ids))


def tokenizer_of(model: str | None) -> "Tokenizer":
    """The tokenizer of a model: a published name, any other that `--model` can name, or a folder with a vocabulary.

    Raises:
        TokenizerError: there is no vocabulary, or it cannot be read.
    """
    from gpt2.config import PUBLISHED
    from gpt2.tokenizer import Tokenizer

    if model is None or model in PUBLISHED:
        return Tokenizer.published()
    from gpt2 import checkpoint, hub
    from gpt2.checkpoint.checkpoint import has_vocabulary
    from gpt2.errors import FormatError, TokenizerError

    path = hub.locate(model)
    if path.is_dir() and has_vocabulary(path):
        return Tokenizer.from_folder(path)
    try:
        return checkpoint.read(path).tokenizer()
    except FormatError as error:
        raise TokenizerError(f"{path} holds no vocabulary, and no model that has one: {error}") from error


def vocab_size_of(model: str | None, tokenizer: "Tokenizer") -> int:
    """The number of a model's ids, which may exceed its tokenizer's; the tokenizer's if the model is not here."""
    from gpt2 import checkpoint, hub
    from gpt2.config import PUBLISHED
    from gpt2.errors import CheckpointError, ModelNotFoundError

    if model is None or model in PUBLISHED:
        return tokenizer.vocab_size
    try:
        return checkpoint.read(hub.locate(model)).config.vocab_size
    except (CheckpointError, ModelNotFoundError):
        return tokenizer.vocab_size


@contextlib.contextmanager
def _texts(text: str | None, file: Path | None, errors: "Errors") -> Generator[Iterable[str]]:
    from gpt2.tokenizer import read_text

    if file is not None:
        with file.open("rb") as stream:
            yield _told_of_mark(read_text(stream, source=str(file), errors=errors), str(file))
    elif text is not None and text != "-":
        tell_of_file(text, "--file {} tokenizes it")
        yield [text]
    elif text is None and output.is_terminal(sys.stdin):
        raise click.UsageError("there is no text: give TEXT, --file, or text on standard input (- reads a terminal).")
    else:
        parts = read_text(sys.stdin.buffer, source="Standard input", errors=errors)
        yield _without_newline(_told_of_mark(parts, "standard input"))


def _told_of_mark(parts: Iterator[str], source: str) -> Iterator[str]:
    """The same parts, with a note on a byte order mark: this verb alone keeps it, so that the ids give every byte."""
    first = next(parts, "")
    if first.startswith(BYTE_ORDER_MARK):
        log.warning("%s begins with a byte order mark, which becomes tokens here; other verbs leave it out", source)
    yield first
    yield from parts


def _without_newline(parts: Iterable[str]) -> Iterator[str]:
    held = ""
    for part in parts:
        held += part
        yield held[:-2]
        held = held[-2:]
    yield held.removesuffix("\n").removesuffix("\r")


def _quoted(piece: bytes) -> str:
    """A piece in quotes, with line ends and the like as codes; its bytes if it is not whole characters."""
    try:
        return json.dumps(piece.decode("utf-8"), ensure_ascii=False)
    except UnicodeDecodeError:
        return f"bytes {piece.hex(' ')}"


def _write_json(tokenizer: "Tokenizer", ids: list[int]) -> None:
    pieces: list[str | list[int]] = []
    for piece in tokenizer.pieces(ids):
        try:
            pieces.append(piece.decode("utf-8"))
        except UnicodeDecodeError:
            pieces.append(list(piece))
    output.write_json({"ids": ids, "pieces": pieces, "offsets": tokenizer.offsets(ids)})
