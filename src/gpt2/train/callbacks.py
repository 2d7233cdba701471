"""What happens between steps: validation, checkpoints, samples."""

import errno
import itertools
import logging
import math
from collections.abc import Callable, Sequence

import torch

from gpt2.errors import ConfigError, TrainingError
from gpt2.model.gpt import GPT
from gpt2.train import state as states
from gpt2.train.journal import Journal, why
from gpt2.train.loop import Callback, Run
from gpt2.train.metrics import Metrics
from gpt2.train.step import StepReport

_log = logging.getLogger("gpt2")
_VALIDATION_BATCH_TOKENS = 4096


Sampler = Callable[[GPT, int], Sequence[tuple[str, str]] | None]
"""Shows what a model writes at a step, and may return it as prompts with their continuations."""


def check_listeners(*, trackers: object, **given: object) -> None:
    """Refuse callbacks and trackers that cannot be used, before a run begins and not hours later.

    Raises:
        ConfigError: one is not a function, or the trackers are not a list of trackers; it is named.
    """
    if not isinstance(trackers, Sequence) or not all(hasattr(each, "tell") for each in trackers):
        raise ConfigError(f"trackers are a list of what has the methods tell and close: got {trackers!r:.60}.")
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ConfigError(f"{name} must be a function, or left out: got {function!r:.60}.")


class Validation(Callback):
    """Measures the loss over held-out tokens and all rows, regularly and at the end.

    Args:
        metrics: where to write it; None in all processes but the first: they only share the work.
        say: takes a line of text.
    """

    def __init__(self, metrics: Metrics | None, say: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._say = say

    def at_start(self, run: Run) -> None:
        """Measure the first loss of a run that starts from a model."""
        if run.config.start.model and run.progress.step == 0 and run.feed.validation is not None:
            self._measure(run)

    def after_step(self, run: Run, report: StepReport) -> None:
        """Measure when due, and after the last step."""
        every = run.config.run.validate_every_steps
        is_due = run.is_finished or (every and report.step % every == 0)
        if not is_due or run.feed.validation is None:
            return
        loss = self._measure(run)
        progress = run.progress
        if math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_step, progress.validations_since_best = loss, progress.step, 0
        elif progress.best_step is not None:
            progress.validations_since_best += 1

    def _measure(self, run: Run) -> float:
        progress = run.progress
        seq_tokens = run.feed.sequence_tokens(min(run.fraction, 1.0))
        loss, seen = validation_loss(run, seq_tokens=seq_tokens, n_tokens=run.config.run.validation_tokens)
        if self._metrics is not None:
            self._metrics.write(
                step=progress.step,
                tokens=progress.tokens,
                seconds=round(progress.seconds, 3),
                validation_loss=loss if math.isfinite(loss) else None,
                validation_tokens=seen,
                sequence_tokens=seq_tokens,
            )
        self._say(f"step {progress.step}: held-out loss {loss:.4f} over {seen:,} tokens in sequences of {seq_tokens:,}")
        return loss


def validation_loss(run: Run, *, seq_tokens: int, n_tokens: int) -> tuple[float, int]:
    """Mean loss in nats per token over the first `n_tokens` held-out tokens (0: all), and their number.

    Processes that train together share the work, and each gets the result.
    """
    learner, processes = run.learner, run.learner.processes
    batch_tokens = min(_VALIDATION_BATCH_TOKENS, n_tokens or _VALIDATION_BATCH_TOKENS)
    total, seen = 0.0, 0
    learner.model.eval()
    with learner.rounded(run.fraction):
        batches = run.feed.validation_batches(seq_tokens=seq_tokens, n_tokens=n_tokens, batch_tokens=batch_tokens)
        while group := list(itertools.islice(batches, processes.world)):
            is_spare = processes.rank >= len(group)
            if is_spare and learner.sharing != "fsdp":
                continue  # with fsdp every pass needs every process: a spare batch is computed, not counted
            batch, wanted = group[0 if is_spare else processes.rank]
            loss = learner.summed_loss(batch.inputs, batch.targets, wanted)
            if not is_spare:
                total += loss
                seen += batch.inputs.size if wanted is None else int(wanted.sum())
    learner.model.train()
    sums = processes.sum(torch.tensor([total, seen], dtype=torch.float64, device=_of_sums(learner.precision.device)))
    total, seen = float(sums[0]), int(sums[1])
    return total / seen if seen else math.nan, seen


def _of_sums(device: torch.device) -> torch.device:
    """The device for float64 sums: MPS has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class Checkpoints(Callback):
    """Saves the state regularly, after a best validation, when stopped, and at the end."""

    def __init__(self) -> None:
        self._saved_step: int | None = None

    def at_start(self, run: Run) -> None:
        """Note the step that a resumed run has saved."""
        self._saved_step = run.progress.step or None

    def after_step(self, run: Run, report: StepReport) -> None:
        """Save when due. If the disk is full, warn and go on: the next save may succeed."""
        every = run.config.run.checkpoint_every_steps
        if (every and report.step % every == 0) or run.progress.best_step == report.step:
            try:
                self._save(run)
            except OSError as error:
                advice = self._advice(error)
                _log.warning("the checkpoint of step %d was not saved: %s. %s", report.step, why(error), advice)
            except TrainingError as error:
                _log.warning("%s", error)

    def at_end(self, run: Run) -> None:
        """Save what is not saved yet."""
        if self._saved_step != run.progress.step:
            try:
                self._save(run)
            except OSError as error:
                raise TrainingError(
                    f"The state at step {run.progress.step} cannot be saved: {why(error)}. {self._advice(error)}"
                ) from error

    def _advice(self, error: OSError) -> str:
        what = "make room"
        if error.errno == errno.EFBIG:
            what = "no file here may grow so large; raise the limit (ulimit -f), or choose a folder on another disk"
        if self._saved_step is None:
            return f"Nothing of this run is saved yet: {what}."
        return f"The checkpoint before it is whole. {what[0].upper()}{what[1:]}, and run again to go on from there."

    def _save(self, run: Run) -> None:
        processes = run.learner.processes
        failure: OSError | TrainingError | None = None
        try:
            if processes.is_first or run.learner.sharing == "fsdp":
                state = run.capture()
                if processes.is_first:
                    states.save(run.folder, state, run.feed.tokenizer, keep=run.config.run.keep)
        except (OSError, TrainingError) as error:
            failure = error
        if processes.any(
            failure is not None, run.learner.precision.device
        ):  # every process waits for the first and learns of its failure
            raise failure or TrainingError(f"the first process could not save step {run.progress.step}")
        self._saved_step = run.progress.step


class Samples(Callback):
    """Lets the caller generate samples from the model, and keeps them in `samples.jsonl`."""

    def __init__(self, show: Sampler) -> None:
        self._show = show
        self._journal: Journal | None = None
        self._shown_step = -1

    def at_start(self, run: Run) -> None:
        """Sample from the model that the run starts from."""
        path, step = run.folder / "samples.jsonl", run.progress.step
        self._journal = run.learner.processes.first_does("begin", lambda: Journal(path, from_step=step))
        if run.config.start.model and run.progress.step == 0 and run.config.run.sample_every_steps:
            self._sample(run)

    def after_step(self, run: Run, report: StepReport) -> None:
        """Sample when due."""
        every = run.config.run.sample_every_steps
        if every and report.step % every == 0:
            self._sample(run)

    def at_end(self, run: Run) -> None:
        """Sample from the finished model."""
        if run.is_finished and run.config.run.sample_every_steps and self._shown_step != run.progress.step:
            self._sample(run)

    def _sample(self, run: Run) -> None:
        learner = run.learner
        self._shown_step = run.progress.step
        model = learner.model
        if learner.sharing == "fsdp":  # all contribute their shards; the first process assembles the model
            arrays = {name: array for name, array in model.named_arrays() if learner.processes.is_first}
            if arrays:
                model = GPT(model.config)
                model.load_arrays(arrays)
        learner.processes.first_does("show what it writes", lambda: self._write(model, run.progress.step))

    def _write(self, model: GPT, step: int) -> None:
        assert self._journal is not None, "a run has started before it shows anything"
        for prompt, text in self._show(model, step) or ():
            self._journal.write({"step": step, "prompt": prompt, "text": text})
