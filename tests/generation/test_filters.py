"""Every filter against Hugging Face's, and against its plain definition: sort everything, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from gpt2.backends.seam import Result
from gpt2.generation import Sampling, filters
from gpt2.generation.greenlist import GreenList
from gpt2.generation.sampler import Sampler

V = 500
SEEDS = range(12)


def random_logits(seed: int, size: int = V) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * rng.choice([0.3, 1, 3, 8]) + rng.normal(0, 30)).astype(np.float32)


def with_ties(seed: int, size: int = V) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, size).astype(np.float32)


def row(logits: np.ndarray) -> filters.Row:
    return np.arange(len(logits)), logits


def oracle(processor: hf.LogitsProcessor, logits: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    ids = torch.tensor([[0]] if seen is None else seen[None].tolist())
    return processor(ids, torch.from_numpy(logits.copy())[None])[0].numpy()


def survivors(logits: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(logits)).tolist()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def plain_first_to_reach(scores: np.ndarray, probabilities: np.ndarray, p: float) -> list[int]:
    kept, reached = [], 0.0
    for i in np.argsort(-scores, kind="stable"):
        if kept and reached >= p:
            break
        kept.append(int(i))
        reached += probabilities[i]
    return sorted(kept)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_repetition_penalty_is_hugging_faces(seed: int, penalty: float):
    logits, seen = random_logits(seed) * 0.1, np.random.default_rng(seed).integers(0, V, 60)
    expected = oracle(hf.RepetitionPenaltyLogitsProcessor(penalty), logits, seen)
    assert (filters.repetition(logits, penalty, seen) == expected).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ngram_blocking_is_hugging_faces(seed: int, size: int):
    seen = np.random.default_rng(seed).integers(0, 4, 3 * seed + 1)  # 1 to 34 tokens of 4 kinds: many repeats
    logits = random_logits(seed)
    expected = oracle(hf.NoRepeatNGramLogitsProcessor(size), logits, seen)
    assert (filters.no_repeat_ngram(logits, size, seen) == expected).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_bias_is_hugging_faces(seed: int):
    bias = {3: -2.5, 499: 7.0, 17: 0.125}
    expected = oracle(hf.SequenceBiasLogitsProcessor([[[token], b] for token, b in bias.items()]), random_logits(seed))
    ours = filters.bias(random_logits(seed), np.array(list(bias)), np.array(list(bias.values()), np.float32))
    assert (ours == expected).all()


def test_presence_and_frequency_are_openais():
    logits = np.zeros(6, np.float32)
    changed = filters.presence_and_frequency(logits, 0.5, 0.25, np.array([4, 2, 4, 4]))
    assert changed.tolist() == [0, 0, -0.75, 0, -1.25, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_temperature_is_hugging_faces_but_for_a_constant(seed: int):
    logits = random_logits(seed)
    expected = oracle(hf.TemperatureLogitsWarper(0.7), logits)
    np.testing.assert_allclose(filters.temperature(logits, 0.7), expected - expected.max(), rtol=1e-6, atol=1e-5)


def test_at_a_temperature_beyond_float32_all_are_alike():
    assert filters.divisor(1e39) == np.inf
    assert not filters.temperature(random_logits(0), 1e39).any()


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-60])
def test_a_temperature_near_0_is_greedy(temperature: float):
    cooled = filters.temperature(random_logits(0), temperature)
    assert cooled.max() == 0
    assert np.sort(cooled)[-2] < -1000
    assert cooled.argmax() == random_logits(0).argmax()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 40, V - 1, V, V + 7])
def test_top_k(seed: int, k: int):
    logits = random_logits(seed)
    assert filters.top_k(row(logits), k)[0].tolist() == survivors(oracle(hf.TopKLogitsWarper(k), logits))
    tied = with_ties(seed)
    assert filters.top_k(row(tied), k)[0].tolist() == sorted(np.argsort(-tied, kind="stable")[:k].tolist())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p(seed: int, p: float):
    logits = random_logits(seed)
    ours = filters.top_p(row(logits), p)[0].tolist()
    assert ours == survivors(oracle(hf.TopPLogitsWarper(p), logits))
    assert ours == plain_first_to_reach(logits, softmax(logits), p)
    tied = with_ties(seed)
    assert filters.top_p(row(tied), p)[0].tolist() == plain_first_to_reach(tied, softmax(tied), p)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 1.0])
def test_min_p(seed: int, p: float):
    logits = random_logits(seed)
    ours = filters.min_p(row(logits), p)[0].tolist()
    assert ours == survivors(oracle(hf.MinPLogitsWarper(p), logits))
    probabilities = softmax(logits)
    assert ours == np.flatnonzero(probabilities >= p * probabilities.max()).tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_typical_p(seed: int, p: float):
    logits = random_logits(seed)
    ours = filters.typical_p(row(logits), p)[0].tolist()
    assert ours == survivors(oracle(hf.TypicalLogitsWarper(p), logits))
    probabilities = softmax(logits)
    information = -np.log(np.maximum(probabilities, 1e-300))
    distance = np.abs(information - (probabilities * information).sum())
    assert ours == plain_first_to_reach(-distance, probabilities, p)


@pytest.mark.parametrize("p", [0.1, 0.9, 0.99])
def test_a_whole_vocabulary(p: float):
    logits = random_logits(2, 50257)
    assert filters.top_p(row(logits), p)[0].tolist() == plain_first_to_reach(logits, softmax(logits), p)


@pytest.mark.parametrize("keep", [filters.top_p, filters.typical_p], ids=["top_p", "typical_p"])
@pytest.mark.parametrize("p", [5e-324, 1e-9, 0.9])
def test_a_single_token_and_a_certain_one(keep: Callable, p: float):
    assert keep(row(random_logits(0, 1)), p)[0].tolist() == [0]
    certain = np.array([0, -200, -np.inf, 90], np.float32)
    assert keep(row(certain), p)[0].tolist() == [3]


@pytest.mark.parametrize("keep", [filters.top_p, filters.typical_p], ids=["top_p", "typical_p"])
def test_the_least_probability_keeps_one_of_many_alike(keep: Callable):
    assert keep(row(np.zeros(10, np.float32)), 1e-9)[0].tolist() == [0]


def test_what_reaches_p_exactly_is_enough():
    assert filters.top_p(row(np.zeros(4, np.float32)), 0.5)[0].tolist() == [0, 1]
    half = np.log(np.array([1, 0.5, 0.5], np.float32))
    assert np.exp(half).tolist() == [1, 0.5, 0.5]
    assert filters.top_p(row(half), 0.5)[0].tolist() == [0]


def test_filters_do_not_touch_what_they_are_given():
    logits = random_logits(1)
    logits.flags.writeable = False
    seen = np.array([1, 2, 1, 2])
    filters.bias(logits, seen[:1], logits[:1])
    filters.repetition(logits, 1.1, seen)
    filters.presence_and_frequency(logits, 1, 1, seen)
    filters.no_repeat_ngram(logits, 2, seen)
    filters.ban(logits, [3])
    filters.temperature(logits, 0.5)


def test_log_normaliser():
    logits = random_logits(4, 50257)
    expected = torch.logsumexp(torch.from_numpy(logits).double(), 0).item()
    assert filters.log_normaliser(logits) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_filters_in_order_are_hugging_faces(seed: int, monkeypatch: pytest.MonkeyPatch):
    """The row that is drawn from, as the sampler composes it."""
    logits = random_logits(seed) * 0.2
    seen = np.random.default_rng(seed).integers(0, 30, 40)
    sampling = Sampling(
        logit_bias={5: 2.0, 6: -1.0},
        repetition_penalty=1.2,
        no_repeat_ngram=2,
        min_tokens=60,
        temperature=0.8,
        top_k=100,
        top_p=0.9,
        min_p=0.02,
        typical_p=0.8,
    )
    end = 7
    processors = hf.LogitsProcessorList(
        [
            hf.SequenceBiasLogitsProcessor([[[5], 2.0], [[6], -1.0]]),
            hf.RepetitionPenaltyLogitsProcessor(1.2),
            hf.NoRepeatNGramLogitsProcessor(2),
            hf.MinNewTokensLengthLogitsProcessor(10, 60, end),
            hf.TemperatureLogitsWarper(0.8),
            hf.TopKLogitsWarper(100),
            hf.TopPLogitsWarper(0.9),
            hf.MinPLogitsWarper(0.02),
            hf.TypicalLogitsWarper(0.8),
        ]
    )
    expected = oracle(processors, logits, seen)
    drawn_from: list[filters.Row] = []

    def remember(key: int, ids: np.ndarray, logits: np.ndarray) -> int:
        drawn_from.append((ids, logits))
        return int(ids[0])

    monkeypatch.setattr("gpt2.generation.draws.draw", remember)
    sampler = Sampler(sampling, seed=0, n_prompt=10, n_ids=V, vocab_size=V, end_ids=[end])
    assert sampler.want(seen.tolist()).logits
    sampler.choose(Result(logits_RV=logits[None]), 0, seen.tolist(), 0)
    ((ids, kept),) = drawn_from
    assert ids.tolist() == survivors(expected)
    np.testing.assert_allclose(kept - kept[0], expected[ids] - expected[ids[0]], atol=1e-4)


@pytest.mark.parametrize(("presence", "frequency"), [(0.7, 0.0), (0.0, 0.4)])
def test_one_of_the_two_penalties_alone_applies(presence: float, frequency: float):
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    sampler = Sampler(sampling, seed=0, n_prompt=1, n_ids=V, vocab_size=V, end_ids=[])
    logits = random_logits(0)
    changed = sampler.change(logits, [9, 3, 3, 4])  # of the prompt 9
    expected = filters.presence_and_frequency(logits, presence, frequency, np.array([3, 3, 4]))
    np.testing.assert_array_equal(changed, expected)
    assert np.flatnonzero(changed != logits).tolist() == [3, 4]


@pytest.mark.parametrize(("name", "value"), [("top_k", 3), ("top_p", 0.5), ("min_p", 0.1), ("typical_p", 0.5)])
def test_one_of_the_filters_alone_applies(name: str, value: float):
    sampler = Sampler(Sampling(**{name: value}), seed=0, n_prompt=1, n_ids=V, vocab_size=V, end_ids=[])
    logits = random_logits(0)
    expected_ids, expected = getattr(filters, name)(row(logits), value)
    ids, kept = sampler.keep(row(logits))
    assert ids.tolist() == expected_ids.tolist() != list(range(V))
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, "draw"),
        ({"top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 2}, "draw"),
        ({"typical_p": 0.9}, "logits"),
        ({"logit_bias": {3: 1.0}, "top_k": 5}, "logits"),
        ({"no_repeat_ngram": 1, "top_k": 5}, "logits"),
        ({"typical_p": 0.9, "top_k": 5}, 5),
        ({"logprobs": 2, "top_k": 5}, 5),
        ({"logprobs": 7, "top_k": 5}, 7),
        ({"best_of": 2, "top_k": 5}, 5),
        ({"logprobs": 0}, "logits"),
        ({"logprobs": 0, "top_k": 5, "presence_penalty": 1}, "logits"),
        ({"logprobs": 0, "temperature": 0}, 1),
    ],
)
def test_a_backend_is_asked_for_what_all_filters_need(settings: dict, asked: str | int):
    sampler = Sampler(Sampling(**settings), seed=0, n_prompt=1, n_ids=V, vocab_size=V, end_ids=[])
    want = sampler.want([1, 2, 3])
    assert (want.draw is not None, want.best, want.logits) == (
        asked == "draw",
        asked if isinstance(asked, int) else 0,
        asked == "logits",
    )
    several = sampler.want([1, 2, 3], None)  # draw from one row
    assert several.draw is None
    assert several.best or several.logits
    padded = Sampler(Sampling(**settings), seed=0, n_prompt=1, n_ids=V - 1, vocab_size=V, end_ids=[])
    assert padded.want([1, 2, 3]).logits


def test_penalties_count_the_tokens_of_a_draft():
    sampler = Sampler(Sampling(frequency_penalty=1), seed=9, n_prompt=1, n_ids=V, vocab_size=V, end_ids=[])
    want = sampler.want([1, 2, 3], 0, [4, 5])
    assert want.rows == 3
    assert want.draw is not None
    assert want.draw.penalties is not None
    assert list(want.draw.penalties.text) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_green_list_is_of_the_whole_vocabulary_with_what_pads_it(temperature: float):
    green, n_ids = GreenList(delta=100), V - 30
    sampler = Sampler(
        Sampling(temperature=temperature), seed=0, n_prompt=1, n_ids=n_ids, vocab_size=V, end_ids=[], noise=green
    )
    for last in range(20):
        chosen = sampler.choose(Result(logits_RV=random_logits(last)[None]), 0, [1, last], 0).token
        assert chosen < n_ids
        assert green.is_green([last, chosen], V)
