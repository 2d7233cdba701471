"""Greedy continuations equal Hugging Face's `generate`, token for token."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpt2.generation import Request, Sampling, Scheduler

PROMPTS = ["A", "hello", "The quick brown fox", "0123456789abcdef"]
SHAPES: list[dict[str, int]] = [{}, {"n_layer": 3, "n_head": 4, "n_embd": 20}, {"n_layer": 1, "n_head": 1, "n_embd": 8}]


def generate(hf: Any, prompt: str, **settings: Any) -> list[int]:
    ids = torch.tensor([list(prompt.encode())])
    with torch.no_grad():
        out = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, **settings)
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_greedy_alone_and_in_one_batch_of_unequal_prompts(toy: SimpleNamespace, seed: int, shape: dict[str, int]):
    hf, backend = toy.miniature(seed, **shape)
    scheduler = Scheduler(backend, toy.Tokenizer(), chunk_tokens=7)
    numbers = [
        scheduler.submit(Request(prompt=prompt, sampling=Sampling(temperature=0, max_tokens=24))) for prompt in PROMPTS
    ]
    events = toy.run(scheduler)
    for number, prompt in zip(numbers, PROMPTS, strict=True):
        expected = generate(hf, prompt)
        assert toy.tokens_of(events, number) == expected
        alone = toy.continue_text(backend, toy.Tokenizer(), prompt, temperature=0, max_tokens=24)
        assert toy.tokens_of(alone) == expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
        ({"min_tokens": 20}, {"min_new_tokens": 20}),
        ({"logit_bias": {65: 3.0, 66: -4.0}}, {"sequence_bias": [[[65], 3.0], [[66], -4.0]]}),
        (
            {"repetition_penalty": 1.2, "no_repeat_ngram": 3, "min_tokens": 5},
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(2))
def test_greedy_with_penalties(toy: SimpleNamespace, seed: int, ours: dict[str, Any], theirs: dict[str, Any]):
    hf, backend = toy.miniature(seed)
    for prompt in PROMPTS:
        events = toy.continue_text(backend, toy.Tokenizer(), prompt, temperature=0, max_tokens=24, **ours)
        assert toy.tokens_of(events) == generate(hf, prompt, **theirs)


def test_end_of_text_ends_both(toy: SimpleNamespace):
    hf, backend = toy.miniature(0)
    prompt = "hello"
    first = generate(hf, prompt)
    bias = {first[5]: -100.0, toy.EOT: 25.0} if toy.EOT not in first else {}
    theirs = {"sequence_bias": [[[token], value] for token, value in bias.items()]} if bias else {}
    events = toy.continue_text(backend, toy.Tokenizer(), prompt, temperature=0, max_tokens=24, logit_bias=bias)
    assert toy.tokens_of(events) == generate(hf, prompt, **theirs)
    assert events[-1].stop_reason == toy.EOT


def test_a_seed_gives_the_same_text_alone_and_in_a_batch_on_a_real_model(toy: SimpleNamespace):
    _, backend = toy.miniature(1)
    scheduler = Scheduler(backend, toy.Tokenizer(), chunk_tokens=5)
    kinds: list[dict[str, Any]] = [{}, {"top_k": 30}, {"top_p": 0.9, "temperature": 0.7}, {"n": 2}]
    asked = [
        Request(prompt=prompt, sampling=Sampling(seed=seed, max_tokens=60, ignore_eot=True, **kind))
        for seed, (prompt, kind) in enumerate(zip(PROMPTS, kinds, strict=True))
    ]
    numbers = [scheduler.submit(request) for request in reversed(asked)]
    events = toy.run(scheduler)
    for number, request in zip(reversed(numbers), asked, strict=True):
        alone = Scheduler(backend, toy.Tokenizer(), chunk_tokens=5)
        alone.submit(request)
        by_itself = toy.run(alone)
        for sample in range(request.sampling.n):
            assert toy.tokens_of(events, number, sample) == toy.tokens_of(by_itself, 0, sample)
