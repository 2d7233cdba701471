"""The line that people watch, from steps whose times are given."""

from types import SimpleNamespace
from typing import Any

import pytest

from gpt2.train.live_line import ProgressLine
from gpt2.train.step import StepReport


def watch(seconds: list[float], expected: float | None, n_steps: int = 20) -> list[str]:
    """What is said over steps of 100 tokens that took so long, of a run of `n_steps`."""
    said: list[str] = []
    metrics: Any = SimpleNamespace(mfu=None)
    line = ProgressLine(said.append, metrics, expected_seconds=expected)
    config = SimpleNamespace(schedule=SimpleNamespace(tokens=100 * n_steps), total_steps=n_steps)
    for step, took in enumerate(seconds, 1):
        report = StepReport(
            step=step, tokens=100 * step, batch_tokens=100, loss=1.0, grad_norm=1.0, lr=0.1, skipped=False, seconds=took
        )
        run: Any = SimpleNamespace(config=config, is_finished=step == n_steps)
        line.after_step(run, report)
    return said


def test_it_speaks_after_three_steps_and_every_ten_and_the_first_one_does_not_count() -> None:
    said = watch([900.0] + [10.0] * 19, expected=None)
    assert [line.split()[1] for line in said] == ["3/20", "10/20", "20/20"]
    assert "10 tokens/s" in said[0] and "3 min left" in said[0], "17 steps of 10 seconds"
    assert "0 s left" in said[-1]


@pytest.mark.parametrize(("expected", "corrected"), [(None, False), (160.0, False), (60.0, True), (900.0, False)])
def test_an_expectation_that_was_too_short_is_corrected_once(expected: float | None, corrected: bool) -> None:
    said = [line for line in watch([10.0] * 20, expected) if "as estimated: other work" in line]
    assert len(said) == corrected
    assert not said or "about 3 min from here" in said[0]


def test_a_run_of_one_step_has_its_line() -> None:
    assert len(watch([2.0], expected=5.0, n_steps=1)) == 1
