"""`gpt2 evaluate`: the paper's benchmarks, beside the paper's numbers."""

import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2 import __version__
from gpt2.cli import output
from gpt2.cli.options import ModelChoice, Sectioned, model_options, option, output_options

if TYPE_CHECKING:
    from gpt2.evaluate import Benchmark

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@option(
    "--data",
    envvar="GPT2_DATA",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the benchmarks' files.  [default: $GPT2_DATA]",
)
@option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N examples of each.")
@option("--stride", type=click.IntRange(min=1), metavar="N", help="Windows move on by N tokens.  [default: half]")
@option("--set", "choices", multiple=True, metavar="TASK.CHOICE=VALUE", help="Where the protocol leaves a choice.")
@option("--list", "listed", is_flag=True, help="Say what benchmarks and choices there are, and stop.")
@option("--cache/--no-cache", default=True, help="Keep answers, so that an interrupted run goes on.  [default: keep]")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to this JSON file too.")
@model_options
@output_options
def evaluate(
    *,
    tasks: tuple[str, ...],
    data: Path | None,
    limit: int | None,
    stride: int | None,
    choices: tuple[str, ...],
    listed: bool,
    cache: bool,
    out: Path | None,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Run benchmarks of the paper: all there are, or each TASK.

    Weights are fp32 unless --weights says otherwise. JSON holds every figure with the settings, the hashes of the
    files and of the model, and the versions; the table, the figures the paper prints.

    \b
        gpt2 evaluate --data DIR
        gpt2 evaluate lambada --limit 200 --set lambada.text=normalised
    """
    from gpt2 import evaluate as room
    from gpt2.files import write_json
    from gpt2.hub import cache_folder

    benchmarks = [room.find(name) for name in dict.fromkeys(tasks)] or list(room.SUITE)
    if listed:
        output.write("\n\n".join(map(_described, benchmarks)) + "\n")
        return
    chosen = _choices(choices, [benchmark.name for benchmark in benchmarks])
    if data is None:
        raise click.UsageError("where the data are is not known. Give --data DIR, or set GPT2_DATA.")
    with choice.load(auto_weights="fp32") as model:
        report = room.evaluate(
            model,
            benchmarks,
            data,
            version=__version__,
            stride=stride,
            limit=limit,
            choices=chosen,
            cache=cache_folder() / "evaluate" if cache else None,
            progress=_show_progress,
        )
    report = _without_infinities(report)
    if out is not None:
        write_json(out, report)
    if as_json:
        output.write_json(report, indent=2)
        return
    titles = {benchmark.name: benchmark.title for benchmark in benchmarks}
    output.write(_table(report, titles) + "\n")
    for name, found in report["benchmarks"].items():
        for note in found["notes"]:
            log.info("%s: %s", name, note)
    if limit is not None:
        log.info("the first %d examples only: not to be compared with the paper", limit)


def _choices(given: tuple[str, ...], names: list[str]) -> dict[str, dict[str, str]]:
    choices: dict[str, dict[str, str]] = {}
    for each in given:
        place, equals, value = each.partition("=")
        task, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise click.UsageError(f"--set must look like lambada.text=normalised: got {each!r}.")
        if task not in names:
            raise click.UsageError(f"--set {each}: {task!r} is not among what is run: {', '.join(names)}.")
        choices.setdefault(task, {})[name] = value
    return choices


def _described(benchmark: "Benchmark") -> str:
    lines = [f"{benchmark.name}: {benchmark.title}", f"  {benchmark.protocol}"]
    lines += [f"  file {file.path}: {file.origin}" for file in benchmark.files]
    for name, choice in benchmark.choices.items():
        lines.append(f"  --set {benchmark.name}.{name}={'|'.join(choice.values)}: {choice.help}")
    return "\n".join(lines)


def _table(report: dict[str, Any], titles: dict[str, str]) -> str:
    rows: list[tuple[str, ...]] = [("benchmark", "figure", "here", "124M", "355M", "774M", "1.5B")]
    for name, found in report["benchmarks"].items():
        for figure, value in found["figures"].items():
            if figure in ("words", "tokens", "bytes"):
                continue
            paper = found["paper"].get(figure, (None,) * 4)
            rows.append((titles[name], figure.replace("_", " "), _shown(value), *(_shown(each, "") for each in paper)))
    return output.table(rows, right=(2, 3, 4, 5, 6))


def _shown(value: float | None, nothing: str = "beyond measure") -> str:
    return nothing if value is None else f"{value:,.2f}"


def _without_infinities(value: Any) -> Any:
    """JSON has no infinity: None in its place."""
    if isinstance(value, dict):
        return {name: _without_infinities(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show_progress(name: str, done: int, total: int) -> None:
    if output.is_terminal(sys.stderr) and log.isEnabledFor(logging.INFO):
        click.echo(f"\r{name}: {done:,} of {total:,}" + ("\n" if done == total else ""), nl=False, err=True)
