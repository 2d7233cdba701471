"""`gpt2 download-data`: the files that benchmarks are run on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import Place, Sectioned, option, output_options, wrong_usage
from gpt2.errors import DataError

if TYPE_CHECKING:
    from gpt2.evaluate import DataFile

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@option(
    "--data",
    envvar="GPT2_DATA",
    type=Place(file_okay=False),
    help="Folder for the files.  [default: $GPT2_DATA]",
)
@option(
    "--every-choice", is_flag=True, help="Download the files of every choice of a benchmark, not only of its defaults."
)
@output_options
def download_data(*, tasks: tuple[str, ...], data: Path | None, every_choice: bool, as_json: bool) -> None:
    """Download the data of each TASK of `gpt2 evaluate`, or of all.

    Every file is checked by its SHA-256. Some files may not be redistributed: the command says what they are and who
    has them. An interrupted download resumes. All data are about 2.2 GB, of which One Billion Word is 1.8.

    \b
        gpt2 download-data lambada wsc273 --data DIR
    """
    from gpt2.cli.status_line import StatusLine
    from gpt2.evaluate import SUITE, find
    from gpt2.evaluate.download import download, files_of

    if data is None:
        raise click.UsageError("where the data should go is not known. Give --data DIR, or set GPT2_DATA.")
    with wrong_usage(DataError):
        benchmarks = [find(name) for name in dict.fromkeys(tasks)] or list(SUITE)
    files = files_of(benchmarks, every_choice=every_choice)
    with StatusLine() as line:

        def begin(file: "DataFile") -> Callable[[int], None]:
            log.info("%s from %s", file.path, file.url)
            arrived = 0

            def show(more: int) -> None:
                nonlocal arrived
                arrived += more
                line.show(lambda: f"{file.path}: {arrived / 1e6:,.1f} MB")

            return show

        outcomes = download(files, data, begin=begin)
    if as_json:
        output.write_json(
            [{"path": str(each.path), "state": each.state, "sha256": each.file.sha256} for each in outcomes], indent=2
        )
        return
    rows = [("file", "state", "what it is"), *((each.file.path, each.state, each.file.origin) for each in outcomes)]
    output.write(output.table(rows) + "\n")
