"""`gpt2 overlap`: how much of a test set stands word for word in a training set."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gpt2.cli import output, reading
from gpt2.cli.options import Name, Place, Sectioned, output_options, wrong_usage
from gpt2.cli.status_line import StatusLine, duration
from gpt2.errors import DataError

if TYPE_CHECKING:
    from gpt2.data.overlap import Searched


@click.command(cls=Sectioned)
@click.argument("train", type=Name(), metavar="TRAIN")
@click.argument("tests", nargs=-1, required=True, type=Place(), metavar="TEST...")
@click.option("--n", type=click.IntRange(min=1), default=8, show_default=True, help="Words per n-gram.")
@click.option("--confirm", is_flag=True, help="Compare the words themselves, not only their 64-bit hashes.")
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Show the N examples of each test set with the most n-grams in TRAIN.",
)
@reading.field_option("TRAIN's")
@reading.errors_option
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes, one per file of TRAIN; they do not change the result.  [default: the usable cores]",
)
@output_options
def overlap(
    train: str,
    tests: tuple[Path, ...],
    n: int,
    confirm: bool,
    show: int,
    field: str,
    errors: Literal["strict", "replace"],
    workers: int | None,
    as_json: bool,
) -> None:
    """Measure the share of each TEST's 8-grams that are in TRAIN, as in section 4 of the paper.

    TRAIN is a file or folder that `gpt2 prepare` accepts. A TEST is a file or a folder of files: text, JSON and JSON
    Lines (every string in them) or Parquet, plain or compressed. Words are lower-cased and alphanumeric; no n-gram
    spans two examples.
    """
    from gpt2.data.documents import ReadOptions, find_sources
    from gpt2.data.overlap import measure_overlap
    from gpt2.machine import usable_cores

    with wrong_usage(DataError):
        read = ReadOptions(field=field, errors=errors)
    reading.tell_of_field(lambda: find_sources([train]))
    with StatusLine() as line:
        found = measure_overlap(
            train,
            tests,
            n=n,
            read=read,
            confirm=confirm,
            worst=show,
            workers=workers or usable_cores(),
            progress=lambda searched: line.show(lambda: _status(searched)),
        )
    if as_json:
        output.write_json({"train": train, "n": n, "tests": [asdict(one) | {"percent": one.percent} for one in found]})
        return
    rows = [["test set", "examples", f"{n}-grams", "found", "%", "examples touched"]]
    rows += [
        [one.name, f"{one.examples:,}", f"{one.ngrams:,}", f"{one.found:,}", f"{one.percent:.2f}", f"{one.touched:,}"]
        for one in found
    ]
    output.write(output.table(rows, right=range(1, 6)), end="\n")
    for one in found:
        for example in one.worst:
            share = f"{example.found:,} of {example.ngrams:,}"
            output.write(f"\n{one.name}, example {example.number:,}: {share}, first: {example.text}\n")


def _status(searched: "Searched") -> str:
    rate = searched.documents / max(searched.seconds, 1e-3)
    left = "" if searched.seconds_left is None else f", {duration(searched.seconds_left)} left"
    return f"{searched.documents:,} documents, {rate:,.0f} documents/s{left}"
