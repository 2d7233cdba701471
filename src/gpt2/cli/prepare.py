"""`gpt2 prepare`: text to token shards, ready for training."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gpt2.cli import output, reading
from gpt2.cli.options import FiniteRange, Name, Place, Sectioned, output_options, wrong_usage
from gpt2.cli.status_line import StatusLine, duration
from gpt2.cli.stopping import resumable
from gpt2.errors import DataError

if TYPE_CHECKING:
    from gpt2.data import Progress

_log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("sources", nargs=-1, required=True, type=Name(), metavar="SOURCE...")
@click.option("--out", type=Place(), required=True, metavar="DIR", help="Folder of shards.")
@click.option(
    "--validation",
    type=FiniteRange(0, 1),
    default=0.0,
    metavar="X",
    help="Share of documents kept for validation, e.g. 0.005.",
)
@click.option(
    "--split-on",
    type=Name(),
    metavar="TEXT",
    help=r"Separator of documents in plain text, e.g. '<|endoftext|>' or '\n\n\n'.  [default: a file is one]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["auto", "text", "jsonl"]),
    default="auto",
    show_default=True,
    help="Format of the sources; auto goes by the name, and reads - as text.",
)
@reading.field_option("the")
@reading.errors_option
@click.option(
    "--max-document-mb",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="Refuse JSON lines above this size.",
)
@click.option(
    "--tokenizer",
    type=Place(),
    metavar="DIR",
    help="Folder with a vocabulary.  [default: GPT-2's]",
)
@click.option(
    "--shard-tokens",
    type=click.IntRange(min=1, max=1 << 30),
    default=100_000_000,
    show_default=True,
    metavar="N",
    help="Approximate tokens per shard.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes; they do not change the result.  [default: the usable cores]",
)
@output_options
def prepare(
    sources: tuple[str, ...],
    out: Path,
    validation: float,
    split_on: str | None,
    kind: Literal["auto", "text", "jsonl"],
    field: str,
    errors: Literal["strict", "replace"],
    max_document_mb: int,
    tokenizer: Path | None,
    shard_tokens: int,
    workers: int | None,
    as_json: bool,
) -> None:
    r"""Turn text into token shards for training.

    A SOURCE is a file (.txt, .md, .jsonl, .ndjson, plain or with .gz or .zst; .parquet), a folder of such files,
    or - for standard input. After Ctrl-C, a signal or a full disk, the same command resumes.
    """
    from gpt2.data import PrepareConfig, ReadOptions
    from gpt2.data import prepare as write_shards
    from gpt2.data.documents import find_sources
    from gpt2.machine import usable_cores
    from gpt2.tokenizer import Tokenizer

    with wrong_usage(DataError):
        read = ReadOptions(
            kind=kind,
            errors=errors,
            field=field,
            split_on=None if split_on is None else split_on.replace(r"\n", "\n").replace(r"\t", "\t"),
            max_document_bytes=max_document_mb << 20,
        )
    reading.tell_of_field(lambda: find_sources(sources, kind), kind)
    config = PrepareConfig(validation=validation, shard_tokens=shard_tokens, read=read)
    workers = workers or usable_cores()
    with resumable(f"{out} keeps what is done", sign=out / "progress.json"), StatusLine() as line:
        manifest = write_shards(
            sources,
            out,
            config=config,
            tokenizer=Tokenizer.from_folder(tokenizer) if tokenizer else None,
            workers=workers,
            progress=lambda progress: line.show(lambda: _status(progress)),
        )
    splits = manifest["splits"]
    lacking = "train" if "train" not in splits else "validation" if validation and "validation" not in splits else ""
    if lacking:
        _log.warning(
            "no document fell to %s: there %s in all. Cut a long text with --split-on, or %s --validation.",
            lacking,
            f"{'is' if manifest['documents'] == 1 else 'are'} {output.counted(manifest['documents'], 'document')}",
            "lower" if lacking == "train" else "raise",
        )
    for split, total in splits.items():
        _log.info("%s: %s tokens in %s", split, f"{total['tokens']:,}", output.counted(total["documents"], "document"))
    if manifest["empty_documents"]:
        _log.info("skipped %s without text", output.counted(manifest["empty_documents"], "document"))
    if as_json:
        output.write_json({"out": str(out), **manifest})


def _status(progress: "Progress") -> str:
    seconds = max(progress.seconds, 1e-3)
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    rates = f"{progress.new_documents / seconds:,.0f} documents/s, {progress.new_text_bytes / seconds / 1e6:,.1f} MB/s"
    return f"{progress.documents:,} documents, {progress.tokens / 1e6:,.1f} M tokens, {rates}{left}"
