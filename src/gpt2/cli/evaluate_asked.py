"""The arguments of `gpt2 evaluate` for single benchmarks: choices and limits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gpt2.cli.options import wrong_usage
from gpt2.errors import DataError

if TYPE_CHECKING:
    from gpt2.evaluate import Benchmark


def choices(given: tuple[str, ...], benchmarks: "Sequence[Benchmark]") -> dict[str, dict[str, str]]:
    """The values of each benchmark's choices."""
    named = {benchmark.name: benchmark for benchmark in benchmarks}
    chosen: dict[str, dict[str, str]] = {}
    for each in given:
        place, equals, value = each.partition("=")
        task, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise click.UsageError(f"--set must look like lambada.text=normalised: got {each!r}.")
        if task not in named:
            raise click.UsageError(f"--set {each}: {task!r} is not among what is run: {', '.join(named)}.")
        with wrong_usage(DataError):
            named[task].chosen({name: value})
        chosen.setdefault(task, {})[name] = value
    return chosen


def limits(given: tuple[str, ...], names: list[str]) -> tuple[int | None, dict[str, int]]:
    """The limit for all, and the limits of single benchmarks."""
    of_all, of_one = None, dict[str, int]()
    for each in given:
        task, equals, number = each.rpartition("=")
        if not (number.isascii() and number.isdigit() and int(number)) or bool(task) != bool(equals):
            raise click.UsageError(f"--limit must look like 200 or lambada=200, 1 or more: got {each!r}.")
        if not task:
            of_all = int(number)
        elif task in names:
            of_one[task] = int(number)
        else:
            raise click.UsageError(f"--limit {each}: {task!r} is not among what is run: {', '.join(names)}.")
    return of_all, of_one
