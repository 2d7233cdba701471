"""What happens between steps: metrics, validation, checkpoints, samples, the line that people watch."""

import errno
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpt2 import files
from gpt2.errors import TrainingError
from gpt2.model.gpt import GPT
from gpt2.train import state as states
from gpt2.train.loop import Callback, Run
from gpt2.train.loss import cross_entropy
from gpt2.train.step import StepReport

_log = logging.getLogger("gpt2")
_VALIDATION_BATCH_TOKENS = 4096


class Metrics(Callback):
    """`metrics.jsonl`: one object a step, and one for every validation. After a resume, what was not saved is cut off.

    Args:
        path: the file.
        from_step: where the run goes on; lines after it are of steps that will be done again.
        flops_per_token: of forward and backward, by sequence length and rows of the loss.
        peak_flops: of the device; None: unknown.
    """

    def __init__(
        self, path: Path, *, from_step: int, flops_per_token: Callable[[Run], float], peak_flops: float | None
    ) -> None:
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= from_step]
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        self._path = path

    def after_step(self, run: Run, report: StepReport) -> None:
        """Write the step's line."""
        rate = run.config.schedule.batch_tokens / report.seconds
        mfu = self._flops_per_token(run) * rate / self._peak_flops if self._peak_flops else None
        self.write(
            step=report.step,
            tokens=report.tokens,
            seconds=round(run.progress.seconds, 3),
            loss=None if report.skipped else report.loss,
            lr=report.lr,
            grad_norm=None if report.skipped else report.grad_norm,
            tokens_per_second=round(rate, 1),
            mfu=None if mfu is None else round(mfu, 4),
            skipped=run.progress.skipped,
        )

    def write(self, **values: Any) -> None:
        """Append one object."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # the last line of a process that was killed


class Validation(Callback):
    """The loss over held-out tokens and all rows, now and then and at the end."""

    def __init__(self, metrics: Metrics, say: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._say = say

    def after_step(self, run: Run, report: StepReport) -> None:
        """Measure where it is due, and after the last step."""
        every = run.config.run.validate_every_steps
        is_due = run.is_finished or (every and report.step % every == 0)
        if not is_due or run.feed.validation is None:
            return
        progress = run.progress
        seq_tokens = run.feed.sequence_tokens(min(run.fraction, 1.0))
        loss, seen = validation_loss(run, seq_tokens=seq_tokens, n_tokens=run.config.run.validation_tokens)
        if math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_step = loss, progress.step
        self._metrics.write(
            step=progress.step,
            tokens=progress.tokens,
            seconds=round(progress.seconds, 3),
            validation_loss=loss if math.isfinite(loss) else None,
            validation_tokens=seen,
            sequence_tokens=seq_tokens,
        )
        self._say(f"step {progress.step}: held-out loss {loss:.4f} over {seen:,} tokens in sequences of {seq_tokens:,}")


@torch.no_grad()
def validation_loss(run: Run, *, seq_tokens: int, n_tokens: int) -> tuple[float, int]:
    """Mean loss in nats per token over the first `n_tokens` held-out tokens (0: all), and how many they were."""
    learner = run.learner
    batch_tokens = min(_VALIDATION_BATCH_TOKENS, n_tokens or _VALIDATION_BATCH_TOKENS)
    device = learner.precision.device
    total, seen = 0.0, 0
    learner.model.eval()
    with learner.rounded(run.fraction):
        for batch in run.feed.validation_batches(seq_tokens=seq_tokens, n_tokens=n_tokens, batch_tokens=batch_tokens):
            inputs = torch.from_numpy(batch.inputs).to(device)
            targets = torch.from_numpy(batch.targets).to(device)
            with learner.precision.autocast():
                x_ND = learner.model.hidden(inputs).flatten(0, 1)
                loss = cross_entropy(x_ND, learner.model.wte.weight, targets.flatten())
            total += float(loss) * batch.inputs.size
            seen += batch.inputs.size
    learner.model.train()
    return total / seen, seen


class Checkpoints(Callback):
    """Saves the state now and then, after a best validation, when stopped, and at the end."""

    def __init__(self) -> None:
        self._saved_step = 0

    def after_step(self, run: Run, report: StepReport) -> None:
        """Save where it is due. A disk that is full is told, and the run goes on: the next save may succeed."""
        every = run.config.run.checkpoint_every_steps
        if (every and report.step % every == 0) or run.progress.best_step == report.step:
            try:
                self._save(run)
            except OSError as error:
                _log.warning("the checkpoint of step %d was not saved: %s. %s", report.step, _why(error), _KEPT)
            except TrainingError as error:
                _log.warning("%s", error)

    def at_end(self, run: Run) -> None:
        """Save what is not saved yet."""
        if self._saved_step != run.progress.step:
            try:
                self._save(run)
            except OSError as error:
                raise TrainingError(
                    f"The state at step {run.progress.step} cannot be saved: {_why(error)}. {_KEPT}"
                ) from error

    def _save(self, run: Run) -> None:
        states.save(run.folder, run.capture(), run.feed.tokenizer, keep=run.config.run.keep)
        self._saved_step = run.progress.step


_KEPT = "The checkpoint before it is whole. Make room, and run again to go on from there."


def _why(error: OSError) -> str:
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)


class Samples(Callback):
    """Lets the caller show what the model writes now: the text itself is made elsewhere."""

    def __init__(self, show: Callable[[GPT, int], None]) -> None:
        self._show = show

    def after_step(self, run: Run, report: StepReport) -> None:
        """Show where it is due."""
        every = run.config.run.sample_every_steps
        if every and report.step % every == 0:
            self._show(run.learner.model, report.step)

    def at_end(self, run: Run) -> None:
        """Show the finished model's."""
        if run.is_finished and run.config.run.sample_every_steps:
            self._show(run.learner.model, run.progress.step)


class ProgressLine(Callback):
    """Says a line about every so many steps: loss, rate, how long it will still take."""

    def __init__(self, say: Callable[[str], None], *, every_steps: int = 10) -> None:
        self._say = say
        self._every = every_steps
        self._seconds: list[float] = []

    def after_step(self, run: Run, report: StepReport) -> None:
        """Say it where it is due."""
        self._seconds = [*self._seconds[-19:], report.seconds]
        if report.step % self._every and not run.is_finished:
            return
        rate = run.config.schedule.batch_tokens * len(self._seconds) / sum(self._seconds)
        left = max(0, run.config.schedule.tokens - report.tokens) / rate
        self._say(
            f"step {report.step}/{run.config.total_steps}  {report.tokens / 1e6:.2f}M tokens  loss {report.loss:.4f}  "
            f"lr {report.lr:.2e}  norm {report.grad_norm:.2f}  {rate:,.0f} tokens/s  {_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
