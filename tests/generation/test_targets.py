"""Targets scored together, sharing what they begin with, equal targets scored alone."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from gpt2.errors import ContextError
from gpt2.generation.targets import Target, computed_tokens, score_targets, shared_tokens
from gpt2.language_model import LanguageModel


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return gpt2.load(tiny_folder, backend="reference")


IDS = st.integers(10, 12)  # few, so that many begin alike
TARGETS = st.builds(
    lambda context, targets, best: Target(context=tuple(context), targets=tuple(targets), best=best),
    context=st.lists(IDS, min_size=1, max_size=30),
    targets=st.lists(IDS, min_size=1, max_size=6),
    best=st.sampled_from([0, 3]),
)
SHARED = st.builds(
    lambda common, others: [
        Target(context=(*common, *each.context), targets=each.targets, best=each.best) for each in others
    ],
    common=st.lists(IDS, min_size=8, max_size=24),
    others=st.lists(TARGETS, min_size=1, max_size=5),
)


@settings(max_examples=40)
@given(requests=st.one_of(SHARED, st.lists(TARGETS, min_size=1, max_size=5)))
def test_together_as_alone(model: LanguageModel, requests: list[Target]) -> None:
    together = score_targets(model.backend, requests)
    for request, found in zip(requests, together, strict=True):
        [alone] = score_targets(model.backend, [request])
        assert len(found.logprobs) == len(found.ranks) == len(request.targets)
        assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
        assert (found.ranks, found.best) == (alone.ranks, alone.best)
        assert len(found.best) == request.best
        assert (found.best_logprob is None) == (request.best == 0)
    assert model.backend.bytes() == 0


def test_of_one_text_each_has_the_best_at_its_own_first_target(model: LanguageModel) -> None:
    text = tuple(range(10, 40))
    requests = [Target(context=text[:n], targets=text[n:], best=best) for n, best in ((20, 0), (22, 3), (24, 1))]
    for request, found in zip(requests, score_targets(model.backend, requests), strict=True):
        [alone] = score_targets(model.backend, [request])
        assert found.best == alone.best
        assert len(found.best) == request.best
        assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 4, 31])
def test_a_chunk_at_a_time_as_whole(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    common = tuple(range(10, 40))
    requests = [
        Target(context=common, targets=(7, 8)),
        Target(context=(*common[:20], 5), targets=tuple(range(30)), best=2),
        Target(context=(1,), targets=(2,), best=1),
    ]
    whole = score_targets(model.backend, requests)
    monkeypatch.setattr("gpt2.generation.targets.CHUNK_TOKENS", at_once)
    for found, expected in zip(score_targets(model.backend, requests), whole, strict=True):
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
        assert (found.ranks, found.best) == (expected.ranks, expected.best)
    assert model.backend.bytes() == 0


def test_what_is_shared_is_computed_once() -> None:
    story = tuple(range(100, 140))
    ten = [Target(context=story, targets=(i, 7, 8)) for i in range(10)]
    assert computed_tokens(ten) == 39 + 10 * 3  # the last of the story is read again by each
    assert computed_tokens(ten[:1]) == ten[0].n_tokens == 42
    assert computed_tokens([ten[0], ten[0]]) == 42
    assert computed_tokens([Target(context=(1, 2), targets=(3,)), Target(context=(1, 5), targets=(3,))]) == 4
    assert shared_tokens(ten[0], ten[1]) == 40


def test_nothing_and_too_much(model: LanguageModel) -> None:
    assert score_targets(model.backend, []) == []
    with pytest.raises(ContextError, match="they take 65 tokens, and the model's context is 64"):
        score_targets(model.backend, [Target(context=(1,) * 64, targets=(2, 3))])
