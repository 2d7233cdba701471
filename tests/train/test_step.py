"""One of our steps against one of Hugging Face's model with PyTorch's AdamW, and what a step promises beside."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpt2.checkpoint.names import huggingface_names
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.train import TrainConfig
from gpt2.train.optimizers import lr_factor, set_rates
from gpt2.train.precision import Precision
from gpt2.train.rounding import round_int4
from gpt2.train.step import Learner

DOUBLE = Precision(device=torch.device("cpu"), dtype=torch.float64, reason="to compare")
SINGLE = Precision(device=torch.device("cpu"), dtype=torch.float32, reason="to compare")


def learner(config: TrainConfig, precision: Precision = DOUBLE) -> Learner:
    model = GPT(config.model, dropout=config.optim.dropout)
    initialize(model, torch.Generator().manual_seed(1), zero_projections=config.optim.zero_projections)
    flat = np.full(config.model.vocab_size, 1.0 / config.model.vocab_size)
    return Learner(model.to(precision.dtype), config, precision, flat)


def batch(config: TrainConfig, sequences: int = 8, seq_tokens: int = 16) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids = np.random.default_rng(0).integers(config.model.vocab_size, size=(sequences, seq_tokens + 1))
    return ids[:, :-1], ids[:, 1:]


def published(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    return make_config(
        optim={"matrices": "adamw", "lr": 1e-3, "clip_norm": 0.5, "zero_projections": False},
        schedule={"shape": "cosine", "warmup_fraction": 0.25, "final_fraction": 0.1},
        loss={"rows": 0},
    )


def test_equals_hugging_face_with_adamw(make_config: Callable[..., TrainConfig]) -> None:
    """Loss, gradient norm and every weight after each of four steps, to 1e-6 (in float64), in micro-batches."""
    transformers = pytest.importorskip("transformers")
    config = published(make_config)
    ours = learner(config)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **dataclasses.asdict(config.model),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).double()
    names = huggingface_names(config.model.n_layer)
    theirs.transformer.load_state_dict({names[name]: array.clone() for name, array in ours.model.named_arrays()})
    decayed = [p for p in theirs.parameters() if p.ndim == 2]
    others = [p for p in theirs.parameters() if p.ndim == 1]
    optim = config.optim
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=optim.betas,
        eps=optim.eps,
        foreach=False,
    )
    inputs, targets = batch(config)
    for step in range(4):
        tokens = step * inputs.size
        report = ours.step(inputs, targets, step=step + 1, tokens=tokens)
        ids = torch.from_numpy(inputs)
        logits = theirs(ids).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), optim.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * lr_factor(config.schedule, (tokens + inputs.size / 2) / config.schedule.tokens)
        optimizer.step()
        optimizer.zero_grad()
        assert report.loss == pytest.approx(loss.item(), abs=1e-6)
        assert report.grad_norm == pytest.approx(float(norm), abs=1e-6)
        state = theirs.transformer.state_dict()
        for name, array in ours.model.named_arrays():
            torch.testing.assert_close(array, state[names[name]], rtol=0, atol=1e-6)
    assert lr_factor(config.schedule, 0.25) == 1.0, "the steps must have moved something"


@pytest.mark.parametrize("micro_batch_tokens", [16, 48, 128])
def test_micro_batches_do_not_change_the_step(make_config: Callable[..., TrainConfig], micro_batch_tokens: int) -> None:
    whole = learner(make_config(run={"micro_batch_tokens": 1024}))
    parts = learner(make_config(run={"micro_batch_tokens": micro_batch_tokens}))
    inputs, targets = batch(whole.config)
    for step in (1, 2):
        reports = [each.step(inputs, targets, step=step, tokens=0) for each in (whole, parts)]
        assert reports[0].loss == pytest.approx(reports[1].loss, abs=1e-12)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), parts.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7, msg=name)


def test_what_is_dropped_depends_on_the_seed_the_step_and_the_sequence_alone(
    make_config: Callable[..., TrainConfig],
) -> None:
    def loss(step: int, rows: slice, seed: int = 0, before: int = 0) -> float:
        config = make_config(
            optim={"dropout": 0.2, "zero_projections": False},
            loss={"rows": 0},
            run={"micro_batch_tokens": 16, "seed": seed},
        )
        inputs, targets = batch(config, sequences=1)
        torch.manual_seed(before)
        inputs, targets = (np.repeat(each, 4, axis=0)[rows] for each in (inputs, targets))
        return learner(config).step(inputs, targets, step=step, tokens=0).loss

    first, four = loss(1, slice(1)), loss(1, slice(4))
    assert loss(1, slice(1), before=9) == first
    assert len({first, loss(2, slice(1)), loss(1, slice(1), seed=1), four}) == 4  # the four are one sequence


def test_without_a_compiler_nothing_is_compiled_and_it_is_said(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = make_config(run={"compile": True})
    report = learner(config, SINGLE).step(*batch(config), step=1, tokens=0)
    assert math.isfinite(report.loss)
    assert "there is no C++ compiler 'no-such-compiler'" in caplog.text


def test_loss_begins_near_the_logarithm_of_the_vocabulary(make_config: Callable[..., TrainConfig]) -> None:
    config = published(make_config)
    report = learner(config, SINGLE).step(*batch(config), step=1, tokens=0)
    assert report.loss == pytest.approx(math.log(config.model.vocab_size), abs=0.1)


def test_learns_a_batch_by_heart(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(schedule={"tokens": 10**6}, loss={"rows": 0})
    pupil = learner(config, SINGLE)
    losses = [pupil.step(*batch(config), step=step, tokens=0).loss for step in range(1, 81)]
    assert losses[-1] < 0.5 * losses[0]


def test_sampled_rows_give_way_to_all_rows(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    pupil = learner(config)
    assert [pupil.uses_all_rows(x) for x in (0.0, 0.74, 0.75, 1.0)] == [False, False, True, True]
    assert learner(make_config(loss={"rows": 0})).uses_all_rows(0.0)


def test_the_sampled_rows_depend_on_the_seed_and_the_step_alone(make_config: Callable[..., TrainConfig]) -> None:
    def loss(seed: int, step: int) -> float:
        config = make_config(optim={"zero_projections": False}, run={"seed": seed})
        return learner(config).step(*batch(config, sequences=2), step=step, tokens=0).loss

    assert loss(0, 1) == loss(0, 1)
    assert len({loss(0, 1), loss(0, 2), loss(1, 1)}) == 3


def test_all_rows_sampled_equals_all_rows(make_config: Callable[..., TrainConfig]) -> None:
    sampled = learner(make_config(loss={"rows": 300, "full_fraction": 0.0}))
    whole = learner(make_config(loss={"rows": 0}))
    inputs, targets = batch(whole.config)
    reports = [each.step(inputs, targets, step=1, tokens=0) for each in (sampled, whole)]
    assert reports[0].loss == pytest.approx(reports[1].loss, abs=1e-12)
    assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, abs=1e-12)


def test_at_the_end_the_loss_is_that_of_the_weights_as_they_will_be_stored(
    make_config: Callable[..., TrainConfig],
) -> None:
    config = make_config(rounding={"form": "int4", "fraction": 0.25}, loss={"rows": 0})
    inputs, targets = batch(config)
    total = config.schedule.tokens
    exact = learner(make_config(loss={"rows": 0})).step(inputs, targets, step=1, tokens=0)
    before = learner(config).step(inputs, targets, step=1, tokens=total // 2)
    assert before.loss == exact.loss
    pupil = learner(config)
    own = {name: p.detach().clone() for name, p in pupil.model.named_parameters()}
    late = pupil.step(inputs, targets, step=1, tokens=total - config.schedule.batch_tokens)
    by_hand = learner(make_config(loss={"rows": 0}))
    with torch.no_grad():
        for name, p in by_hand.model.named_parameters():
            if p.ndim == 2 and name != "wpe.weight":
                p.copy_(round_int4(p))
    assert late.loss == by_hand.step(inputs, targets, step=1, tokens=0).loss != exact.loss
    changed = [name for name, p in pupil.model.named_parameters() if not torch.equal(p, own[name])]
    assert changed, "the exact weights learn"
    assert any(not torch.equal(p, round_int4(p)) for _, p in pupil.model.named_parameters() if p.ndim == 2)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of PyTorch's own compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # likewise
def test_compiled_blocks_take_the_same_step(make_config: Callable[..., TrainConfig]) -> None:
    plain, compiled = (learner(make_config(loss={"rows": 0}, run={"compile": on})) for on in (False, True))
    inputs, targets = batch(plain.config)
    reports = [each.step(inputs, targets, step=1, tokens=0) for each in (plain, compiled)]
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-9)
    for one, other in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_a_gradient_that_is_not_finite_changes_nothing(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    pupil = learner(config)
    pupil.step(*batch(config), step=1, tokens=0)
    with torch.no_grad():
        pupil.model.ln_f.weight[0] = math.nan
    before = {name: p.detach().clone() for name, p in pupil.model.named_parameters()}
    report = pupil.step(*batch(config), step=2, tokens=0)
    assert report.skipped
    for name, p in pupil.model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], rtol=0, atol=0, equal_nan=True)
    assert all(p.grad is None for p in pupil.model.parameters())


def test_a_step_that_is_skipped_does_not_count_into_the_average(make_config: Callable[..., TrainConfig]) -> None:
    plain, averaged = (learner(make_config(optim={"average_fraction": share})) for share in (0.0, 0.5))
    inputs, targets = batch(plain.config)
    total, after = plain.config.schedule.tokens, list[torch.Tensor]()
    for step, tokens in ((1, total // 2), (2, total // 2 + 128), (3, total - 128)):
        if step == 2:
            compute, averaged._backward = averaged._backward, lambda *args: torch.tensor(math.inf)
            assert averaged.step(inputs, targets, step=step, tokens=tokens).skipped
            averaged._backward = compute
            continue
        for each in (plain, averaged):
            each.step(inputs, targets, step=step, tokens=tokens)
        after.append(plain.model.wte.weight.detach().clone())
    torch.testing.assert_close(averaged.model.wte.weight.detach(), torch.stack(after).mean(0))


@pytest.mark.parametrize(
    ("progress", "step", "factor", "momentum"), [(0.1, 1, 0.5, 0.85), (0.3, 6, 1.0, 0.9), (0.75, 11, 0.55, 0.95)]
)
def test_rates_and_momentum_are_those_of_the_schedule(
    make_config: Callable[..., TrainConfig], progress: float, step: int, factor: float, momentum: float
) -> None:
    """Of a trapezoid: half way up, at the top, half way down to a tenth."""
    rise = {"warmup_fraction": 0.2, "decay_fraction": 0.5, "final_fraction": 0.1, "momentum_warmup_steps": 10}
    config = make_config(optim={"muon_lr": 0.02, "muon_weight_decay": 0.25}, schedule=rise)
    pupil = learner(config)
    assert set_rates(pupil.optimizers, config, progress=progress, step=step) == pytest.approx(0.01 * factor)
    (muon,), *adamw = (optimizer.param_groups for optimizer in pupil.optimizers)
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == pytest.approx((0.02 * factor, momentum, 0.25))
    assert [group["lr"] for groups in adamw for group in groups] == pytest.approx([0.01 * factor] * 2)
    low = make_config(optim={"muon_momentum": 0.8}, schedule=rise)
    set_rates(pupil.optimizers, low, progress=progress, step=step)
    assert muon["momentum"] == pytest.approx(0.8), "it never falls"


def test_every_parameter_has_one_optimizer(make_config: Callable[..., TrainConfig]) -> None:
    for matrices in ("muon", "adamw"):
        pupil = learner(make_config(optim={"matrices": matrices}))
        held = [p for optimizer in pupil.optimizers for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len(set(held)) == len(list(pupil.model.parameters()))
