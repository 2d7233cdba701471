"""What `gpt2 evaluate` shows: the table, the list of benchmarks, a comparison, and the progress."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.cli import output
from gpt2.cli.status_line import StatusLine, duration

if TYPE_CHECKING:
    from gpt2.evaluate import Benchmark

log = logging.getLogger("gpt2")


class Progress(StatusLine):
    """Progress, called with (benchmark, answered requests, all requests)."""

    def __init__(self) -> None:
        super().__init__()
        self._name, self._begin, self._from = "", 0.0, 0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show how far the benchmark is, and the time left at the speed so far."""
        if name != self._name:
            self._name, self._begin, self._from = name, time.monotonic(), done
        seconds, now = time.monotonic() - self._begin, done - self._from
        left = f", {duration(seconds / now * (total - done))} left" if now and done < total else ""
        self.show(lambda: f"{name}: {done:,} of {total:,}{left}")


def put(result: dict[str, Any], *, out: Path | None, report: Path | None, as_json: bool) -> None:
    """Write a result: to its files, and to standard output as a table or as JSON."""
    from gpt2.evaluate import page
    from gpt2.files import write_json, write_text

    if as_json:
        output.write_json(result, indent=2)
    else:
        output.write(_table(result) + "\n")
    if out is not None:
        write_json(out, result)
    if report is not None:
        write_text(report, page(result))
        log.info("the report is %s", report)
    for name, found in result["benchmarks"].items():
        for note in found.get("notes", ()):
            log.info("%s: %s", name, note)
        if "missing" in found and not as_json:
            log.info("%s: %s", name, found["missing"])
    if result["settings"]["limit"] is not None:
        log.info("the first %d examples only: not to be compared with the paper", result["settings"]["limit"])


def _table(result: dict[str, Any]) -> str:
    from gpt2.evaluate.benchmark import COUNTS
    from gpt2.evaluate.page import SIZES

    heading = ("benchmark and figure", "here", "± 95 %", *SIZES)
    rows: list[tuple[str, ...]] = [heading]
    for found in result["benchmarks"].values():
        rows.append(_title(found["title"], heading))
        if "missing" in found:
            headline = found["headline"]
            paper = found["paper"].get(headline, (None,) * 4)
            rows.append((_named(headline), "not here", "", *(_shown(each, "") for each in paper)))
        for figure, value in found.get("figures", {}).items():
            if figure in COUNTS:
                continue
            paper = found["paper"].get(figure, (None,) * 4)
            within = _within(found["standard_errors"].get(figure))
            rows.append((_named(figure), _shown(value), within, *(_shown(each, "") for each in paper)))
    return output.table(rows, right=range(1, 7))


def _title(title: str, heading: tuple[str, ...]) -> tuple[str, ...]:
    """A row of its own, since beside its figures a table is wider than a terminal."""
    return (title, *[""] * (len(heading) - 1))


def _named(figure: str) -> str:
    return f"  {figure.replace('_', ' ').replace(' of the surest', ', surest')}"


def _within(standard_error: float | None) -> str:
    from gpt2.evaluate.uncertainty import Z_95

    return "" if standard_error is None else _shown(Z_95 * standard_error)


def put_comparison(before: Path, after: Path, *, as_json: bool) -> None:
    """Write two results side by side."""
    import dataclasses

    from gpt2.evaluate import compare
    from gpt2.files import read_json

    results = [read_json(path, limit_bytes=256 << 20) for path in (before, after)]
    differences, otherwise = compare(*results)
    if as_json:
        output.write_json(
            {"figures": [dataclasses.asdict(each) for each in differences], "otherwise": otherwise}, indent=2
        )
        return
    heading = ("benchmark and figure", "first", "second", "change", "standard error")
    rows: list[tuple[str, ...]] = [heading]
    title = ""
    for each in differences:
        if each.benchmark != title:
            title = each.benchmark
            rows.append(_title(title, heading))
        known = each.before is not None and each.after is not None
        change = _shown((each.after or 0) - (each.before or 0), sign="+") if known else ""
        error = _shown(each.standard_error, "")
        rows.append((_named(each.figure), _shown(each.before), _shown(each.after), change, error))
    output.write(output.table(rows, right=(1, 2, 3, 4)) + "\n")
    for line in otherwise:
        log.info("%s", line)


def described(benchmark: "Benchmark") -> str:
    """A benchmark's protocol, files and choices."""
    lines = [f"{benchmark.name}: {benchmark.title}", f"  {benchmark.protocol}"]
    for file in benchmark.files:
        with_choice = f" (with {file.when[0]}={' or '.join(file.when[1:])})" if file.when else ""
        lines.append(f"  file {file.path}{with_choice}: {file.origin}")
    for name, choice in benchmark.choices.items():
        lines.append(f"  --set {benchmark.name}.{name}={'|'.join(choice.values)}: {choice.help}")
    return "\n".join(lines)


def _shown(value: float | None, nothing: str = "-", *, sign: str = "") -> str:
    """A number with two decimals; from a million on, as in weak models' perplexities, in powers of ten."""
    if value is None:
        return nothing
    return f"{value:{sign}.2e}" if abs(value) >= 1e6 else f"{value:{sign},.2f}"
