"""A whole run from its configuration; `gpt2 train` and `gpt2.pretrain` call it."""

import contextlib
import logging
import shlex
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpt2 import checkpoint, files, hub, machine
from gpt2.errors import ConfigError, SettingError, ShardError
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.train import plan as plans
from gpt2.train import state as states
from gpt2.train.adapted import AdaptedGPT
from gpt2.train.callbacks import Checkpoints, Sampler, Samples, Validation, check_listeners
from gpt2.train.config import TrainConfig
from gpt2.train.config_files import as_tree, to_toml
from gpt2.train.feed import Feed
from gpt2.train.live_line import ProgressLine
from gpt2.train.loop import Run, loop
from gpt2.train.memory import kept_memory
from gpt2.train.metrics import Metrics, Tracker
from gpt2.train.parallel import Processes, joined
from gpt2.train.plan import Plan
from gpt2.train.precision import choose_precision, chunk_tokens, micro_batch_tokens
from gpt2.train.step import Learner
from gpt2.train.trackers import TensorBoard, WeightsAndBiases

_log = logging.getLogger("gpt2")
_TRIAL_TOKENS = 2048
_ROUND_ROWS = 128  # vocabularies are padded to a multiple of this, for speed
_OF_A_RUN = {"latest", "metrics.jsonl"}  # a run that has begun has one of them
_BESIDE = {"data", "vocabulary", "tensorboard", "wandb"}  # may be there before a run begins

# Settings that may change between two starts of one run: they affect what is learned only from now on, or never.
_FREE = {
    "schedule": {"tokens"},
    "start": {"model"},  # its weights are known by their hash
    "data": {"folder", "tokenizer"},  # the shards say by hash which vocabulary they need
    "loss": {"full_fraction", "chunk_tokens"},
    "run": {
        "folder",
        "compile",
        "device",
        "micro_batch_tokens",
        "threads",
        "parallel",
        "recompute",
        "validate_every_steps",
        "validation_tokens",
        "sample_every_steps",
        "checkpoint_every_steps",
        "keep",
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: whether all tokens are done; if False, it was stopped, and starting it again resumes.
        checkpoint: its newest saved state, which is a model folder too.
        best_checkpoint: the checkpoint with the lowest validation loss; the newest, if none was measured.
        step: the last step.
        tokens: number of tokens trained on.
        best_loss: lowest validation loss, if any was measured.
    """

    finished: bool
    checkpoint: Path
    best_checkpoint: Path
    step: int
    tokens: int
    best_loss: float | None


def pretrain(
    config: TrainConfig,
    *,
    say: Callable[[str], None] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_sample: Sampler | None = None,
    trackers: Sequence[Tracker] = (),
) -> Outcome:
    """Train a model from its configuration, or resume the run in `config.run.folder`.

    SIGTERM and Ctrl-C, in a notebook too, save the state after the current step and end the run without an error: the
    result is not `finished`, and the same call resumes.

    Args:
        config: the run; `data.folder` and `run.folder` must be set.
        say: called with each progress line, such as `print`; by default lines go to the log, at level INFO.
        on_plan: called with the plan of the run before the first step.
        on_sample: called with the model every `run.sample_every_steps`; its result is kept in `samples.jsonl`.
        trackers: called with every number of `metrics.jsonl`, such as `TensorBoard`.

    Several processes started by torchrun train together; only the first calls back.

    Raises:
        SettingError: no folder for the run.
        ConfigError: invalid settings, or a folder that holds another run.
        DataError: shards that cannot be used.
        FolderInUseError: another process trains in this folder.
        TrainingError: the run diverges or its state cannot be saved.
    """
    if not isinstance(config, TrainConfig):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls this
        raise ConfigError(
            f"A run is described by a gpt2.train.TrainConfig: got {config!r:.60}. gpt2.train.load_config makes one of "
            f"a recipe or a file."
        )
    check_listeners(say=say, on_plan=on_plan, on_sample=on_sample, trackers=trackers)
    if not config.run.folder:
        raise SettingError("The run has no place: run.folder is empty. Say --out DIR.")
    folder = Path(config.run.folder)
    with (
        _torch_as_it_was(),
        joined(config.run.device) as processes,
        contextlib.ExitStack() as held,
        kept_memory(),
    ):

        def hold() -> None:
            _refuse_strangers(folder)
            held.enter_context(files.lock(folder))
            states.drop_beginning(folder)

        processes.first_does("hold the run's folder", hold)
        speak = (say or _log.info) if processes.is_first else _silent
        run, plan = _prepare(config, folder, processes, speak)

        def begin() -> Metrics:
            if not run.is_finished:
                plans.check_room(config, folder)
                for tracker in trackers:
                    if isinstance(tracker, TensorBoard | WeightsAndBiases):
                        tracker.begin()
            metrics = Metrics(
                folder / "metrics.jsonl",
                from_step=run.progress.step,
                flops_per_token=_flops_per_token,
                peak_flops=plans.measured_peak_flops(run.learner.precision),
                processes=processes.world,
                trackers=trackers,
            )
            files.write_text(folder / "config.toml", to_toml(config))
            if on_plan is not None:
                on_plan(plan)
            return metrics

        metrics = processes.first_does("begin", begin)
        callbacks = [
            *([] if metrics is None else [metrics, ProgressLine(speak, metrics, expected_seconds=plan.seconds)]),
            Validation(metrics, speak),
            Checkpoints(),
            *([Samples(on_sample)] if on_sample else []),
        ]
        if not run.is_finished:
            with _stopped_by_signals(run):
                loop(run, callbacks)
        return _outcome(run)


def _outcome(run: Run) -> Outcome:
    progress, newest = run.progress, states.latest(run.folder)
    assert newest is not None, "the loop saves at its end"
    best = None if progress.best_step is None else states.checkpoint_folder(run.folder, progress.best_step)
    return Outcome(
        finished=run.is_finished,
        checkpoint=newest,
        best_checkpoint=best if best is not None and best.is_dir() else newest,
        step=progress.step,
        tokens=progress.tokens,
        best_loss=progress.best_loss,
    )


def _refuse_strangers(folder: Path) -> None:
    """Raise a ConfigError if the folder holds files that neither a run nor its preparation puts there."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} cannot be trained in: it is a file. Choose the name of a folder (--out).")
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set[str]()
    strangers = sorted(name for name in names - _BESIDE if not name.startswith("."))
    if strangers and not names & _OF_A_RUN:
        raise ConfigError(
            f"{folder} cannot be trained in: it holds {strangers[0]!r}, and no run that could go on. "
            f"Choose a new folder (--out)."
        )


def _silent(line: str) -> None:
    """Say nothing: only the first of several processes reports."""


def _prepare(config: TrainConfig, folder: Path, processes: Processes, say: Callable[[str], None]) -> tuple[Run, Plan]:
    precision = choose_precision(config.run)
    newest = states.latest(folder)
    state = None if newest is None else states.load(newest)
    before = 0 if state is None else state.config["run"].get("micro_batch_tokens", 0)
    if before and not config.run.micro_batch_tokens:  # keep the fitted size: another order of sums gives other bits
        config = replace(config, run=replace(config.run, micro_batch_tokens=before))
    elif processes.world == 1:  # several need equal micro-batches
        config = plans.fit_memory(config, precision, say)
    threads = config.run.threads or max(1, machine.physical_cores() // processes.local_world)
    torch.set_num_threads(threads)
    feed = Feed(config)
    if problems := list(feed.broken()):
        raise ShardError(f"The run cannot start, its data are not what they were: {problems[0]}. Prepare them again.")
    if feed.validation is None:
        own = Path(config.data.folder) == folder / "data"  # `finetune` prepares this folder itself
        advice = "give a share of the text (--validation 0.1)" if own else "prepare with --validation 0.01"
        _log.warning("nothing is held out, so no validation loss will be measured: %s", advice)
    if state is None and not config.start.model:
        _tell_of_unused_rows(config, feed.tokenizer.vocab_size)
    start = checkpoint.read(hub.locate(config.start.model)).weights if config.start.model else None
    start_hash = "" if start is None else checkpoint.fingerprint(start)
    if state is not None:
        _check_same_run(state.config, as_tree(config), folder)
        _check_same_start(state, config, start_hash, folder)
        if state.tokenizer_hash != feed.tokenizer.hash:
            raise ConfigError(f"The run in {folder} cannot go on: its data were written with another vocabulary.")
    model = _build(config, start)
    torch.manual_seed(config.run.seed)
    frequency_V = feed.frequencies() if config.loss.rows else None
    learner = Learner(model.to(precision.device), config, precision, frequency_V, processes)
    run = Run(config, learner, feed, folder, start_hash)
    if state is not None:
        run.resume(state)
        if state.data_hash not in ("", feed.data_hash) and not run.is_finished:
            _log.warning(
                "the data in %s are not those that this run was trained on: it continues in them at the same position",
                config.data.folder,
            )
    plan = Plan(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        tokens=config.schedule.tokens,
        steps=config.total_steps,
        memory_bytes=plans.memory_estimate_bytes(
            config, micro_batch_tokens(config.run, precision), chunk_tokens(config, precision)
        ),
        device=f"{precision.device.type} in {str(precision.dtype).removeprefix('torch.')} ({precision.reason})"
        + (f", {processes.world} processes ({learner.sharing})" if processes.world > 1 else ""),
        threads=threads,
        resumed_step=run.progress.step,
        seconds=_trial_seconds(run) if config.start.model and processes.world == 1 and not run.is_finished else None,
    )
    return run, plan


def _tell_of_unused_rows(config: TrainConfig, n_ids: int) -> None:
    """Warn if the vocabulary leaves more of the model's rows unused than padding to a round number would."""
    n_rows = config.model.vocab_size
    if n_rows - n_ids >= _ROUND_ROWS:
        rows = " --set loss.rows=0" if config.loss.rows > n_ids else ""
        _log.warning(
            "the vocabulary has %s ids, but the model has rows for %s: the rest waste time and memory. "
            "Leave them out: --set model.vocab_size=%d%s",
            f"{n_ids:,}",
            f"{n_rows:,}",
            n_ids,
            rows,
        )


def _trial_seconds(run: Run) -> float:
    """Estimate the seconds left by timing some sequences of the next batch; nothing is learned."""
    schedule, learner = run.config.schedule, run.learner
    batch, wanted = run.feed.batch(run.progress.cursor, run.fraction)
    n_rows = max(1, min(learner.micro_tokens, _TRIAL_TOKENS) // batch.inputs.shape[1])
    part = slice(0, n_rows)
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        learner.rehearse(batch.inputs[part], batch.targets[part], None if wanted is None else wanted[part])
        seconds = time.perf_counter() - began
    a_token = seconds / batch.inputs[part].size
    left = max(0, schedule.tokens - run.progress.tokens)
    every = run.config.run.validate_every_steps
    held_out = 0 if run.feed.validation is None else run.feed.validation.n_tokens
    validated = min(run.config.run.validation_tokens or held_out, held_out)
    validations = left // schedule.batch_tokens // every if every else 1
    return a_token * (left + validations * validated / 3)  # forward alone is a third of the work


def _build(config: TrainConfig, weights: checkpoint.Weights | None) -> GPT:
    """The model with its first weights: drawn by the seed, or those of `start.model`, if it names one.

    Raises:
        ConfigError: `start.model` has another shape.
    """
    generator = torch.Generator().manual_seed(config.run.seed)
    if weights is None:
        model = GPT(config.model, dropout=config.optim.dropout)
        initialize(model, generator, zero_projections=config.optim.zero_projections)
        return model
    if weights.config != config.model:
        raise ConfigError(
            f"The run cannot begin from {config.start.model}: that is {weights.config}, and the run's model is "
            f"{config.model}. Set model to that."
        )
    arrays = {name: weights.float32(name) for name in weights.names}
    if config.lora.rank:
        return AdaptedGPT(config.model, arrays, config.lora, generator, dropout=config.optim.dropout)
    model = GPT(config.model, dropout=config.optim.dropout)
    model.load_arrays(arrays)
    return model


def _check_same_run(saved: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    for section, values in asked.items():
        for key, value in values.items():
            before = saved.get(section, {}).get(key, value)
            if before != value and key not in _FREE.get(section, set()):
                raise ConfigError(
                    f"The run in {folder} cannot go on with {section}.{key} = {value!r}: it began with {before!r}. "
                    f"{_how_to_go_on(folder, asked, f'{section}.{key}', before)}, or choose a new folder."
                )


def _check_same_start(state: states.TrainState, config: TrainConfig, start_hash: str, folder: Path) -> None:
    """Raise a ConfigError where the run began from other weights; of earlier versions only the name is known."""
    before, asked = state.config["start"]["model"], config.start.model
    if (start_hash != state.start_hash) if state.start_hash else (before != asked):
        raise ConfigError(
            f"The run in {folder} cannot go on from start.model = {asked!r}: that is not the model that it began "
            f"from, {before!r}. Give that one, or choose a new folder."
        )


def _how_to_go_on(folder: Path, asked: Mapping[str, Any], setting: str, before: object) -> str:
    """Advice for a recipe that has changed; the settings of a fine-tuning come from its text."""
    if setting == "lora.rank":
        return f"Keep that (--lora --lora-rank {before})" if before else "Leave out --lora"
    if asked["start"]["model"]:
        return f"Give the options that it began with ({folder / 'config.toml'} holds its settings)"
    recipe = shlex.quote(str(folder / "config.toml"))
    return f"Keep that (`gpt2 train {recipe} --out {shlex.quote(str(folder))}` goes on with all settings as they were)"


def _flops_per_token(run: Run, progress: float) -> float:
    rows = run.config.model.vocab_size if run.learner.uses_all_rows(progress) else run.config.loss.rows
    return plans.flops_per_token(run.config.model, seq_tokens=run.feed.sequence_tokens(progress), rows=rows)


@contextlib.contextmanager
def _torch_as_it_was() -> Generator[None]:
    """Restore PyTorch's random state and number of threads afterwards: they belong to the whole process."""
    threads = torch.get_num_threads()
    seen = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # an unused GPU has no state
    with torch.random.fork_rng(devices=seen):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _stopped_by_signals(run: Run) -> Generator[None]:
    """The first SIGTERM or Ctrl-C asks the loop to stop; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        run.ask_to_stop()
        _log.warning("stopping after this step, and saving; a second signal stops at once")
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
