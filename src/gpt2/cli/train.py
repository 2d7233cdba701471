"""`gpt2 train`: pretrain a model from a recipe."""

import dataclasses
import json
import logging
import shlex
import sys
from pathlib import Path

import click

from gpt2.cli import output, training
from gpt2.cli.options import Name, Place, Sectioned, output_options, seed_option
from gpt2.cli.stopping import SAVED

_PROMPTS = ("Once upon a time", "The old man", "In the year")
_log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("recipe", metavar="RECIPE|FILE.toml")
@click.option("--data", type=Place(), metavar="DIR", help="Token shards, from `gpt2 prepare`.")
@click.option("--out", type=Place(), metavar="DIR", help="Folder of the run; resumes this run if it is there.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change a setting of the recipe. Repeatable.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Length of the run, in optimizer steps.")
@click.option(
    "--device", type=Name(), metavar="auto|cpu|cuda|mps", help="Device to train on; auto is a GPU if there is one."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.  [default: the physical cores]")
@click.option("--dry-run", is_flag=True, help="Show the settings and exit.")
@seed_option
@training.watching_options
@output_options
def train(
    recipe: str,
    data: Path | None,
    out: Path | None,
    overrides: tuple[str, ...],
    steps: int | None,
    device: str | None,
    threads: int | None,
    dry_run: bool,
    seed: int | None,
    report: bool,
    tensorboard: bool,
    wandb: str | None,
    as_json: bool,
) -> None:
    """Train a model from scratch, by one of this package's recipes or your own.

    Ctrl-C or SIGTERM saves and exits with code 75. The same command then resumes the run exactly.
    """
    with training.importing("Training"):
        from gpt2.report import check_charts
        from gpt2.train import load_config, pretrain, to_toml, write_report
    given = {"data.folder": data, "run.folder": out, "run.device": device, "run.threads": threads, "run.seed": seed}
    said = [f"{name}={_toml(value)}" for name, value in given.items() if value is not None]
    config = load_config(recipe, [*overrides, *said])
    if steps is not None:
        length = dataclasses.replace(config.schedule, tokens=steps * config.schedule.batch_tokens)
        config = dataclasses.replace(config, schedule=length)
    training.check_names(config.run, config.lora)
    if dry_run:
        output.write(to_toml(config))
        return
    if report and training.is_first():
        check_charts()
    outcome = pretrain(
        config,
        on_plan=lambda plan: _log.info("%s\n%s", to_toml(config), "\n".join(plan.lines())),
        on_sample=training.sampler(
            _PROMPTS,
            Path(config.data.tokenizer or config.run.folder),
            threads=threads,
            max_tokens=40,
            temperature=0.7,
            top_k=40,
        ),
        trackers=training.trackers(Path(config.run.folder), tensorboard=tensorboard, wandb=wandb),
    )
    is_first = training.is_first()
    if report and outcome.step and is_first:
        _log.info("%s shows the run", write_report(Path(config.run.folder)))
    if as_json and is_first:
        output.write_json(json.loads(json.dumps(dataclasses.asdict(outcome), default=str)))
    if not outcome.finished:
        if is_first:
            _log.info("%s keeps what is done; the same command resumes from there.", config.run.folder)
        sys.exit(SAVED)
    if not is_first:
        return
    _log.info("done: %s is a model folder", outcome.checkpoint)
    _log.info("try it: %s", shlex.join(["gpt2", "generate", "--model", str(outcome.checkpoint), _PROMPTS[0]]))


def _toml(value: object) -> str:
    return json.dumps(value if isinstance(value, int) else str(value), ensure_ascii=False)  # TOML quotes alike
