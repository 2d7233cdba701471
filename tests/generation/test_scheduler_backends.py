"""The scheduler over each real backend: what it shares, guesses, cuts and mixes changes no text."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2 import backends
from gpt2.backends.seam import Backend
from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.generation import Event, ModelDrafter, NgramDrafter, Request, Sampling, Scheduler
from gpt2.generation.drafting import Ask

SHARED = "one two three, one two three, one two "
CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_positions=96, vocab_size=257)


def weights(config: ModelConfig) -> Weights:
    rng = np.random.default_rng(3)
    arrays = {
        name: np.ones(shape, np.float32) if name.endswith(".g") else rng.normal(0, 0.25, shape).astype(np.float32)
        for name, shape in shapes(config).items()
    }
    return Weights.from_arrays(config, arrays)


@pytest.fixture(scope="module", params=["native", "native, 2 threads", "native int8", "torch", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    name, _, rest = request.param.partition(" ")
    threads = {"native,": 2, "native": 1}.get(name)
    form = "int8" if rest == "int8" else "fp32"
    opened = backends.open(weights(CONFIG), backend=name.strip(","), form=form, threads=threads)
    yield opened
    opened.close()


def requests() -> list[Request]:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"seed": 1, "temperature": 0.3},
        {"seed": 2, "top_k": 5, "logprobs": 1, "n": 2},
        {"seed": 3, "top_p": 0.7, "repetition_penalty": 1.1},
    ]
    return [
        Request(prompt=prompt, sampling=Sampling(max_tokens=24, ignore_eot=True, **kind))
        for prompt in (SHARED, SHARED * 2, "x")
        for kind in kinds
    ]


def run(toy: SimpleNamespace, backend: Backend, asked: list[Request], **settings: Any) -> tuple[list[list[Event]], Any]:
    scheduler = Scheduler(backend, toy.Tokenizer(), **settings)
    for request in asked:
        scheduler.submit(request)
    events = toy.run(scheduler)
    counts = scheduler.statistics().counts
    scheduler.close()
    by_request = [[replace(e, request=0) for e in events if e.request == number] for number in range(len(asked))]
    return [sorted(mine, key=lambda event: event.sample) for mine in by_request], counts


def test_what_is_shared_or_guessed_changes_no_text(toy: SimpleNamespace, backend: Backend):
    asked = requests()
    alone = [run(toy, backend, [request])[0][0] for request in asked]
    held = backend.bytes()
    smaller = backends.open(weights(replace(CONFIG, n_layer=1)), backend=backend.name, form=backend.weights, threads=1)
    ways: list[dict[str, Any]] = [
        {},
        {"prefix_bytes": 1 << 24, "drafter": NgramDrafter(), "chunk_tokens": 16, "prefill_tokens": 32, "max_slots": 5},
        {"drafter": ModelDrafter(smaller, cost=0.1), "kv_bytes": 8 * backend.slot_bytes(96), "max_slots": 7},
    ]
    for settings in ways:
        found, counts = run(toy, backend, asked, **settings)
        for mine, expected, request in zip(found, alone, asked, strict=True):
            if backend.name == "native":  # the same bytes, log-probabilities included
                assert mine == expected, (request, settings)
            else:
                assert [e.token for e in mine] == [e.token for e in expected], (request, settings)
        assert (counts.prefix_hits > 2) == ("prefix_bytes" in settings)
        assert (counts.accepted_tokens > 5) == ("drafter" in settings)
        assert backend.bytes() == held
    smaller.close()


def test_guesses_begin_when_few_texts_are_left(toy: SimpleNamespace, backend: Backend):
    lengths = [4, 6, 8, 10, 12, 14, 16, 18, 20, 60, 60, 60]
    asked = [
        Request(prompt=f"{number} {SHARED}"[:30], sampling=Sampling(max_tokens=length, ignore_eot=True, temperature=0))
        for number, length in enumerate(lengths)
    ]
    plain, _ = run(toy, backend, asked, max_slots=12)
    smaller = backends.open(weights(replace(CONFIG, n_layer=1)), backend=backend.name, form=backend.weights, threads=1)
    held, widths, first = smaller.bytes(), list[int](), dict[object, int]()

    class Noting(ModelDrafter):
        def draft(self, asks: Sequence[Ask]) -> list[list[int]]:
            widths.append(len(asks))
            for ask in asks:
                first.setdefault(ask.text, len(ask.ids))
            return super().draft(asks)

    found, counts = run(toy, backend, asked, drafter=Noting(smaller, cost=0.1), max_slots=12)
    assert [[e.token for e in mine] for mine in found] == [[e.token for e in mine] for mine in plain]
    assert 1 < max(widths) < len(asked) and min(first.values()) > 30 + min(lengths)  # none while there were many
    assert counts.accepted_tokens > 0
    assert smaller.bytes() == held
    smaller.close()


def test_memory_stays_within_its_bound(toy: SimpleNamespace, backend: Backend):
    rng = random.Random(1)
    limit = 4 * backend.slot_bytes(96)
    held = backend.bytes()
    scheduler = Scheduler(backend, toy.Tokenizer(), kv_bytes=limit, prefix_bytes=limit // 2, chunk_tokens=16)
    for seed in range(16):
        prompt = SHARED[: rng.randrange(3, 38)]
        scheduler.submit(Request(prompt=prompt, sampling=Sampling(seed=seed, max_tokens=rng.randrange(1, 30))))
    while scheduler.busy:
        scheduler.step()
        assert backend.bytes() - held <= limit
    scheduler.close()
    assert backend.bytes() == held
