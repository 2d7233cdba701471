"""Training in float16: the same as without scaling where nothing overflows, and a skipped step where it does."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.train import TrainConfig, pretrain
from gpt2.train import state as states
from gpt2.train.feed import Feed
from gpt2.train.loop import Run
from gpt2.train.precision import choose_precision
from gpt2.train.scaling import LossScale
from gpt2.train.step import Learner


def learner(config: TrainConfig) -> Learner:
    model = GPT(config.model)
    initialize(model, torch.Generator().manual_seed(1))
    return Learner(model, config, choose_precision(config.run))


def test_a_scale_that_is_fixed_stays() -> None:
    scale = LossScale()
    for finite in (True, False) * 3000:
        scale.adjust(finite=finite)
    assert scale == LossScale() and not scale.can_fall


def test_it_halves_at_an_overflow_and_doubles_after_a_thousand_good_steps() -> None:
    scale = LossScale.of_float16()
    scale.adjust(finite=False)
    assert scale.factor == 2.0**15
    for _ in range(999):
        scale.adjust(finite=True)
    assert scale.factor == 2.0**15
    scale.adjust(finite=True)
    assert scale.factor == 2.0**16
    for _ in range(40):
        scale.adjust(finite=False)
    assert scale.factor == 1.0 and not scale.can_fall, "from here on it is not the scale's fault"


def test_float16_learns_as_float32_does(make_config: Callable[..., TrainConfig]) -> None:
    losses: dict[str, list[float]] = {}
    ids = np.random.default_rng(0).integers(300, size=(8, 17))
    for dtype in ("fp32", "fp16"):
        config = make_config(loss={"rows": 0}, optim={"matrices": "adamw"}, run={"dtype": dtype})
        ours = learner(config)
        assert (ours.loss_scale.factor > 1) == (dtype == "fp16")
        losses[dtype] = [ours.step(ids[:, :-1], ids[:, 1:], step=step + 1, tokens=0).loss for step in range(4)]
    np.testing.assert_allclose(losses["fp16"], losses["fp32"], rtol=1e-3)
    assert losses["fp16"][-1] < losses["fp16"][0]


def test_a_step_that_overflows_is_skipped_and_the_next_ones_are_not(make_config: Callable[..., TrainConfig]) -> None:
    ours = learner(make_config(loss={"rows": 0}, optim={"matrices": "adamw"}, run={"dtype": "fp16"}))
    ours.loss_scale.factor = 2.0**30
    before = [p.detach().clone() for p in ours.model.parameters()]
    ids = np.random.default_rng(0).integers(300, size=(8, 17))
    report = ours.step(ids[:, :-1], ids[:, 1:], step=1, tokens=0)
    assert report.skipped and report.overflowed
    assert ours.loss_scale.factor == 2.0**29
    assert all(torch.equal(a, b) for a, b in zip(before, ours.model.parameters(), strict=True))
    skipped = [ours.step(ids[:, :-1], ids[:, 1:], step=step, tokens=0).skipped for step in range(2, 30)]
    assert not skipped[-1], "the factor must have come down far enough"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_goes_on_with_its_scale(make_config: Callable[..., TrainConfig]) -> None:
    """A run of 12 steps, and one of 6 that goes on for 6: the same weights, and the same scale, to the bit."""
    weights: list[dict[str, torch.Tensor]] = []
    for name, stops in (("whole", (12,)), ("parts", (6, 12))):
        for stop in stops:
            config = make_config(
                optim={"matrices": "adamw"},
                schedule={"tokens": stop * 128, "shape": "trapezoid", "decay_fraction": 0.0, "sequence": [[0.0, 16]]},
                loss={"rows": 0},
                run={"dtype": "fp16", "folder": str(make_config().run.folder) + name},
            )
            outcome = pretrain(config)
        state = states.load(outcome.checkpoint)
        assert state.loss_scale.factor > 1.0 and state.loss_scale.good_steps > 0
        weights.append(dict(state.weights))
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_that_goes_on_in_float16_begins_with_the_first_scale(make_config: Callable[..., TrainConfig]) -> None:
    """Saved in float32 its factor of 1 was never in use; a float16 run's that fell to 1 was."""
    config = make_config(optim={"matrices": "adamw"}, loss={"rows": 0}, run={"dtype": "fp32"})
    outcome = pretrain(config)
    state = states.load(outcome.checkpoint)
    torch.manual_seed(9)
    run = Run(config, learner(make_config(optim={"matrices": "adamw"}, run={"dtype": "fp16"})), Feed(config), Path())
    run.resume(state)
    assert torch.equal(torch.get_rng_state(), state.rng)
    assert run.learner.loss_scale == LossScale.of_float16()
    saved = LossScale(factor=1.0, good_steps=7, fixed=False)
    run.resume(dataclasses.replace(state, loss_scale=saved))
    assert run.learner.loss_scale == saved
