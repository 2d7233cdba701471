"""The loop: while tokens are left, one step, then the callbacks. It writes no file; it only warns."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from gpt2.errors import TrainingError
from gpt2.train import state as states
from gpt2.train import weights as weight_files
from gpt2.train.config import TrainConfig
from gpt2.train.config_files import as_tree
from gpt2.train.feed import Ahead, Feed
from gpt2.train.state import Progress, TrainState
from gpt2.train.step import Learner, StepReport

_log = logging.getLogger("gpt2")
_BAD_STEPS_IN_A_ROW = 3
_MOST_RETURNS = 5


class Run:
    """A training run between two steps.

    Attributes:
        config: its settings.
        learner: model and optimizers.
        feed: its data.
        folder: what it leaves behind.
        start_hash: of the weights that it began from; empty: of fresh ones.
        progress: how far it is.
        stop: whether the loop ends after the present step; the same in all processes.
    """

    def __init__(self, config: TrainConfig, learner: Learner, feed: Feed, folder: Path, start_hash: str = "") -> None:
        self.config = config
        self.learner = learner
        self.feed = feed
        self.folder = folder
        self.start_hash = start_hash
        self.progress = Progress(cursor=feed.start())
        self.stop = False
        self._asked_to_stop = False
        self._ahead = Ahead(feed)

    @property
    def fraction(self) -> float:
        """The fraction of the run's tokens done."""
        return self.progress.tokens / self.config.schedule.tokens

    @property
    def is_finished(self) -> bool:
        """Whether all tokens are done, or the validation loss has turned."""
        return self.fraction >= 1.0 or self.has_turned

    @property
    def has_turned(self) -> bool:
        """Whether the last `run.patience` validations brought nothing better than the best before them."""
        patience = self.config.run.patience
        return bool(patience) and self.progress.validations_since_best >= patience

    def ask_to_stop(self) -> None:
        """End after the present step. Several processes agree during the next one, as not all may know yet."""
        self._asked_to_stop = True
        self.stop = self.learner.processes.world == 1

    def advance(self) -> StepReport:
        """Take one step.

        Raises:
            TrainingError: steps keep failing, even after going back to the last good state.
        """
        progress = self.progress
        batch, wanted = self._ahead.batch(progress.cursor, self.fraction)
        self._ahead.read(batch.cursor, (progress.tokens + batch.inputs.size) / self.config.schedule.tokens)
        report = self.learner.step(
            batch.inputs, batch.targets, step=progress.step + 1, tokens=progress.tokens, wanted_BT=wanted
        )
        self.stop = self.learner.processes.any(self._asked_to_stop, self.learner.precision.device)
        progress.step, progress.tokens, progress.cursor = report.step, report.tokens, batch.cursor
        progress.seconds += report.seconds
        if report.overflowed:
            factor = self.learner.loss_scale.factor
            _log.info("step %d skipped: a gradient overflowed; the loss is scaled by %g now", report.step, factor)
        elif report.skipped:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            _log.warning(
                "step %d skipped: loss %s, gradient norm %s, on the batch that ends at %s",
                report.step,
                report.loss,
                report.grad_norm,
                batch.cursor.to_json(),
            )
            if progress.skipped_in_a_row == _BAD_STEPS_IN_A_ROW:
                self._return_to_last_good()
        else:
            progress.skipped_in_a_row = 0
        return report

    def capture(self) -> TrainState:
        """What must survive. The arrays are not copies: the next step changes them. Only the first process has any.

        If processes hold parts of the arrays, all must call this: arrays are gathered one at a time.
        """
        keep = self.learner.processes.is_first
        return TrainState(
            weights={name: array for name, array in weight_files.arrays_of(self.learner.model) if keep},
            optimizer={name: array for name, array in states.optimizer_arrays(self.learner) if keep},
            rng=torch.get_rng_state(),
            progress=self.progress,
            loss_scale=self.learner.loss_scale,
            config=as_tree(self.config),
            tokenizer_hash=self.feed.tokenizer.hash,
            data_hash=self.feed.data_hash,
            start_hash=self.start_hash,
        )

    def resume(self, state: TrainState) -> None:
        """Restore a saved state."""
        states.restore(self.learner, state)
        torch.set_rng_state(state.rng)
        self.progress = state.progress
        scale, saved = self.learner.loss_scale, state.loss_scale
        if not scale.fixed and not saved.fixed:  # a run that only now uses float16 begins with the initial scale
            scale.factor, scale.good_steps = saved.factor, saved.good_steps

    def _return_to_last_good(self) -> None:
        """Restore the last saved weights and optimizer; the data go on, so that the same batches do not recur."""
        folder = states.latest(self.folder)
        if folder is None or self.progress.returns == _MOST_RETURNS:
            raise TrainingError(
                f"The run cannot go on: {_BAD_STEPS_IN_A_ROW} steps in a row had no finite loss or gradient, "
                f"{'and there is no earlier state' if folder is None else f'after {_MOST_RETURNS} returns'}. "
                f"Lower optim.lr (and optim.muon_lr), or look at the batches named above."
            )
        states.restore(self.learner, states.load(folder))
        self.progress.returns += 1
        self.progress.skipped_in_a_row = 0
        _log.warning("%d bad steps in a row: back to the weights of %s", _BAD_STEPS_IN_A_ROW, folder.name)


class Callback:
    """Something to do between steps. By default every method does nothing."""

    def at_start(self, run: Run) -> None:
        """Called once, before the first step of this start."""

    def after_step(self, run: Run, report: StepReport) -> None:
        """Called after every step, in the order of the callbacks."""

    def at_end(self, run: Run) -> None:
        """Called once, when the run is finished or stopped."""


def loop(run: Run, callbacks: Sequence[Callback]) -> None:
    """Train until the run is finished or told to stop."""
    for callback in callbacks:
        callback.at_start(run)
    while not (run.is_finished or run.stop):
        report = run.advance()
        for callback in callbacks:
            callback.after_step(run, report)
    for callback in callbacks:
        callback.at_end(run)
