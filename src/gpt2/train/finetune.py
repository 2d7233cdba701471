"""Fine-tuning: takes a model and a user's text, makes a model that writes like it. `gpt2 finetune` calls it.

The folder it makes is the model; `run` inside it is the training run.
"""

import contextlib
import errno
import logging
import math
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from gpt2 import checkpoint, files, hub
from gpt2.config import truth_of
from gpt2.errors import ConfigError, DataError, SettingError, TrainingError
from gpt2.report import check_charts
from gpt2.train.callbacks import Sampler, check_listeners
from gpt2.train.config import LoraConfig, TrainConfig
from gpt2.train.finetune_card import card
from gpt2.train.finetune_data import Prepared, prepare_text
from gpt2.train.finetune_settings import RUN, choose_config
from gpt2.train.finetune_text import Errors
from gpt2.train.metrics import Tracker
from gpt2.train.parallel import joined
from gpt2.train.plan import Plan
from gpt2.train.pretrain import Outcome, pretrain
from gpt2.train.report import first_validation, write_report

_log = logging.getLogger("gpt2")
_OF_EITHER = {"config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"}
_STATE = ("training_state.safetensors", "training_state.json", files.MANIFEST_NAME)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuned:
    """How a fine-tuning ended.

    Attributes:
        finished: whether it ended by itself; if False, it was stopped, and the same call resumes.
        folder: the best model so far, or its adapters.
        steps: number of steps taken.
        best_step: the step whose model is in the folder.
        loss_before: loss of the original model on the held-out text, in nats per token; None: nothing is held out.
        loss: loss of the model in the folder, on the same text.
        loss_tokens: number of tokens both losses are means of, up to about `run.validation_tokens`.
        turned: whether it ended because the held-out loss rose again.
    """

    finished: bool
    folder: Path
    steps: int
    best_step: int
    loss_before: float | None
    loss: float | None
    turned: bool
    loss_tokens: int = 0

    @property
    def gained(self) -> bool:
        """Whether the model predicts the held-out text better than before; True if that was not measured before."""
        return self.loss_before is None or (self.loss is not None and self.loss < self.loss_before)


def finetune(
    text: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "gpt2-mini",
    lora: LoraConfig | bool = False,
    field: str = "",
    validation: float = 0.1,
    epochs: float | None = None,
    errors: Errors = "strict",
    overrides: Sequence[str] = (),
    report: bool = False,
    say: Callable[[str], None] | None = None,
    on_plan: Callable[[TrainConfig, Prepared, Plan], None] | None = None,
    on_sample: "Callable[[Prepared, Path], Sampler] | None" = None,
    trackers: Sequence[Tracker] = (),
) -> Finetuned:
    """Adapt a model to a text, or resume an interrupted run.

    SIGTERM and Ctrl-C, in a notebook too, save the state after the current step and end the run without an error: the
    result is not `finished`, and the same call resumes.

    Args:
        text: a file (plain text, CSV, JSON Lines, Parquet) or a folder of them. JSON objects and tables have `text`,
            or `prompt` and `completion`, of which only the completion is learned.
        out: the folder of the new model.
        model: the model to start from: a name, a folder, a file or a hub id.
        lora: train adapters of the model's matrices (True: of rank 8) and leave the model unchanged.
        field: the JSON field or table column that holds the text.
        validation: the share of the text to hold out, in whole documents; 0 holds out nothing and never stops early.
        epochs: read the text at most this often; by default as often as suits its size.
        errors: "strict" refuses text that is not UTF-8; "replace" reads U+FFFD in place of such bytes.
        overrides: training settings as `section.name=value`; see `TrainConfig`.
        report: whether to write `run/report.html`.
        say: called with each progress line, such as `print`; by default lines go to the log, at level INFO.
        on_plan: called with the settings, the text and the plan before the first step.
        on_sample: makes the function that samples texts; called with the text and the folder of the vocabulary.
        trackers: called with every number of `metrics.jsonl`.

    Raises:
        DataError: no text, too little of it, or files that cannot be read.
        SettingError: invalid settings.
        ConfigError: a folder that holds something else.
        MissingExtraError: a report needs matplotlib, which is not installed.
        ModelNotFoundError: the model is not here.
        TrainingError: not enough memory, or the run diverges.
    """
    text = files.path_of(text, "The text", DataError)
    out = files.path_of(out, "The new model's folder", ConfigError)
    lora = (LoraConfig(rank=8) if lora else LoraConfig()) if isinstance(lora, bool) else lora
    _check_settings(lora=lora, field=field, validation=validation, epochs=epochs, errors=errors, overrides=overrides)
    report = truth_of("report", report, ConfigError)
    check_listeners(say=say, on_plan=on_plan, on_sample=on_sample, trackers=trackers)
    speak = say or _log.info
    _check_goal(out, text)
    base = checkpoint.read(hub.locate(model))
    name = os.fspath(model)
    if Path(name).exists():
        name = str(Path(name).resolve())  # the run can resume from any working directory
    tokenizer = base.tokenizer()
    asked_device = next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("run.device=")), "auto")
    config_for = partial(choose_config, base.config, name=name, out=out, lora=lora, epochs=epochs, overrides=overrides)
    with joined(asked_device.strip("\"'")) as processes:
        if report:
            processes.first_does("draw the report", check_charts)
        config_for(None)  # raises on invalid settings before a long text is read

        def prepare() -> Prepared:
            goal = out / RUN / "data"
            return prepare_text(text, goal, tokenizer, field=field, validation=validation, errors=errors)

        def begin() -> Prepared:
            with _writing(out):
                prepared = prepare()
                tokenizer.save(out / RUN / "vocabulary")
            return prepared

        prepared = processes.first_does("prepare the text", begin) or prepare()  # the others read what the first wrote
        config = config_for(prepared)
        if processes.is_first and base.weights.form in ("int8", "int4"):
            gigabytes = 4 * base.config.parameters / 1e9
            speak(
                f"{name} is stored in {base.weights.form}; training converts it to float32 "
                f"({gigabytes:.2f} GB){'' if lora.rank else ', and saves it so'}."
            )
        outcome = pretrain(
            config,
            say=say,
            on_plan=None if on_plan is None else lambda plan: on_plan(config, prepared, plan),
            on_sample=None if on_sample is None else on_sample(prepared, out / RUN / "vocabulary"),
            trackers=trackers,
        )
        ended = _ended(outcome, out, config)

        def leave() -> None:
            with _writing(out):
                _export(outcome, out, card(base=name, config=config, prepared=prepared, ended=ended, text=text.name))
            if report and outcome.step:
                write_report(out / RUN)
            if ended.finished and not ended.gained:
                _log.warning("%s", _nothing_gained(ended, config, name))

        processes.first_does(f"write {out}", leave)
    return ended


def _check_settings(
    *, lora: object, field: object, validation: object, epochs: object, errors: object, overrides: object
) -> None:
    if not isinstance(lora, LoraConfig):
        raise SettingError(f"lora is True, False or a gpt2.train.LoraConfig: got {lora!r:.60}.")
    if not isinstance(field, str) or not files.is_utf8(field):
        raise SettingError(f"field is the name of what holds the text: got {field!r:.60}.")
    if not isinstance(validation, int | float) or not 0 <= validation < 1:
        raise SettingError(
            f"No text can be held out by validation={validation!r:.60}: it is a share, from 0 to below 1."
        )
    if epochs is not None and not (isinstance(epochs, int | float) and 0 < epochs < math.inf):
        raise SettingError(f"The text cannot be read {epochs!r:.60} times: epochs must be a number above 0.")
    if not isinstance(errors, str) or errors not in get_args(Errors):
        raise SettingError(f"Bytes that are not UTF-8 cannot be met by {errors!r:.60}: say strict or replace.")
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise SettingError(f"overrides are a list of settings, as ['optim.lr=1e-4']: got {overrides!r:.60}.")
    for override in overrides:
        if not isinstance(override, str):
            raise SettingError(f"A setting is overridden by a text, as 'optim.lr=1e-4': got {override!r:.60}.")


def _check_goal(out: Path, text: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} cannot be filled: it is a file. Choose the name of a folder (--out).")
    if out.is_dir() and any(out.iterdir()) and not (out / RUN).is_dir():
        raise ConfigError(
            f"{out} cannot be filled: it holds {next(iter(sorted(out.iterdir()))).name!r}, and no fine-tuning that "
            f"could go on. Choose a new folder (--out)."
        )
    if text.is_dir() and out.resolve().is_relative_to(text.resolve()):
        raise ConfigError(
            f"{out} cannot be filled: it lies in {text}, all of which is the text, and a run that goes on would read "
            f"its own files. Choose a folder elsewhere (--out), or put the text into a folder of its own."
        )
    files.check_goal(out)


@contextlib.contextmanager
def _writing(out: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(
            f"{out} cannot be filled: the disk is full. Make room, and run the same again, or choose a folder on "
            f"another disk (--out)."
        ) from error


def _ended(outcome: Outcome, out: Path, config: TrainConfig) -> Finetuned:
    best = outcome.best_checkpoint
    loss_before, loss_tokens = first_validation(out / RUN)
    return Finetuned(
        finished=outcome.finished,
        folder=out,
        steps=outcome.step,
        best_step=int(best.name.removeprefix("step-")),
        loss_before=loss_before,
        loss=outcome.best_loss,
        turned=outcome.finished and outcome.tokens < config.schedule.tokens,
        loss_tokens=loss_tokens,
    )


def _nothing_gained(ended: Finetuned, config: TrainConfig, name: str) -> str:
    best = "was never finite" if ended.loss is None else f"never fell below that (best {ended.loss:.4f})"
    lower = f"--lr {config.optim.lr / 4:.2g}"
    if config.optim.matrices == "muon":
        lower += f" --set optim.muon_lr={config.optim.muon_lr / 4:.2g}"
    adapters = "" if config.lora.rank or config.optim.matrices == "muon" else ", or --lora"
    return (
        f"nothing was gained: {ended.folder} is no better at this text than {name}. The held-out loss was "
        f"{ended.loss_before:.4f} before and {best}: the learning rate {config.optim.lr:g} is too high for this text, "
        f"or the text too small. Try {lower}{adapters}"
    )


def _export(outcome: Outcome, out: Path, text_of_card: str) -> None:
    """Copy the best checkpoint's model files into the user's folder, each one atomically."""
    names = sorted(source.name for source in outcome.best_checkpoint.iterdir() if source.name not in _STATE)
    for name in names:
        with (outcome.best_checkpoint / name).open("rb") as file, files.atomic_file(out / name) as goal:
            shutil.copyfileobj(file, goal)
    for name in _OF_EITHER.difference(names):  # left by a try that was stopped before its first step
        (out / name).unlink(missing_ok=True)
    files.write_text(out / "README.md", text_of_card)
