"""`gpt2 tokenizer train`: learning a new vocabulary."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gpt2.cli import output, reading
from gpt2.cli.options import Place, Sectioned, output_options, wrong_usage
from gpt2.errors import DataError

if TYPE_CHECKING:
    from gpt2.data import ReadOptions

_log = logging.getLogger("gpt2")


@click.group()
def tokenizer() -> None:
    """Learn a new vocabulary."""


@tokenizer.command(cls=Sectioned)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=Place(file_okay=False), help="Folder to write.")
@click.option(
    "--vocab-size", required=True, type=click.IntRange(257, 1 << 24), metavar="N", help="Maximum number of ids."
)
@reading.field_option("the")
@reading.errors_option
@output_options
def train(
    *,
    files: tuple[Path, ...],
    out: Path,
    vocab_size: int,
    field: str,
    errors: Literal["strict", "replace"],
    as_json: bool,
) -> None:
    """Learn a vocabulary from text FILES and write it to a folder.

    A file is plain text, .jsonl or .ndjson, each also with .gz or .zst, or .parquet; a folder stands for all such files
    in it. The output has the files of the published vocabulary: vocab.json, merges.txt, tokenizer.json and
    tokenizer_config.json. `<|endoftext|>` in a file separates documents. Needs the extra `train`.
    """
    from gpt2.data import ReadOptions
    from gpt2.data.documents import find_sources, passed_over
    from gpt2.files import lock
    from gpt2.tokenizer import learn

    _refuse_present(out)
    with wrong_usage(DataError):
        options = ReadOptions(field=field, errors=errors)
    names = [name for file in files for name in (find_sources([file]) if file.is_dir() else [str(file)])]
    for file in files:
        if said := passed_over(file):
            _log.info("%s", said)
    reading.tell_of_field(lambda: names)
    with lock(out):
        _refuse_present(out)  # again: another process may have written it
        learned = learn(_texts(names, options), vocab_size)
        learned.save(out)
    if learned.vocab_size < vocab_size:
        _log.info("The text gives no more than %d ids: nothing else in it occurs twice.", learned.vocab_size)
    _log.info("%s: a vocabulary of %d ids", out, learned.vocab_size)
    if as_json:
        output.write_json({"folder": str(out), "vocab_size": learned.vocab_size, "hash": learned.hash})


def _refuse_present(out: Path) -> None:
    present = [name for name in ("vocab.json", "merges.txt", "tokenizer.json") if (out / name).exists()]
    if present:
        raise click.UsageError(f"{out} already has {', '.join(present)}. Choose another folder, or remove them first.")


def _texts(names: list[str], options: "ReadOptions") -> Iterator[str]:
    from gpt2.data.documents import read_documents
    from gpt2.tokenizer.vocabulary import END_OF_TEXT

    for name in names:
        for document in read_documents(name, options):
            yield document.text
            if document.ends:
                yield END_OF_TEXT
