"""The share of the peak: of the step that was taken, and never of a peak that is known to be wrong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpt2.files import read_journal
from gpt2.train.journal import Journal
from gpt2.train.metrics import Metrics
from gpt2.train.step import StepReport


def test_the_share_of_the_peak_is_that_of_the_step_that_was_taken(tmp_path: Path) -> None:
    def flops_per_token(run: Any, progress: float) -> float:
        return 1.0 if progress < 0.75 else 8.0  # the last quarter is more work

    metrics = Metrics(tmp_path / "m.jsonl", from_step=0, flops_per_token=flops_per_token, peak_flops=1000.0)
    run: Any = SimpleNamespace(
        config=SimpleNamespace(schedule=SimpleNamespace(tokens=400)), progress=SimpleNamespace(seconds=0.0, skipped=0)
    )
    for step, seconds in enumerate((1.0, 1.0, 1.0, 2.0, 0.1), 1):
        report = StepReport(
            step=step,
            tokens=100 * step,
            batch_tokens=100,
            loss=1.0,
            grad_norm=1.0,
            lr=1.0,
            skipped=False,
            seconds=seconds,
        )
        metrics.after_step(run, report)
    found = [row["mfu"] for row in read_journal(tmp_path / "m.jsonl")]
    assert found == [0.1, 0.1, 0.1, 0.4, None], "the last step was faster than the peak, so that was wrong"
    metrics.after_step(run, report)
    assert metrics.mfu is None, "and it stays unknown"


def test_the_peak_of_two_processes_is_twice_that_of_one(tmp_path: Path) -> None:
    metrics = Metrics(
        tmp_path / "m.jsonl", from_step=0, flops_per_token=lambda run, progress: 4.0, peak_flops=1000.0, processes=2
    )
    run: Any = SimpleNamespace(
        config=SimpleNamespace(schedule=SimpleNamespace(tokens=400)), progress=SimpleNamespace(seconds=0.0, skipped=0)
    )
    report = StepReport(
        step=1, tokens=100, batch_tokens=100, loss=1.0, grad_norm=1.0, lr=1.0, skipped=False, seconds=1.0
    )
    metrics.after_step(run, report)
    assert metrics.mfu == 0.2


def test_a_resumed_journal_keeps_texts_with_any_line_end(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    journal = Journal(path, from_step=0)
    rows = [{"step": step, "text": f"one\u2028two\u0085three\n{step}"} for step in (1, 2, 3)]
    for row in rows:
        journal.write(row)
    path.write_bytes(path.read_bytes() + b'{"step": "of another"}\n{"step": 1, "text": "caf\xc3')  # cut off by a crash
    Journal(path, from_step=2)
    assert read_journal(path) == rows[:2]
