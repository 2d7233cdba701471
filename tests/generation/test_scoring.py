"""Scores against a straightforward computation with Hugging Face's model."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.errors import GenerationError
from gpt2.generation import score
from gpt2.generation.scoring import computed_tokens

TEXT = "The cat sat on the mat. Ünïcode €5, and " + "so on and so forth, " * 6


def window(n_positions: int, stride: int, i: int) -> int:
    """Where the window begins that predicts the token after position i: the first that reaches it."""
    return 0 if i < n_positions else stride * math.ceil((i - n_positions + 1) / stride)


@pytest.mark.parametrize("stride", [None, 3, 7, 48])
@pytest.mark.parametrize("score_first", [True, False])
def test_equals_hugging_face_window_by_window(toy: SimpleNamespace, stride: int | None, score_first: bool):
    hf, backend = toy.miniature(3)
    ids = list(TEXT.encode())
    assert len(ids) > 3 * 48
    scores = score(backend, toy.Tokenizer(), TEXT, stride=stride, score_first=score_first, best=3)
    context = [toy.EOT, *ids] if score_first else ids
    entries = list(zip(ids, scores.logprobs, scores.ranks, scores.entropies, scores.best, strict=True))
    if not score_first:
        assert entries.pop(0)[1:] == (None, None, None, ())
    windows: dict[int, torch.Tensor] = {}
    for i, (token, logprob, rank, entropy, best) in enumerate(entries):
        start = window(48, stride or 24, i)
        assert i - start < 48
        if start not in windows:
            with torch.no_grad():
                windows[start] = hf(torch.tensor([context[start : start + 48]])).logits[0].double()
        expected = torch.log_softmax(windows[start][i - start], 0)
        assert logprob == pytest.approx(expected[token].item(), abs=1e-4)
        assert rank == (expected > expected[token]).sum()
        assert entropy == pytest.approx(-(expected.exp() * expected).sum().item(), abs=1e-4)
        assert [token for token, _ in best] == expected.topk(3).indices.tolist()
        assert [logprob for _, logprob in best] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)
    assert backend.bytes() == 0


def test_summaries(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=256)
    scores = score(backend, toy.Tokenizer(), "five € and more")
    total = sum(scores.logprobs)
    assert scores.text == "five € and more"
    assert scores.tokens == scores.ids == tuple("five € and more".encode())
    assert scores.pieces[:6] == (*"five ", "\N{REPLACEMENT CHARACTER}")
    assert scores.n_bytes == scores.n_scored == 17
    assert scores.logprob == pytest.approx(total)
    assert scores.perplexity == pytest.approx(np.exp(-total / 17))
    assert scores.perplexity_per_word == pytest.approx(np.exp(-total / 4))
    assert scores.bits_per_byte == pytest.approx(-total / np.log(2) / 17)
    assert scores.best == ((),) * 17
    assert score(backend, toy.Tokenizer(), list("five € and more".encode())) == scores


@pytest.mark.parametrize("n_positions", [1, 2, 3, 8, 300])
@pytest.mark.parametrize("n_tokens", [1, 2, 8, 9, 290])
def test_each_token_once_with_the_stated_context_and_no_row_of_logits(
    toy: SimpleNamespace, n_positions: int, n_tokens: int
):
    backend = toy.Backend(n_positions=n_positions)
    ids = [i % 256 for i in range(n_tokens)]
    for stride in sorted({1, max(1, n_positions // 2), n_positions}):
        backend.steps.clear()
        scores = score(backend, toy.Tokenizer(), ids, stride=stride)
        context = [toy.EOT, *ids]
        for i, logprob in enumerate(scores.logprobs):
            start = window(n_positions, stride, i)
            assert min(i, n_positions - stride) <= i - start < n_positions
            logits = backend.logits(context[start : i + 1])
            assert logprob == pytest.approx(torch.log_softmax(torch.from_numpy(logits), 0)[ids[i]].item(), abs=1e-4)
        targets = [token for (work,) in backend.steps for token in work.want.targets or ()]
        assert targets == ids
        n_computed = sum(len(work.tokens) for (work,) in backend.steps)
        assert computed_tokens(len(ids), stride=stride, n_positions=n_positions) == n_computed
        assert not any(work.want.logits for (work,) in backend.steps)
    assert backend.slots == {}


def test_an_unlikely_text_does_not_overflow(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=2048)
    assert score(backend, toy.Tokenizer(), "x" * 1500).perplexity_per_word == math.inf


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "it has 0 tokens. Give at least 1"),
        ("a", {"score_first": False}, "it has 1 tokens. Give at least 2"),
        ("ab", {"stride": 0}, "stride must lie between 1 and the context of 32 tokens: got 0"),
        ("ab", {"stride": 33}, "got 33"),
    ],
)
def test_what_cannot_be_scored(toy: SimpleNamespace, text: str, settings: dict[str, Any], message: str):
    with pytest.raises(GenerationError, match=message):
        score(toy.Backend(), toy.Tokenizer(), text, **settings)


def test_no_end_of_text_to_score_the_first_token_by(toy: SimpleNamespace):
    with pytest.raises(GenerationError, match="score_first=False"):
        score(toy.Backend(), toy.Tokenizer(eot=None), "ab")
    assert score(toy.Backend(), toy.Tokenizer(eot=None), "ab", score_first=False).n_scored == 1


def test_the_slot_is_given_back_when_a_step_fails(toy: SimpleNamespace):
    backend = toy.Backend()

    def fail(work: object) -> None:
        raise MemoryError

    backend.before_step = fail
    with pytest.raises(MemoryError):
        score(backend, toy.Tokenizer(), "ab")
    assert backend.slots == {}


def test_what_is_not_scored_counts_for_nothing(toy: SimpleNamespace):
    told: list[tuple[int, int]] = []
    scores = score(
        toy.Backend(),
        toy.Tokenizer(),
        "a b\nc\nd",
        score_first=False,
        progress=lambda done, of: told.append((done, of)),
    )
    assert scores.n_scored == scores.n_bytes == 6
    assert scores.perplexity == pytest.approx(np.exp(-scores.logprob / 6))
    assert scores.perplexity_per_word == pytest.approx(np.exp(-scores.logprob / 4))
    assert scores.bits_per_byte == pytest.approx(-scores.logprob / np.log(2) / 6)
    assert told[-1] == (6, 6)


def test_progress_ends_at_all_that_is_scored(toy: SimpleNamespace):
    told: list[tuple[int, int]] = []
    scores = score(toy.Backend(), toy.Tokenizer(), "ab" * 50, progress=lambda done, of: told.append((done, of)))
    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1] == (scores.n_scored, scores.n_scored)
