"""`gpt2 verify`: whether a model's files are whole, and whether it is what it is called."""

import dataclasses
import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import ModelChoice, Sectioned, option, output_options
from gpt2.config import PUBLISHED
from gpt2.errors import CheckpointError

if TYPE_CHECKING:
    from gpt2.cli.status_line import StatusLine
    from gpt2.evaluate.known_answers import Check
    from gpt2.language_model import LanguageModel

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("model", metavar="MODEL")
@option(
    "--as",
    "published",
    type=click.Choice(list(PUBLISHED)),
    help="Compare with this published model, whatever MODEL is called.",
)
@option("--download", is_flag=True, help="Download the model first if it is not here.")
@option("--device", default="auto", metavar="auto|cpu|cuda|mps", help="Device to run on; auto is the CPU.")
@option(
    "--backend",
    type=click.Choice(["auto", "native", "torch", "reference"]),
    default="auto",
    help="Engine that runs the model.",
)
@option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads.  [default: the backend's choice]")
@output_options
def verify(
    *,
    model: str,
    published: str | None,
    download: bool,
    device: str,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Check MODEL: its file hashes, weights and vocabulary and, if it is a published model, its answers.

    The expected answers are public values that other people's code computed with the same weights, in fp32.
    """
    from gpt2 import hub
    from gpt2.cli.status_line import StatusLine

    choice = ModelChoice(
        model=model, device=device, backend=backend, weights="fp32", threads=threads, download=download
    )
    short = model.removeprefix(f"{hub.PUBLISHER}/")
    published = published or (short if short in PUBLISHED else None)
    checks: list[Check] = []
    with choice.load() as opened, StatusLine() as line:
        for check in _checks(opened, published, line):
            checks.append(check)
            line.show(lambda: f"{len(checks)} checks")
        shape = next((name for name, config in PUBLISHED.items() if config == opened.config), None)
    failed = [check for check in checks if check.passed is False]
    if as_json:
        facts = [dataclasses.asdict(check) for check in checks]
        output.write_json({"model": model, "compared_with": published, "passed": not failed, "checks": facts}, indent=2)
    else:
        mark = {True: "ok", False: "FAILED", None: "-"}
        rows = [(mark[check.passed], check.name, check.expected[:60], check.found[:80]) for check in checks]
        output.write(output.table([("", "CHECK", "EXPECTED", "FOUND"), *rows]) + "\n")
    if failed:
        raise CheckpointError(
            f"{model} is not as it should be: {len(failed)} of {len(checks)} checks failed, the first: "
            f"{failed[0].name}. Download it again; if its hashes are right, please report it."
        )
    log.info("%s", _verdict(model, published, shape, sum(check.passed is True for check in checks)))


def _checks(model: "LanguageModel", published: str | None, line: "StatusLine") -> "Iterator[Check]":
    from gpt2 import hub
    from gpt2.evaluate import known_answers

    if published is not None:
        known_answers.check_shape(model, published)

    def show(what: str) -> None:
        line.show(lambda: f"checking {what}")

    for file in hub.check_hashes(model.checkpoint.path, progress=show):
        name, expected = f"hash of {file.name}", f"{file.hash[:16]}…"
        found = re.sub(r"\b([0-9a-f]{16})[0-9a-f]{24,48}\b", r"\1…", file.fault or "the same")
        yield known_answers.Check(name=name, passed=not file.fault, expected=expected, found=found)
    sound = True
    for check in known_answers.check_integrity(model, progress=show):
        sound = sound and check.passed is not False
        yield check
    if published is not None and sound:
        answers = known_answers.known_answers(published)
        yield from known_answers.check_answers(model, answers, rounded=model.checkpoint.rounded_to)


def _verdict(model: str, published: str | None, shape: str | None, passed: int) -> str:
    if published is not None:
        return f"{model} gives the known answers of the published {published}: all {passed} checks passed"
    hint = f" It has the shape of {shape}: --as {shape} compares it with that." if shape else ""
    return f"{model} is intact: all {passed} checks passed. No answers are known for a model of this name.{hint}"
