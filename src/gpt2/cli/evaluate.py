"""`gpt2 evaluate`: the paper's benchmarks, beside the paper's numbers."""

import logging
import math
from pathlib import Path
from typing import Any

import click

from gpt2 import __version__
from gpt2.cli import output
from gpt2.cli.options import ModelChoice, Place, Sectioned, model_options, option, output_options, wrong_usage
from gpt2.cli.stopping import resumable
from gpt2.errors import DataError

log = logging.getLogger("gpt2")
_FILE = Place(dir_okay=False)
_GIVEN = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Sectioned)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@option(
    "--suite",
    type=click.Choice(["paper", "all"]),
    help="Run all the paper's benchmarks, or all of ours, whose data are here.",
)
@option(
    "--data",
    envvar="GPT2_DATA",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the benchmarks' files.  [default: $GPT2_DATA]",
)
@option("--examples", is_flag=True, help="Run on a few made-up examples, without data.")
@option("--limit", "limits", multiple=True, metavar="[TASK=]N", help="Use at most N examples of each TASK, or of one.")
@option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="N",
    help="Slide windows by N tokens.  [default: half the context]",
)
@option(
    "--set",
    "choices",
    multiple=True,
    metavar="TASK.CHOICE=VALUE",
    help="Choose what the protocol leaves open; see --list.",
)
@option("--list", "listed", is_flag=True, help="List the benchmarks and their choices, and exit.")
@option("--cache/--no-cache", default=True, help="Keep answers, to resume an interrupted run.  [default: keep]")
@option("--out", type=_FILE, help="Also write the figures to this JSON file.")
@option("--report", type=_FILE, metavar="FILE.html", help="Also write a page with tables and charts.")
@option("--compare", type=_GIVEN, nargs=2, metavar="A.json B.json", help="Show two results side by side; run nothing.")
@model_options
@output_options
def evaluate(
    *,
    tasks: tuple[str, ...],
    suite: str | None,
    data: Path | None,
    examples: bool,
    limits: tuple[str, ...],
    stride: int | None,
    choices: tuple[str, ...],
    listed: bool,
    cache: bool,
    out: Path | None,
    report: Path | None,
    compare: tuple[Path, Path] | None,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Run benchmarks: each TASK, or those of the paper whose data are here.

    Weights are fp32 unless --weights says otherwise. The table has the figures that the paper prints; JSON has every
    figure, the settings, the hashes of the files and of the model, and the versions.

    \b
        gpt2 evaluate --suite paper --data DIR --report page.html
        gpt2 evaluate lambada --limit 200 --set lambada.text=normalised
    """
    from gpt2 import evaluate as room
    from gpt2.cli import evaluate_asked as asked
    from gpt2.cli import evaluate_shown as shown
    from gpt2.evaluate.runner import check_data, stride_of
    from gpt2.files import check_goal
    from gpt2.hub import cache_folder
    from gpt2.report import check_charts

    if compare is not None:
        shown.put_comparison(*compare, as_json=as_json)
        return
    if tasks and suite:
        raise click.UsageError("TASK and --suite exclude each other: give one.")
    with wrong_usage(DataError):
        named = [room.find(name) for name in dict.fromkeys(tasks)]
    benchmarks = named or list(room.SUITES[suite or "paper"])
    if listed:
        output.write("\n\n".join(map(shown.described, benchmarks if tasks or suite else room.SUITE)) + "\n")
        return
    names = [benchmark.name for benchmark in benchmarks]
    chosen, (limit, limit_of) = asked.choices(choices, benchmarks), asked.limits(limits, names)
    if data is None and not examples:
        raise click.UsageError(
            "where the data are is not known. Give --data DIR or set GPT2_DATA (`gpt2 download-data --data DIR` "
            "fetches them), or try --examples."
        )
    if report is not None:
        check_charts()
    for goal in (out, report):
        if goal is not None:
            check_goal(goal)
    where = None if examples else data
    check_data(benchmarks, where, choices=chosen, skip_missing=not tasks)
    kept = "The answers so far are kept" if cache else ""
    with choice.load(auto_weights="fp32") as model, resumable(kept), shown.Progress() as progress:
        with wrong_usage(DataError):
            stride_of(stride, model.config.n_positions)
        found = room.evaluate(
            model,
            benchmarks,
            where,
            version=__version__,
            stride=stride,
            limit=limit,
            limits=limit_of,
            choices=chosen,
            cache=cache_folder() / "evaluate" if cache else None,
            skip_missing=not tasks,
            progress=progress,
        )
    shown.put(_without_infinities(found), out=out, report=report, as_json=as_json)


def _without_infinities(value: Any) -> Any:
    """Replace infinities by None, since JSON has none."""
    if isinstance(value, dict):
        return {name: _without_infinities(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
