"""`gpt2 finetune`: adapt a model to your own text."""

import contextlib
import dataclasses
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gpt2 import files
from gpt2.cli import output, reading, training
from gpt2.cli.adapters import adapter_options
from gpt2.cli.options import FiniteRange, Name, Place, Sectioned, output_options, seed_option
from gpt2.cli.stopping import SAVED, resumable

if TYPE_CHECKING:
    from gpt2.train import Finetuned, TrainConfig
    from gpt2.train.finetune_data import Prepared
    from gpt2.train.plan import Plan

_log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("text", type=Place())
@click.option("--out", type=Place(), required=True, metavar="DIR", help="Folder of the new model.")
@click.option("--model", default="gpt2-mini", show_default=True, metavar="NAME|DIR|FILE", help="Model to start from.")
@click.option("--field", type=Name(), metavar="NAME", help="JSON field or table column that holds the text.")
@reading.errors_option
@click.option(
    "--validation", type=FiniteRange(0, 0.5), default=0.1, show_default=True, help="Share of the text to hold out."
)
@click.option("--epochs", type=FiniteRange(min=0, min_open=True), metavar="X", help="Read the text at most X times.")
@click.option("--lr", type=FiniteRange(min=0, min_open=True), metavar="X", help="Peak learning rate.")
@click.option("--context", type=click.IntRange(min=1), metavar="N", help="Length of a sequence, in tokens.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change a training setting. Repeatable.")
@click.option(
    "--device", type=Name(), metavar="auto|cpu|cuda|mps", help="Device to train on; auto is a GPU if there is one."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.  [default: the physical cores]")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help="Show how the model continues TEXT. Repeatable."
)
@adapter_options
@seed_option
@training.watching_options
@output_options
def finetune(
    text: Path,
    out: Path,
    model: str,
    field: str | None,
    errors: Literal["strict", "replace"],
    validation: float,
    epochs: float | None,
    lr: float | None,
    context: int | None,
    overrides: tuple[str, ...],
    device: str | None,
    threads: int | None,
    prompts: tuple[str, ...],
    adapters: dict[str, Any] | None,
    seed: int | None,
    report: bool,
    tensorboard: bool,
    wandb: str | None,
    as_json: bool,
) -> None:
    """Adapt a model to TEXT: a file (txt, csv, jsonl, parquet) or a folder of them.

    Training ends when it predicts the held-out part best. Ctrl-C saves and exits with code 75; the same command
    resumes. If no step predicts that part better than the model you start from, it says so (with --json, `gained` is
    false).
    """
    if str(text) == "-":
        raise click.UsageError(
            "TEXT must be a file or a folder: a run that goes on reads it again. Write it to a file."
        )
    with training.importing("Fine-tuning"):
        from gpt2.train import LoraConfig
        from gpt2.train import finetune as run
        from gpt2.train.config import RunConfig
        from gpt2.train.config_files import build, overridden

    given = {"optim.lr": lr, "run.device": device, "run.threads": threads, "run.seed": seed}
    said = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    said += [] if context is None else [f"schedule.sequence=[[0.0, {context}]]"]
    said += overrides
    asked = overridden({"run": {}, "lora": adapters or {}}, said)
    training.check_names(build(RunConfig, asked["run"], "run."), build(LoraConfig, asked["lora"], "lora."))
    sign = out / "run" / "data" / files.MANIFEST_NAME
    with resumable(f"{out} keeps what is done", sign=sign) if training.is_first() else contextlib.nullcontext():
        ended = run(
            text,
            out,
            model=model,
            lora=LoraConfig(**adapters) if adapters else False,
            field=field or "",
            errors=errors,
            validation=validation,
            epochs=epochs,
            overrides=said,
            report=report,
            on_plan=_say_plan,
            on_sample=lambda prepared, vocabulary: training.sampler(
                prompts or (prepared.opening,), vocabulary, threads=threads, max_tokens=60, temperature=0.8, top_k=40
            ),
            trackers=training.trackers(out / "run", tensorboard=tensorboard, wandb=wandb),
        )
    if training.is_first():
        if as_json:
            facts = {**dataclasses.asdict(ended), "gained": ended.gained}
            output.write_json(json.loads(json.dumps(facts, default=str)))
        _say_end(ended, out)
    if not ended.finished:
        sys.exit(SAVED)


def _say_plan(config: "TrainConfig", prepared: "Prepared", plan: "Plan") -> None:
    from gpt2.report.card_sections import optimizer

    _log.info("%s", "\n".join([*prepared.lines(), *plan.lines()]))
    _log.info(
        "%s\n%s tokens a step in sequences of %s; the lowest held-out loss is kept; all settings are in %s",
        optimizer(dataclasses.asdict(config.optim)),
        f"{config.schedule.batch_tokens:,}",
        f"{config.schedule.sequence[-1][1]:,}",
        Path(config.run.folder) / "config.toml",
    )


def _say_end(ended: "Finetuned", out: Path) -> None:
    before_and_after = "" if ended.loss is None else f", held-out loss {ended.loss_before or 0:.3f} -> {ended.loss:.3f}"
    if not ended.finished:
        holds = "what was learned" if ended.loss is None else "the best" if ended.gained else "no gain"
        _log.info("%s holds %s so far%s; the same command resumes.", out, holds, before_and_after)
        return
    why = "the held-out loss stopped falling" if ended.turned else "the text was read as often as planned"
    _log.info("done: %s; %s is the model of step %d%s", why, out, ended.best_step, before_and_after)
    from gpt2.cli.doctor import bytes_below

    megabytes = f"{bytes_below(out / 'run') / 1e6:,.0f}"
    _log.info("%s holds %s MB of training state; you can delete it", out / "run", megabytes)
    if ended.gained:
        _log.info("try it: %s", shlex.join(["gpt2", "generate", "--model", str(out)]))
