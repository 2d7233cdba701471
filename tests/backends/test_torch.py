"""What PyTorch brings beyond the contract: narrow forms, padded batches, one pool for all slots."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2.backends import NEXT_LOGITS, Result, Want, Work
from gpt2.backends.seam import Draw
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import BackendError
from gpt2.generation import Sampling
from gpt2.generation.sampler import Sampler

torch = pytest.importorskip("torch")

from tests.backends.conftest import CONFIG, random_arrays  # noqa: E402

from gpt2.backends.torch import TorchBackend, draws  # noqa: E402
from gpt2.backends.torch import backend as backend_module  # noqa: E402
from gpt2.backends.torch.pool import Pool  # noqa: E402

TEXT = [int(token) for token in np.random.default_rng(7).integers(97, size=100)]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes [B, T] of what is computed, as it happens."""
    seen: list[tuple[int, int]] = []
    place = Pool.place

    def recording(self: object, batch: list[Work]) -> object:
        placed = place(self, batch)  # type: ignore[arg-type]
        seen.append(tuple(placed.ids_BT.shape))
        return placed

    monkeypatch.setattr(Pool, "place", recording)
    return seen


def test_decoding_is_one_batch_and_padding_stays_below_half(weights: Weights, batches: list[tuple[int, int]]) -> None:
    backend = TorchBackend(weights, threads=1)
    slots = [backend.new() for _ in range(9)]
    lengths = [1, 1, 2, 3, 4, 5, 8, 9, 16]
    backend.step([Work(slot=s, tokens=TEXT[:n]) for s, n in zip(slots, lengths, strict=True)])
    assert sorted(batches) == [(1, 2), (2, 1), (2, 4), (2, 8), (2, 16)]
    batches.clear()
    backend.step([Work(slot=slot, tokens=[5], want=NEXT_LOGITS) for slot in slots])
    assert batches == [(9, 1)]


def test_batches_are_bounded(weights: Weights, batches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "_TOKENS_AT_ONCE", 64)
    backend = TorchBackend(weights, threads=1)
    backend.step([Work(slot=backend.new(), tokens=TEXT[:16]) for _ in range(10)])
    assert batches == [(4, 16), (4, 16), (2, 16)]


@pytest.mark.parametrize("logits_at_once", [1, 97 * 4])
def test_rows_are_answered_in_parts(weights: Weights, monkeypatch: pytest.MonkeyPatch, logits_at_once: int) -> None:
    def read() -> list[NDArray[np.float32]]:
        backend = TorchBackend(weights, threads=1)
        wants = [Want(rows=n, logits=True, best=2, targets=TEXT[:n]) for n in (9, 10, 12)]
        results = backend.step([Work(slot=backend.new(), tokens=TEXT[:12], want=want) for want in wants])
        return [
            part
            for r in results
            for part in (r.logits_RV, r.best_logprobs_RK, r.target_logprobs_R, r.entropies_R)
            if part is not None
        ]

    whole = read()
    monkeypatch.setattr(backend_module, "_LOGITS_AT_ONCE", logits_at_once)
    for one, other in zip(whole, read(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_bf16_stays_near_fp32(weights: Weights, define: Callable[[Sequence[int]], NDArray[np.float64]]) -> None:
    backend = TorchBackend(weights, form="bf16", threads=1)
    assert backend.weights == "bf16"
    (result,) = backend.step([Work(slot=backend.new(), tokens=TEXT[:40], want=Want(rows=40, logits=True))])
    assert result.logits_RV is not None
    exact = define(TEXT[:40])
    error = np.abs(result.logits_RV - exact)
    assert error.max() > 1e-4  # it is bf16
    assert error.mean() < 0.02 * np.abs(exact).mean()
    full = TorchBackend(weights, threads=1)
    full.step([Work(slot=full.new(), tokens=TEXT[:40])])
    assert full.bytes() == 2 * backend.bytes()


def test_a_pool_without_slots_holds_nothing(weights: Weights) -> None:
    backend = TorchBackend(weights, threads=1)
    slots = [backend.new() for _ in range(5)]
    backend.step([Work(slot=slot, tokens=TEXT[:20]) for slot in slots])
    for slot in slots:
        backend.free(slot)
    assert backend.bytes() == 0


def test_what_is_to_be_kept_of_a_pool_stays_where_it_is() -> None:
    pool = Pool(CONFIG, torch.device("cpu"), torch.float32, least_capacity=40, kept_bytes=1 << 20)
    slots = [pool.add() for _ in range(3)]
    pool.make_room(5)
    kept = pool.kv
    assert kept.shape[4] == 40
    for slot in slots:
        pool.free(slot)
    assert [pool.add() for _ in range(4)] == [0, 1, 2, 3]
    assert pool.kv is kept
    for slot in (3, 2, 1):
        pool.free(slot)
    pool.make_room(48)
    assert pool.kv.shape[2] == 1  # rows that nobody has do not grow


def test_threads_are_set(weights: Weights) -> None:
    before = torch.get_num_threads()
    try:
        assert "3 threads" in TorchBackend(weights, threads=3).reason
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_order_knows_zeros_signs_and_ties() -> None:
    logits = torch.tensor([[0.0, -0.0, 1.0, -1.0, -1.0, 1e30, -1e30, 1e-42, -1e-42, 1.0, 3.4e38]])
    order = draws.order(logits).topk(logits.shape[1]).indices
    assert (
        order[0].tolist()
        == np.argsort(-logits[0].numpy(), kind="stable").tolist()
        == [10, 5, 2, 9, 7, 0, 1, 8, 3, 4, 6]
    )


def test_damaged_weights_are_named(weights: Weights) -> None:
    arrays = {name: weights.float32(name).copy() for name in weights.names}
    arrays["h.1.mlp.c_fc.b"][4] = np.inf
    backend = TorchBackend(Weights.from_arrays(weights.config, arrays), threads=1)
    with pytest.raises(BackendError, match="not finite"):
        backend.step([Work(slot=backend.new(), tokens=[1], want=NEXT_LOGITS)])


SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1e-30},
    {"temperature": 1e39},
    {"temperature": 0.0},
    {"top_k": 1},
    {"top_k": 20, "temperature": 0.8},
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 0.7},
    {"top_p": 0.99, "temperature": 1.9},
    {"top_p": 1e-9},
    {"top_p": 1 - 1e-15},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"min_p": 0.05, "top_p": 0.8, "temperature": 1.2},
    {"top_k": 30, "top_p": 0.6, "min_p": 0.2, "temperature": 0.8},
]


def sampler(vocab_size: int, settings: dict[str, float]) -> Sampler:
    sampling = Sampling(**settings)  # type: ignore[arg-type]
    return Sampler(sampling, seed=3, n_prompt=20, n_ids=vocab_size, vocab_size=vocab_size, end_ids=())


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocab_size", [33, 5003])
def test_the_device_draws_as_the_definition_draws(vocab_size: int, settings: dict[str, float]) -> None:
    """Each row of a long draft against the sampler over the same row of logits."""
    backend = drawing(lively(vocab_size))
    text, draft = [[id % vocab_size for id in TEXT[:n]] for n in (30, 80)]
    chooser = sampler(vocab_size, settings)
    want = chooser.want(text, 0, draft)
    assert want.draw is not None
    both = replace(want, logits=True, best=want.draw.from_best)
    [result] = backend.step([Work(slot=backend.new(), tokens=[*text, *draft], want=both)])
    known = Result(logits_RV=result.logits_RV)
    if want.draw.from_best:
        known = Result(best_ids_RK=result.best_ids_RK, best_logprobs_RK=result.best_logprobs_RK)
    expected = [chooser.choose(known, row, [*text, *draft[:row]], 0).token for row in range(81)]
    assert result.drawn_R == expected


def test_draws_of_all_kinds_in_one_step_do_not_mix() -> None:
    backend = drawing(lively(97))
    wants = [sampler(97, settings).want(TEXT[:20]) for settings in SETTINGS]
    together = backend.step([Work(slot=backend.new(), tokens=TEXT[:20], want=want) for want in wants])
    alone = [backend.step([Work(slot=backend.new(), tokens=TEXT[:20], want=want)])[0] for want in wants]
    assert [result.drawn_R for result in together] == [result.drawn_R for result in alone]


def test_a_top_k_among_other_draws_is_that_of_log_probabilities() -> None:
    backend = drawing(lively(97))
    wants = [sampler(97, each).want(TEXT[:20]) for each in ({"top_k": 20, "temperature": 1e39}, {"top_p": 0.9})]
    [together, _] = backend.step([Work(slot=backend.new(), tokens=TEXT[:20], want=want) for want in wants])
    known = TorchBackend(lively(97), threads=1)
    [result] = known.step([Work(slot=known.new(), tokens=TEXT[:20], want=wants[0])])
    assert result.drawn_R is None
    chosen = sampler(97, {"top_k": 20, "temperature": 1e39}).choose(result, 0, TEXT[:20], 0)
    assert together.drawn_R == [chosen.token]


def test_a_temperature_that_float32_takes_for_0_is_not_0(weights: Weights) -> None:
    backend = drawing(weights)
    drawn = [
        backend.step([Work(slot=backend.new(), tokens=TEXT[:9], want=Want(draw=Draw(keys=[key], temperature=t)))])[0]
        for key in range(20)
        for t in (1e-50, 0.0)
    ]
    assert len({tuple(result.drawn_R or ()) for result in drawn}) == 1


def test_a_draw_of_no_rows_is_nothing(weights: Weights) -> None:
    backend = drawing(weights)
    want = Want(rows=0, draw=Draw(keys=[], temperature=1.0))
    assert backend.step([Work(slot=backend.new(), tokens=[3], want=want)])[0].drawn_R is None


def test_what_is_penalised_is_drawn_elsewhere(weights: Weights) -> None:
    backend = drawing(weights)
    want = sampler(97, {"repetition_penalty": 1.3}).want(TEXT[:20])
    [result] = backend.step([Work(slot=backend.new(), tokens=TEXT[:20], want=want)])
    assert result.drawn_R is None
    assert result.logits_RV is not None


def drawing(weights: Weights) -> TorchBackend:
    """As on a GPU."""
    backend = TorchBackend(weights, threads=1)
    backend._draws = True
    return backend


def lively(vocab_size: int) -> Weights:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=128, vocab_size=vocab_size)
    return Weights.from_arrays(config, random_arrays(config))
