"""Drafts change how many steps a text takes, and nothing else."""

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2.backends.native import NativeBackend
from gpt2.backends.seam import Backend, Work
from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import BackendError, GenerationError
from gpt2.generation import ContextNoise, Event, ModelDrafter, NgramDrafter, Request, Sampling, Scheduler
from gpt2.generation.drafting import MOST_DRAFTED, Ask, Pace
from gpt2.native.library import Library

KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"seed": 1},
    {"seed": 1, "temperature": 0.5, "top_k": 5, "logprobs": 2},
    {"seed": 7, "top_p": 0.8, "n": 3},
    {"seed": 3, "best_of": 3, "top_k": 20},
    {"seed": 2, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "no_repeat_ngram": 4},
    {"temperature": 0, "prompt_logprobs": 2, "n": 2, "min_tokens": 10, "top_k": 1},
    {"seed": 4, "min_p": 0.1, "typical_p": 0.9, "presence_penalty": 0.5, "logit_bias": {65: 2.0}},
    {"seed": 5, "stop": ("ab", "\x00"), "ignore_eot": True},
    {"temperature": 0, "stop_ids": range(60, 70), "min_tokens": 7, "top_k": 3},
    {"seed": 6, "overflow": "refuse", "max_tokens": 500, "top_k": 2},
]


def lively(toy: SimpleNamespace, **settings: Any) -> Any:
    """A backend whose text repeats itself, for its logits depend on few tokens; any slip in a slot still shows."""

    class Lively(toy.Backend):
        doubt = 0.0

        def logits(self, tokens: Sequence[int]) -> np.ndarray:
            near = super().logits([tokens[-1] % 8, len(tokens) // 24 % 2]) * 2
            return near + self.doubt * super().logits(tokens)

    backend = Lively(**settings)
    return backend


class Guesses:
    """A drafter that guesses what it is told to, right or wrong."""

    cost = 0.0

    def __init__(self, guess: Any) -> None:
        self.guess = guess
        self.texts: set[object] = set()

    def draft(self, asks: Sequence[Ask]) -> list[list[int]]:
        self.texts.update(ask.text for ask in asks)
        return [list(self.guess(ask))[: ask.most] for ask in asks]

    def forget(self, text: object) -> None:
        self.texts.discard(text)

    def slot_bytes(self, tokens: int) -> int:
        return 0

    def close(self) -> None:
        self.texts.clear()


def at_random(ask: Ask) -> list[int]:
    rng = random.Random(zlib.crc32(bytes(token % 256 for token in ask.ids)))
    return [rng.randrange(257) for _ in range(rng.randrange(ask.most + 1))]


def drafter(toy: SimpleNamespace, kind: str) -> Any:
    if kind == "ngram":
        return NgramDrafter()
    if kind == "random":
        return Guesses(at_random)
    smaller = lively(toy, n_positions=24)
    smaller.doubt = 0.5
    return ModelDrafter(smaller, cost=0.05)


def own(events: Sequence[Event], request: int) -> list[Event]:
    mine = [replace(event, request=0) for event in events if event.request == request]
    return sorted(mine, key=lambda event: (event.prompt is None, event.sample))


def requests() -> list[Request]:
    prompts = ["", "a", "hello, hello, hello", "0123456789" * 3]
    found: list[Request] = []
    for i, prompt in enumerate(prompts):
        found += [Request(prompt=prompt, sampling=Sampling(**{"max_tokens": 20 + 9 * i, **kind})) for kind in KINDS]
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, list[Event]]:
    """Events without drafts, kept from one test to the next."""
    return {}


def without_drafts(toy: SimpleNamespace, plain: dict[str, list[Event]], request: Request) -> list[Event]:
    if str(request) not in plain:
        scheduler = Scheduler(lively(toy), toy.Tokenizer())
        scheduler.submit(request)
        plain[str(request)] = own(toy.run(scheduler), 0)
    return plain[str(request)]


@pytest.mark.parametrize("kind", ["ngram", "model", "random"])
def test_each_text_is_the_same_with_drafts(toy: SimpleNamespace, plain: dict[str, list[Event]], kind: str):
    for request in requests():
        backend = lively(toy)
        scheduler = Scheduler(backend, toy.Tokenizer(), drafter=drafter(toy, kind))
        scheduler.submit(request)
        assert own(toy.run(scheduler), 0) == without_drafts(toy, plain, request), request
        assert backend.slots == {}


@pytest.mark.parametrize("kind", ["ngram", "model", "random"])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_text_is_the_same_with_drafts_among_others(
    toy: SimpleNamespace, plain: dict[str, list[Event]], kind: str, seed: int
):
    """With shared beginnings, cancellations and failing steps as well."""
    rng = random.Random(seed)
    backend = lively(toy)

    def fail(work: Sequence[Work]) -> None:
        if rng.random() < 0.05 and len(work) > 1:
            backend.slots[work[0].slot] += work[0].tokens
            raise MemoryError

    backend.before_step = fail
    guesses = drafter(toy, kind)
    scheduler = Scheduler(
        backend, toy.Tokenizer(), max_slots=6, chunk_tokens=8, prefill_tokens=16, prefix_bytes=200, drafter=guesses
    )
    everyone = requests()
    rng.shuffle(everyone)
    asked: dict[int, Request] = {}
    cancelled: set[int] = set()
    events: list[Event] = []
    while everyone or scheduler.busy:
        if everyone and rng.random() < 0.4:
            request = everyone.pop()
            asked[scheduler.submit(request)] = request
        if asked and rng.random() < 0.05 and scheduler.cancel(number := rng.choice(list(asked))):
            cancelled.add(number)
        events += scheduler.step()
    for number, request in asked.items():
        if number not in cancelled:
            assert own(events, number) == without_drafts(toy, plain, request), request
    counts = scheduler.statistics().counts
    assert counts.drafted_tokens > counts.accepted_tokens >= {"ngram": 20, "model": 100, "random": 0}[kind]
    if kind == "model":
        assert guesses._backend.slots == {}
    scheduler.close()
    assert backend.slots == {}


def native(seed: int, *, n_layer: int = 2, n_positions: int = 64) -> NativeBackend:
    config = ModelConfig(n_layer=n_layer, n_head=2, n_embd=32, n_positions=n_positions, vocab_size=257)
    rng = np.random.default_rng(seed)
    arrays = {
        name: np.ones(shape, np.float32) if name.endswith(".g") else rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes(config).items()
    }
    return NativeBackend(Weights.from_arrays(config, arrays), threads=1)


@pytest.mark.parametrize("kind", ["ngram", "model"])
def test_the_native_engine_gives_the_same_bytes_with_drafts(toy: SimpleNamespace, kind: str):
    Library.load()
    backend, smaller = native(0), native(0, n_layer=1)
    everyone = [request for request in requests() if request.prompt]

    def run(**settings: Any) -> list[Event]:
        scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=4, **settings)
        for request in everyone:
            scheduler.submit(request)
        events = toy.run(scheduler)
        counts = scheduler.statistics().counts
        assert bool(settings) == (counts.accepted_tokens > 20)
        return events

    expected = run()
    found = run(drafter=NgramDrafter() if kind == "ngram" else ModelDrafter(smaller, cost=0.1))
    for number in range(len(everyone)):
        assert own(found, number) == own(expected, number)
    assert backend.bytes() == smaller.bytes() == 0


@pytest.mark.parametrize("kind", ["ngram", "model"])
def test_a_marked_text_is_the_same_with_drafts(toy: SimpleNamespace, kind: str):
    noise = ContextNoise(bytes(32), width=2)
    texts: list[list[int]] = []
    for guesses in (None, drafter(toy, kind)):
        scheduler = Scheduler(lively(toy), toy.Tokenizer(), noise=noise, drafter=guesses)
        scheduler.submit(Request(prompt="ab", sampling=Sampling(seed=1, max_tokens=80, ignore_eot=True)))
        texts.append(toy.tokens_of(toy.run(scheduler)))
    assert texts[0] == texts[1]
    assert kind == "ngram" or scheduler.statistics().counts.accepted_tokens > 0


def test_a_constrained_text_is_the_same_with_drafts(toy: SimpleNamespace):
    class Even:
        """Allows the bytes of even number, one after the other only."""

        def __init__(self) -> None:
            self.came: list[int] = []

        def begin(self) -> "Even":
            return Even()

        def allowed(self) -> np.ndarray:
            return np.arange(257) % 2 == len(self.came) % 2

        def advance(self, token: int) -> None:
            assert self.allowed()[token]
            self.came.append(token)

    found: list[list[Event]] = []
    for guesses in (None, NgramDrafter(), drafter(toy, "model")):
        scheduler = Scheduler(lively(toy), toy.Tokenizer(), drafter=guesses)
        sampling = Sampling(temperature=0, max_tokens=60, n=2, ignore_eot=True)
        scheduler.submit(Request(prompt="ab", sampling=sampling, constraint=Even()))
        found.append(own(toy.run(scheduler), 0))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 120


# How many steps


def of_script(script: Sequence[int]) -> Guesses:
    return Guesses(lambda ask: script[len(ask.ids) :])


def test_what_is_guessed_right_is_not_computed_one_by_one(toy: SimpleNamespace):
    script = [random.Random(1).randrange(256) for _ in range(200)]
    backend = toy.Backend(n_positions=256, script=script)
    scheduler = Scheduler(backend, toy.Tokenizer(), drafter=of_script(script))
    scheduler.submit(Request(prompt=script[:5], sampling=Sampling(temperature=0, max_tokens=150)))
    events = toy.run(scheduler)
    assert toy.tokens_of(events) == script[5:155]
    assert len(backend.steps) < 150 / 8
    usage = events[-1].usage
    assert usage.drafted_tokens == usage.accepted_tokens == 150 - len(backend.steps)
    counts = scheduler.statistics().counts
    assert (counts.drafted_tokens, counts.accepted_tokens) == (usage.drafted_tokens, usage.accepted_tokens)


def test_guesses_that_are_always_wrong_are_soon_given_up(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=512, script=[0] * 512)
    scheduler = Scheduler(backend, toy.Tokenizer(), drafter=Guesses(lambda ask: [1] * ask.most))
    scheduler.submit(Request(prompt="a", sampling=Sampling(temperature=0, max_tokens=400)))
    usage = toy.run(scheduler)[-1].usage
    assert usage.accepted_tokens == 0
    assert usage.drafted_tokens < 80


def test_steps_do_not_depend_on_the_clock(toy: SimpleNamespace):
    def steps() -> list[list[int]]:
        backend = lively(toy)
        scheduler = Scheduler(backend, toy.Tokenizer(), drafter=drafter(toy, "model"))
        for request in requests()[:20]:
            scheduler.submit(request)
        toy.run(scheduler)
        return [[len(work.tokens) for work in step] for step in backend.steps]

    assert steps() == steps()


def test_many_texts_share_the_width_of_a_step(toy: SimpleNamespace):
    script = [0] * 300
    backend = toy.Backend(n_positions=256, script=script)
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=7, drafter=of_script(script))
    for _ in range(20):
        scheduler.submit(Request(prompt=[0], sampling=Sampling(temperature=0, max_tokens=20)))
    toy.run(scheduler)
    assert 7 < max(sum(len(work.tokens) for work in step) for step in backend.steps[1:]) <= 7 + 32


def test_where_many_texts_decode_nothing_is_guessed(toy: SimpleNamespace):
    script = [0] * 300
    backend = toy.Backend(n_positions=256, script=script)
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=8, drafter=of_script(script))
    for n in range(8):
        scheduler.submit(Request(prompt=[0], sampling=Sampling(temperature=0, max_tokens=60 if n == 0 else 20)))
    toy.run(scheduler)
    assert {len(work.tokens) for step in backend.steps if len(step) == 8 for work in step} == {1}
    assert max(len(work.tokens) for step in backend.steps if len(step) == 1 for work in step) > 1


def test_the_pace_follows_what_was_right():
    pace = Pace()
    first = pace.tokens(0.1)
    assert 1 <= first <= 5
    for _ in range(20):
        pace.learn(8, 8)
    assert pace.tokens(0.1) == MOST_DRAFTED
    for _ in range(3):
        pace.learn(MOST_DRAFTED, 0)
    assert pace.tokens(0.1) <= 3
    for _ in range(20):
        pace.learn(1, 0)
    assert pace.tokens(0.1) == 0
    for _ in range(900):
        pace.learn(0, 0)
    assert pace.tokens(0.1) == first
    assert 0 < Pace().tokens(0.6) < first
    assert Pace().tokens(2.0) == 0  # where a guess costs more than it can bring


# Guessing


@pytest.mark.parametrize(
    ("text", "most", "guess"),
    [
        ("abcd-abc", 3, "d-a"),
        ("abXY abZW ab", 2, "ZW"),  # the last time
        ("tabXY abZW tab", 2, "XY"),  # but the longest first
        ("ababab", 7, "abababa"),  # a loop goes on beyond the end
        ("abcdef", 4, ""),
        ("a", 4, ""),
        ("aa", 4, ""),
        ("aaa", 4, "aaaa"),
    ],
)
def test_n_grams_guess_what_followed_before(text: str, most: int, guess: str):
    def ask(n: int) -> Ask:
        return Ask(text="name", ids=list(text[:n].encode()), sampler=None, sample=0, most=most)  # type: ignore[arg-type]

    at_once, growing = NgramDrafter(), NgramDrafter()
    for n in range(1, len(text) + 1):
        found = growing.draft([ask(n)])
    assert at_once.draft([ask(len(text))]) == found == [list(guess.encode())]


def test_the_same_model_guesses_every_token_of_sampled_text(toy: SimpleNamespace):
    """They share the noise, so two models that agree on the distribution agree on the draw."""
    backend = toy.Backend(n_positions=128)
    scheduler = Scheduler(backend, toy.Tokenizer(), drafter=ModelDrafter(toy.Backend(n_positions=128), cost=0.0))
    scheduler.submit(Request(prompt="ab", sampling=Sampling(seed=1, max_tokens=100, ignore_eot=True)))
    usage = toy.run(scheduler)[-1].usage
    assert usage.drafted_tokens == usage.accepted_tokens > 85


def test_a_draft_model_reads_a_long_prompt_in_chunks_meanwhile(toy: SimpleNamespace):
    smaller = toy.Backend(n_positions=600)
    scheduler = Scheduler(toy.Backend(n_positions=600), toy.Tokenizer(), drafter=ModelDrafter(smaller, cost=0.0))
    scheduler.submit(Request(prompt="x" * 500, sampling=Sampling(seed=1, max_tokens=20, ignore_eot=True)))
    toy.run(scheduler)
    lengths = [len(work.tokens) for step in smaller.steps for work in step]
    assert max(lengths) <= 128
    assert sum(lengths) <= 500 + 2 * 20


# When it fails


def test_a_drafter_that_fails_is_left_and_the_text_goes_on(toy: SimpleNamespace, caplog: pytest.LogCaptureFixture):
    def explode(ask: Ask) -> list[int]:
        if len(ask.ids) > 20:
            raise BackendError("no memory")
        return [0]

    for guesses in (Guesses(explode), drafter(toy, "model")):
        if isinstance(guesses, ModelDrafter):
            guesses._backend.before_step = lambda work: explode(SimpleNamespace(ids=work[0].tokens * 21))
        backend = lively(toy)
        scheduler = Scheduler(backend, toy.Tokenizer(), drafter=guesses)
        scheduler.submit(Request(prompt="ab", sampling=Sampling(seed=1, max_tokens=40)))
        assert toy.run(scheduler) == toy.continue_text(lively(toy), toy.Tokenizer(), "ab", seed=1, max_tokens=40)
        assert "drafting failed (no memory); continuing without drafts" in caplog.text
        caplog.clear()


def test_a_guess_that_breaks_a_step_is_not_the_texts_fault(toy: SimpleNamespace):
    backend = lively(toy)

    def fail(work: Sequence[Work]) -> None:
        if any(250 in piece.tokens for piece in work):
            raise BackendError("broken")

    backend.before_step = fail
    scheduler = Scheduler(backend, toy.Tokenizer(), drafter=Guesses(lambda ask: [250]))
    settings: dict[str, Any] = {"seed": 1, "max_tokens": 30, "logit_bias": {250: -100}}
    scheduler.submit(Request(prompt="ab", sampling=Sampling(**settings)))
    assert toy.run(scheduler) == toy.continue_text(lively(toy), toy.Tokenizer(), "ab", **settings)


def test_tokens_before_an_error_are_given_out(toy: SimpleNamespace):
    def run(**settings: Any) -> list[Event]:
        scheduler = Scheduler(toy.Backend(vocab_size=3), toy.Tokenizer(), **settings)
        scheduler.submit(Request(prompt=[0], sampling=Sampling(temperature=0, no_repeat_ngram=1)))
        return toy.run(scheduler)

    expected = run()
    script = [0, *toy.tokens_of(expected)]
    found = run(drafter=of_script([*script, 0]))
    assert [event.token for event in found] == [event.token for event in expected] == [*script[1:], None]
    assert isinstance(found[-1].error, GenerationError)


def test_memory_of_the_draft_model_counts(toy: SimpleNamespace):
    guesses = ModelDrafter(toy.Backend(), cost=0.0)
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer(), kv_bytes=20, drafter=guesses)
    scheduler.submit(Request(prompt="a", sampling=Sampling(max_tokens=9)))
    with pytest.raises(GenerationError, match="may take 22 bytes"):
        scheduler.submit(Request(prompt="a", sampling=Sampling(max_tokens=10)))


# The distribution


class Small:
    """Six tokens whose distribution depends on the last one."""

    logits = np.log(np.random.default_rng(5).dirichlet(np.ones(6), 6)).astype(np.float32)


def test_pairs_of_tokens_follow_the_distribution_under_drafts(toy: SimpleNamespace):
    """Chi-square of the second and third token over 1,500 seeds at 0.1 %, pairs expected less than 5 times together."""

    def small(share: float) -> Backend:
        backend = toy.Backend(vocab_size=6, n_positions=8)
        backend.logits = lambda tokens: Small.logits[tokens[-1]] * share
        return backend

    scheduler = Scheduler(small(1.0), toy.Tokenizer(), max_slots=2, drafter=ModelDrafter(small(0.6), cost=0.0))
    for seed in range(1500):
        scheduler.submit(Request(prompt=[0], sampling=Sampling(seed=seed, max_tokens=4)))
    tokens: dict[int, list[int]] = {}
    for event in toy.run(scheduler):
        tokens.setdefault(event.request, []).append(event.token)
    P = np.exp(Small.logits.astype(np.float64))
    expected = 1500 * (P[0] @ P)[:, None] * P
    seen = np.zeros((6, 6))
    for row in tokens.values():
        seen[row[1], row[2]] += 1
    often = expected >= 5
    expected = np.append(expected[often], expected[~often].sum())
    seen = np.append(seen[often], seen[~often].sum())
    assert 20 < len(seen) <= 36
    assert (((seen - expected) ** 2) / expected).sum() < CHI_SQUARE[len(seen) - 1]
    counts = scheduler.statistics().counts
    assert counts.drafted_tokens > counts.accepted_tokens > 500


CHI_SQUARE = dict(
    enumerate([46.8, 48.3, 49.7, 51.2, 52.6, 54.1, 55.5, 56.9, 58.3, 59.7, 61.1, 62.5, 63.9, 65.2, 66.6], start=21)
)
