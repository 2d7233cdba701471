"""The progress line: loss, speed, share of the device's peak, and the time left."""

import time
from collections import deque
from collections.abc import Callable

from gpt2.train.loop import Callback, Run
from gpt2.train.metrics import Metrics
from gpt2.train.plan import spoken
from gpt2.train.step import StepReport

_EVERY_STEPS = 10  # between lines
_EARLY_LINE = 3  # after this step of a start there is always a line
_RATE_STEPS = 20
_LONGER = 1.25  # correct the estimate if the run takes longer than it by this factor


class ProgressLine(Callback):
    """Says a line every few steps: loss, speed, share of the device's peak, time left.

    The first step of a start compiles, so it does not count for the speed. There is a line after the third step, and a
    second one if the run will take longer than was said.

    Args:
        say: takes the line.
        metrics: knows the share of the peak.
        expected_seconds: what the user was told that the rest of the run takes; None: nothing.
    """

    def __init__(self, say: Callable[[str], None], metrics: Metrics, *, expected_seconds: float | None = None) -> None:
        self._say = say
        self._metrics = metrics
        self._expected_seconds = expected_seconds
        self._steps = 0
        self._newest: deque[tuple[int, float]] = deque(maxlen=_RATE_STEPS)  # (tokens, seconds) of a step
        self._since, self._in_steps_seconds = 0.0, 0.0  # clock at the end of the first step; seconds in later steps

    def after_step(self, run: Run, report: StepReport) -> None:
        """Say it when due."""
        self._steps += 1
        if self._steps == 1:
            self._since = time.perf_counter()
        else:
            self._in_steps_seconds += report.seconds
        if self._steps == 2:
            self._newest.clear()  # drops the first step
        self._newest.append((report.batch_tokens, report.seconds))
        is_early = self._steps == _EARLY_LINE
        if report.step % _EVERY_STEPS and not is_early and not run.is_finished:
            return
        rate = sum(tokens for tokens, _ in self._newest) / sum(seconds for _, seconds in self._newest)
        left_seconds = max(0, run.config.schedule.tokens - report.tokens) / rate * self._all_over_steps()
        seen = f"{report.tokens / 1e6:.2f}M" if report.tokens >= 1_000_000 else f"{report.tokens:,}"
        mfu = "" if self._metrics.mfu is None else f"  MFU {self._metrics.mfu:.0%}"
        self._say(
            f"step {report.step}/{run.config.total_steps}  {seen} tokens  loss {report.loss:.4f}  "
            f"lr {report.lr:.2e}  norm {report.grad_norm:.2f}  {rate:,.0f} tokens/s{mfu}  {spoken(left_seconds)} left"
        )
        expected = self._expected_seconds
        if is_early and expected and left_seconds > _LONGER * expected:
            self._say(
                f"judging by its first steps, it takes at most about {spoken(left_seconds)} from here, not "
                f"{spoken(expected)} as estimated: other work on this machine comes and goes."
            )

    def _all_over_steps(self) -> float:
        """The ratio of all time to time in steps: validation, samples and saving come between them."""
        if not self._in_steps_seconds:
            return 1.0
        return max(1.0, (time.perf_counter() - self._since) / self._in_steps_seconds)
