"""The keys of draws: by position, or by a secret and the tokens before."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpt2.generation import ContextNoise, Request, Sampling, Scheduler, draws
from gpt2.generation.noise import POSITION

SECRET = bytes(range(32))


def key(noise: ContextNoise, seen: list[int], n_prompt: int, *, seed: int = 1, sample: int = 0) -> int:
    return noise.key(seed=seed, sample=sample, seen=seen, n_prompt=n_prompt)


def test_the_default_is_keyed_by_position():
    assert POSITION.key(seed=5, sample=2, seen=[7, 8, 9], n_prompt=1) == draws.key(5, 2, 3)


def test_a_context_has_one_key_whatever_stands_before_it():
    noise = ContextNoise(SECRET, width=3)
    expected = noise.context_key([4, 5, 6])
    assert key(noise, [9, 4, 5, 6], 1) == key(noise, [1, 2, 3, 4, 5, 6], 0) == expected
    assert key(noise, [9, 4, 5, 6], 1, seed=77, sample=3) == expected
    assert key(noise, [4, 9, 6, 4, 5, 6], 0) == expected  # the context is new, though its tokens stood there before
    others = [
        noise.context_key([4, 5, 7]),
        noise.context_key([5, 4, 6]),
        ContextNoise(SECRET[1:], width=3).context_key([4, 5, 6]),
    ]
    assert len({expected, *others}) == 4


def test_a_known_answer():
    """Marks must stay readable: this is the construction, and it does not change."""
    assert ContextNoise(SECRET, width=4).context_key([1, 2, 3, 50256]) == 3594099168490305288


@pytest.mark.parametrize(
    ("seen", "n_prompt"),
    [
        ([4, 5, 6], 1),  # too little of the continuation
        ([1, 2, 3, 4], 4),
        ([4, 5, 6, 1, 4, 5, 6], 0),  # stood before a draw already
        ([4, 4, 4, 4], 0),
    ],
)
def test_otherwise_the_position_decides(seen: list[int], n_prompt: int):
    noise = ContextNoise(SECRET, width=3)
    assert key(noise, seen, n_prompt) == draws.key(1, 0, len(seen))


def test_the_prompts_contexts_do_not_count():
    noise = ContextNoise(SECRET, width=2)
    assert key(noise, [4, 5, 4, 5], 2) == noise.context_key([4, 5])


def test_the_secret_is_not_shown():
    noise = ContextNoise(b"0123456789abcdef")
    assert "0123" not in repr(noise)


def test_draws_by_context_follow_the_distribution():
    """Chi-square of one draw in 4,000 contexts, 7 degrees of freedom, at 0.1 %."""
    noise, logits = ContextNoise(SECRET, width=2), np.log(np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02]))
    drawn = [draws.draw(noise.context_key([i, i + 1]), np.arange(8), logits) for i in range(4000)]
    expected = 4000 * np.exp(logits)
    assert (((np.bincount(drawn, minlength=8) - expected) ** 2) / expected).sum() < 24.3


def test_a_marked_text_is_read_from_tokens_and_secret_alone(toy: SimpleNamespace):
    """The mean of -log(1 - u) is 1 without a mark; here of about 100 tokens each."""

    def read(tokens: list[int], noise: ContextNoise) -> float:
        contexts = {tuple(tokens[i - 2 : i]): tokens[i] for i in range(len(tokens) - 1, 1, -1)}
        u = [draws.uniforms(noise.context_key(list(c)), np.array([token]))[0] for c, token in contexts.items()]
        return float(np.mean(-np.log1p(-np.array(u))))

    texts: list[list[int]] = []
    for noise in (ContextNoise(SECRET, width=2), POSITION):
        scheduler = Scheduler(toy.Backend(n_positions=128), toy.Tokenizer(), noise=noise)
        for n in (1, 2):
            scheduler.submit(Request(prompt="ab", sampling=Sampling(seed=3, n=n, max_tokens=100, ignore_eot=True)))
        events = toy.run(scheduler)
        texts.append(toy.tokens_of(events))
        assert texts[-1] == toy.tokens_of(events, request=1)
        assert texts[-1] != toy.tokens_of(events, request=1, sample=1)
    noise, other = ContextNoise(SECRET, width=2), ContextNoise(SECRET[::-1], width=2)
    assert read(texts[0], noise) > 2
    for unmarked in (read(texts[0], other), read(texts[1], noise)):
        assert 0.6 < unmarked < 1.4
