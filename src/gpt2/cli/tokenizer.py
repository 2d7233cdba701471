"""`gpt2 tokenizer train`: learning a new vocabulary."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import Place, Sectioned, output_options
from gpt2.cli.reading import BYTE_ORDER_MARK, errors_option

if TYPE_CHECKING:
    from gpt2.tokenizer.stream import Errors

_log = logging.getLogger("gpt2")


@click.group()
def tokenizer() -> None:
    """Learn a new vocabulary."""


@tokenizer.command(cls=Sectioned)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=Place(file_okay=False), help="Folder to write.")
@click.option(
    "--vocab-size", required=True, type=click.IntRange(257, 1 << 24), metavar="N", help="How many ids, at most."
)
@errors_option
@output_options
def train(*, files: tuple[Path, ...], out: Path, vocab_size: int, errors: "Errors", as_json: bool) -> None:
    """Learn a vocabulary from text FILES and write it to a folder.

    The folder gets the files of the published vocabulary: vocab.json, merges.txt, tokenizer.json and
    tokenizer_config.json. `<|endoftext|>` in a file parts documents. Needs the extra `train`.
    """
    from gpt2.files import check_goal
    from gpt2.tokenizer import learn

    present = [name for name in ("vocab.json", "merges.txt", "tokenizer.json") if (out / name).exists()]
    if present:
        raise click.UsageError(f"{out} already has {', '.join(present)}. Choose another folder, or remove them first.")
    check_goal(out / "vocab.json")
    learned = learn(_texts(files, errors), vocab_size)
    learned.save(out)
    if learned.vocab_size < vocab_size:
        _log.info("The text gives no more than %d ids: nothing else in it occurs twice.", learned.vocab_size)
    _log.info("%s: a vocabulary of %d ids", out, learned.vocab_size)
    if as_json:
        output.write_json({"folder": str(out), "vocab_size": learned.vocab_size, "hash": learned.hash})


def _texts(files: tuple[Path, ...], errors: "Errors") -> Iterator[str]:
    from gpt2.tokenizer import read_text
    from gpt2.tokenizer.vocabulary import END_OF_TEXT

    for file in files:
        with file.open("rb") as stream:
            parts = read_text(stream, source=str(file), errors=errors)
            yield next(parts, "").removeprefix(BYTE_ORDER_MARK)
            yield from parts
        yield END_OF_TEXT
