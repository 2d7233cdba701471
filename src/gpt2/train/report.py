"""A run's page: curves of loss, learning rate, gradient and speed, and samples."""

import itertools
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gpt2 import files
from gpt2.errors import TrainingError
from gpt2.report import Block, Facts, Line, LineChart, Sample, Section, page
from gpt2.train.plan import spoken

PAGE = "report.html"
_MEANS = 60  # points of a smoothed curve
_SAMPLES = 8  # steps whose samples are shown

_ESTIMATED = (
    "Most steps of this run took their loss over some rows of the vocabulary (loss.rows): a batch's is an estimate "
    "then, and may lie below the held-out one, which is over all."
)

Rows = list[dict[str, Any]]


def first_validation(folder: Path) -> tuple[float | None, int]:
    """The held-out loss before the first step, if it was measured, and its number of tokens."""
    rows = files.read_journal(folder / "metrics.jsonl")
    first: dict[str, Any] = next((row for row in rows if row["step"] == 0 and "validation_loss" in row), {})
    return first.get("validation_loss"), first.get("validation_tokens", 0)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, from the run's files.

    Raises:
        TrainingError: the folder holds no run that took a step.
        MissingExtraError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    rows = files.read_journal(folder / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    if not steps:
        raise TrainingError(f"There is nothing to report: {folder} holds no run that took a step.")
    held_out = [row for row in rows if row.get("validation_loss") is not None]
    settings = (folder / "config.toml").read_text(encoding="utf-8")
    losses = _losses(steps, held_out)
    if tomllib.loads(settings)["loss"]["rows"]:
        losses.insert(0, _ESTIMATED)
    sections = [
        Section(title="In short", blocks=[Facts(values=_facts(steps, held_out))]),
        Section(title="Loss", blocks=losses),
        Section(title="Samples", blocks=_samples(files.read_journal(folder / "samples.jsonl"))),
        Section(title="Steps", blocks=_courses(steps)),
    ]
    sections.append(Section(title="Settings", blocks=[Sample(text=settings, caption="config.toml, a recipe itself")]))
    path = folder / PAGE
    html = page(
        f"Training {folder.parent.name if folder.name == 'run' else folder.name}",
        [section for section in sections if section.blocks],
        lead="Losses are in nats a token: the mean negative log-likelihood of the token that came.",
        footer=f"From metrics.jsonl and samples.jsonl beside this page. PyTorch {torch.__version__}.",
    )
    files.write_text(path, html)
    return path


def _facts(steps: Rows, held_out: Rows) -> dict[str, object]:
    last = steps[-1]
    rates = sorted(row["tokens_per_second"] for row in steps)
    facts: dict[str, object] = {}
    if held_out and held_out[0]["step"] == 0:
        facts["Held-out loss before"] = held_out[0]["validation_loss"]
    if measured := [row for row in held_out if row["step"]]:
        best = min(measured, key=lambda row: row["validation_loss"])
        facts |= {"Best held-out loss": best["validation_loss"], "after step": best["step"]}
    facts |= {"Steps taken": last["step"], "Tokens": last["tokens"], "Time in steps": spoken(last["seconds"])}
    facts["Tokens a second (median)"] = round(rates[len(rates) // 2])
    utilisations = sorted(row["mfu"] for row in steps if row.get("mfu") is not None)
    if utilisations:
        facts["Share of the peak (median MFU)"] = f"{utilisations[len(utilisations) // 2]:.0%}"
    if last["skipped"]:
        facts["Steps skipped"] = last["skipped"]
    return facts


def _losses(steps: Rows, held_out: Rows) -> list[str | Block]:
    charts: list[str | Block] = []
    for key, unit, title in (("tokens", "tokens", "Loss over tokens"), ("seconds", "seconds", "Loss over time")):
        lines = _with_means("batch", [row[key] for row in steps], [row["loss"] for row in steps])
        if held_out:
            y = [row["validation_loss"] for row in held_out]
            lines.append(Line(name="held out", x=[row[key] for row in held_out], y=y, color=2))
        charts.append(LineChart(title=title, x_label=unit, y_label="nats per token", lines=lines))
    return charts


def _courses(steps: Rows) -> list[str | Block]:
    tokens = [row["tokens"] for row in steps]
    lr = Line(name="learning rate", x=tokens, y=[row["lr"] for row in steps])
    norm = _with_means("gradient norm", tokens, [row["grad_norm"] for row in steps])
    rate = _with_means("tokens a second", tokens, [row["tokens_per_second"] for row in steps])
    return [
        LineChart(title="Learning rate", x_label="tokens", y_label="learning rate", lines=[lr]),
        LineChart(title="Length of the gradient", x_label="tokens", y_label="norm before clipping", lines=norm),
        LineChart(title="Throughput", x_label="tokens", y_label="tokens a second", lines=rate),
    ]


def _with_means(name: str, x: Sequence[float], y: Sequence[float | None]) -> list[Line]:
    """A noisy curve drawn pale, with the means of its stretches over it."""
    if len(x) < 2 * _MEANS:
        return [Line(name=name, x=x, y=y, color=1)]
    edges = [round(i * len(x) / _MEANS) for i in range(_MEANS + 1)]
    middles: list[float] = []
    means: list[float | None] = []
    for begin, end in itertools.pairwise(edges):
        known = [value for value in y[begin:end] if value is not None]
        middles.append(x[(begin + end) // 2])
        means.append(math.fsum(known) / len(known) if known else None)
    return [
        Line(name=name, x=x, y=y, faint=True, color=1),
        Line(name=f"{name}, mean of {len(x) // _MEANS} steps", x=middles, y=means, color=1),
    ]


def _samples(rows: Rows) -> list[str | Block]:
    steps = sorted({row["step"] for row in rows})
    if len(steps) > _SAMPLES:
        steps = [steps[round(i * (len(steps) - 1) / (_SAMPLES - 1))] for i in range(_SAMPLES)]
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))  # prompt by prompt, to show the change
    return [
        Sample(prompt=prompt, text=row["text"], caption=f"step {row['step']:,}" if row["step"] else "before")
        for prompt in prompts
        for row in rows
        if row["prompt"] == prompt and row["step"] in steps
    ]
