"""The measurements of every step, for `metrics.jsonl` and for trackers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gpt2.train.journal import Journal
from gpt2.train.loop import Callback, Run
from gpt2.train.step import StepReport


class Tracker(Protocol):
    """Receives every line of `metrics.jsonl` as it is written."""

    def tell(self, values: Mapping[str, Any]) -> None:
        """Take values by name; `step` and `tokens` say where they belong."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class Metrics(Callback):
    """Writes `metrics.jsonl`: one object for every step, and one for every validation.

    Args:
        path: the file.
        from_step: where the run resumes; later lines are cut off, since their steps will be done again.
        flops_per_token: of forward and backward, at a point of the run.
        peak_flops: of the device; None: unknown.
        processes: how many train together, each on a device with that peak.
        trackers: receive the same values.

    Attributes:
        mfu: of the newest step, if the peak is known. A peak that is exceeded was wrong, and is dropped.
    """

    def __init__(
        self,
        path: Path,
        *,
        from_step: int,
        flops_per_token: Callable[[Run, float], float],
        peak_flops: float | None,
        processes: int = 1,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._flops_per_token = flops_per_token
        self._peak_flops = None if peak_flops is None else peak_flops * processes
        self._journal = Journal(path, from_step=from_step)
        self._trackers = trackers
        self.mfu: float | None = None

    def after_step(self, run: Run, report: StepReport) -> None:
        """Write the step's line."""
        rate = report.batch_tokens / report.seconds
        began = (report.tokens - report.batch_tokens) / run.config.schedule.tokens
        self.mfu = self._flops_per_token(run, began) * rate / self._peak_flops if self._peak_flops else None
        if self.mfu is not None and self.mfu > 1.0:  # other work slowed the measurement of the peak
            self.mfu = self._peak_flops = None
        self.write(
            step=report.step,
            tokens=report.tokens,
            seconds=round(run.progress.seconds, 3),
            loss=None if report.skipped else report.loss,
            lr=report.lr,
            grad_norm=None if report.skipped else report.grad_norm,
            tokens_per_second=round(rate, 1),
            mfu=None if self.mfu is None else round(self.mfu, 4),
            skipped=run.progress.skipped,
        )

    def write(self, **values: Any) -> None:
        """Append one object, and tell the trackers."""
        self._journal.write(values)
        for tracker in self._trackers:
            tracker.tell(values)

    def at_end(self, run: Run) -> None:
        """Let the trackers finish."""
        for tracker in self._trackers:
            tracker.close()
