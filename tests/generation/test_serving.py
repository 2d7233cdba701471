"""What a server needs of the scheduler: memory, shared beginnings, fairness, deadlines, priorities, statistics."""

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2.backends.seam import Work
from gpt2.errors import BackendError, DeadlineError, GenerationError
from gpt2.generation import Event, Request, Sampling, Scheduler

SHARED = "the same beginning of every prompt, "


def greedy(prompt: str, max_tokens: int = 4, *, n: int = 1, **rest: Any) -> Request:
    return Request(prompt=prompt, sampling=Sampling(temperature=0, max_tokens=max_tokens, n=n, ignore_eot=True), **rest)


def sampled(prompt: str, seed: int, max_tokens: int = 6, **rest: Any) -> Request:
    return Request(prompt=prompt, sampling=Sampling(seed=seed, max_tokens=max_tokens, **rest))


def alone(toy: SimpleNamespace, request: Request, n_positions: int = 64) -> list[Event]:
    scheduler = Scheduler(toy.Backend(n_positions=n_positions), toy.Tokenizer())
    scheduler.submit(request)
    return toy.run(scheduler)


def own(events: Sequence[Event], request: int) -> list[Event]:
    return [replace(event, request=0) for event in events if event.request == request]


def tokens_computed(backend: Any) -> int:
    return sum(len(work.tokens) for step in backend.steps for work in step)


# Memory


def test_a_request_begins_when_all_it_may_need_fits(toy: SimpleNamespace):
    backend = toy.Backend()  # a byte a token
    scheduler = Scheduler(backend, toy.Tokenizer(), kv_bytes=20)
    for prompt, n in (("aaaa", 1), ("bbbb", 1), ("cccc", 2), ("d", 1)):  # of 8, 8, 16 and 5 bytes
        scheduler.submit(greedy(prompt, n=n))
    most = 0
    began: list[int] = []
    while scheduler.busy:
        began += [event.request for event in scheduler.step()]
        most = max(most, backend.bytes())
        assert scheduler.statistics().reserved_bytes <= 20
    assert list(dict.fromkeys(began)) == [0, 1, 2, 3]
    assert len(backend.steps) == 12  # the first two together, then each by itself
    assert most <= 20


def test_what_can_never_fit_is_refused_with_the_limit(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer(), kv_bytes=20)
    with pytest.raises(GenerationError, match=r"2 sequence\(s\) of up to 11 tokens may take 22 bytes.* 20 are allowed"):
        scheduler.submit(greedy("a", 10, n=2))
    with pytest.raises(GenerationError, match=r"2 sequence\(s\) of up to 11 tokens"):
        scheduler.submit(sampled("a", 1, 10, best_of=2))
    assert not scheduler.busy
    assert scheduler.statistics().counts.submitted == 0


@pytest.mark.parametrize(("device", "slot_bytes", "most"), [("cpu", 1, 16), ("cuda:0", 1, 32), ("cuda:0", 1 << 32, 16)])
def test_how_many_are_computed_at_once_where_nobody_says(toy: SimpleNamespace, device: str, slot_bytes: int, most: int):
    backend = toy.Backend()
    backend.device, backend.slot_bytes = device, lambda tokens: slot_bytes
    scheduler = Scheduler(backend, toy.Tokenizer())
    for _ in range(40):
        scheduler.submit(greedy("a"))
    scheduler.step()
    assert scheduler.statistics().running == most


def test_the_prefix_cache_makes_room(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), kv_bytes=60, prefix_bytes=60)
    for prompt in (SHARED, "x" * 40):
        scheduler.submit(greedy(prompt))
        toy.run(scheduler)
    assert scheduler.statistics().prefix_entries == 1
    assert backend.bytes() <= 60


@pytest.mark.parametrize("seed", range(4))
def test_admission_cannot_come_to_a_stop(toy: SimpleNamespace, seed: int):
    """A request reserves the most that it can come to need. So what runs can always finish and nothing has to be taken
    back from it, and whoever waits begins at the latest when nothing runs: no step is without work while some wait."""
    rng = random.Random(seed)
    backend, limit = toy.Backend(n_positions=64), rng.choice([70, 100, 200])
    scheduler = Scheduler(
        backend,
        toy.Tokenizer(),
        max_slots=rng.choice([1, 3, 8]),
        chunk_tokens=8,
        kv_bytes=limit,
        prefix_bytes=rng.choice([0, limit // 2, limit]),
    )
    n_asked = 0
    for _ in range(150):
        if rng.random() < 0.6:
            prompt = rng.choice([SHARED, "abc", "x" * 20]) + "y" * rng.randrange(8)
            n, max_tokens = rng.choice([1, 1, 1, 2, 4]), rng.randrange(30)
            try:
                request = sampled(prompt, rng.randrange(9), max_tokens, n=n)
                scheduler.submit(replace(request, priority=rng.choice([0, 0, 3])))
                n_asked += 1
            except GenerationError:
                assert n * min(64, len(prompt) + max_tokens) > limit  # it could never begin
        waits, before = scheduler.busy, len(backend.steps) + scheduler.statistics().counts.finished
        scheduler.step()
        assert not waits or len(backend.steps) + scheduler.statistics().counts.finished > before
        assert backend.bytes() <= limit
    toy.run(scheduler)
    assert scheduler.statistics().counts.finished == n_asked > 50


# Shared beginnings


def test_a_beginning_is_computed_once(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000)
    requests = [sampled(SHARED + ending, seed) for seed, ending in enumerate(["", "one", "two", "one more", "one"])]
    for request in requests:
        number = scheduler.submit(request)
        events = toy.run(scheduler)
        assert own(events, number) == alone(toy, request)
    assert events[-1].usage.cached_tokens == len(SHARED) + 2
    counts = scheduler.statistics().counts
    assert (counts.submitted, counts.prefix_hits) == (5, 4)
    prompts = sum(len(request.prompt) for request in requests)
    assert counts.prefix_tokens + counts.prompt_tokens == prompts
    assert counts.prompt_tokens < prompts / 2
    scheduler.close()
    assert backend.slots == {}


def test_those_that_come_together_share_as_well(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=256)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000, chunk_tokens=16)
    requests = [sampled(SHARED * 4 + ending, seed) for seed, ending in enumerate(["", "one", "two"])]
    for request in requests:
        scheduler.submit(request)
    events = toy.run(scheduler)
    for number, request in enumerate(requests):
        assert own(events, number) == alone(toy, request, 256)
    assert scheduler.statistics().counts.prompt_tokens <= len(SHARED) * 4 + 8


def test_of_those_that_read_the_one_with_most_in_common_is_waited_for(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=256)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000, chunk_tokens=16)
    requests = [sampled(prompt, seed) for seed, prompt in enumerate(["z" * 200, SHARED * 4, SHARED * 4 + "x"])]
    for request in requests:
        scheduler.submit(request)
    scheduler.step()
    assert scheduler.statistics().waiting == 1
    events = toy.run(scheduler)
    assert own(events, 2) == alone(toy, requests[2], 256)
    assert scheduler.statistics().counts.prefix_hits == 1


def test_texts_that_just_fit_are_kept(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    for limit, kept in (
        (86, 86),
        (85, 43),
        (43, 43),
        (42, 0),
    ):  # 40 read and 4 written, the last of which is never read
        scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=limit)
        for letter in "ab":
            scheduler.submit(greedy(letter * 40))
            toy.run(scheduler)
        assert scheduler.statistics().prefix_bytes == kept
        scheduler.close()


def test_one_that_waits_for_another_goes_on_when_that_one_fails(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=256)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000, chunk_tokens=16)
    first, second = scheduler.submit(sampled(SHARED * 4, 1)), scheduler.submit(sampled(SHARED * 4 + "x", 2))
    scheduler.step()
    assert scheduler.statistics().waiting == 1
    scheduler.cancel(first)
    assert own(toy.run(scheduler), second) == alone(toy, sampled(SHARED * 4 + "x", 2), 256)


def test_namespaces_share_nothing(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000)
    for namespace, is_known in (("a", False), ("b", False), ("a", True)):
        scheduler.submit(greedy(SHARED, namespace=namespace))
        events = toy.run(scheduler)
        assert (events[-1].usage.cached_tokens > 0) == is_known
    assert scheduler.statistics().prefix_entries == 2  # the same text, one for each


def test_namespaces_share_nothing_while_they_run(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(n_positions=64), toy.Tokenizer(), prefix_bytes=1000)
    first = scheduler.submit(greedy(SHARED, namespace="a"))
    scheduler.step()
    assert list(scheduler.running) == [first]
    other, same = (scheduler.submit(greedy(SHARED, namespace=namespace)) for namespace in "ba")
    cached = {event.request: event.usage.cached_tokens for event in toy.run(scheduler) if event.usage}
    assert cached[first] == cached[other] == 0 < cached[same]


def test_the_least_recently_used_goes_first_and_the_bound_holds(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=100)  # two texts of 43 tokens
    texts = [letter * 40 for letter in "abc"]
    for prompt in (texts[0], texts[1], texts[0], texts[2]):
        scheduler.submit(greedy(prompt))
        toy.run(scheduler)
        assert scheduler.statistics().prefix_bytes <= 100
        assert backend.bytes() <= 100
    hits = []
    for prompt in (texts[0], texts[2], texts[1]):
        scheduler.submit(greedy(prompt))
        hits.append(toy.run(scheduler)[-1].usage.cached_tokens > 0)
    assert hits == [True, True, False]


def test_of_several_texts_of_a_request_one_is_kept(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000)
    scheduler.submit(sampled(SHARED, 1, n=3, ignore_eot=True))
    toy.run(scheduler)
    assert len(backend.slots) == scheduler.statistics().prefix_entries == 1


def test_a_text_takes_the_place_of_its_own_beginning(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=256)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000)
    ids = list(SHARED.encode())
    for turn in range(4):
        scheduler.submit(replace(greedy("", 8), prompt=ids))
        events = toy.run(scheduler)
        assert (events[-1].usage.cached_tokens > 0) == (turn > 0)
        assert len(backend.slots) == scheduler.statistics().prefix_entries == 1
        ids = [*ids, *toy.tokens_of(events, request=turn), *b"and so on"]


def test_a_fork_that_cannot_be_cut_is_given_back(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    def fail(slot: int, length: int) -> None:
        raise BackendError("no memory")

    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000)
    scheduler.submit(greedy(SHARED))
    toy.run(scheduler)
    with monkeypatch.context() as patched:
        patched.setattr(backend, "truncate", fail)
        scheduler.submit(greedy(SHARED + "x"))
        assert [event.finish_reason for event in toy.run(scheduler)] == ["error"]
    assert len(backend.slots) == scheduler.statistics().prefix_entries == 1


def test_prompts_that_are_scored_are_computed(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(n_positions=64), toy.Tokenizer(), prefix_bytes=1000)
    request = sampled(SHARED, 1, prompt_logprobs=1)
    for _ in range(2):
        number = scheduler.submit(request)
        assert own(toy.run(scheduler), number) == alone(toy, request)


def test_texts_that_slid_are_not_kept(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=32)
    scheduler = Scheduler(backend, toy.Tokenizer(), prefix_bytes=1000)
    request = greedy("a" * 30, 20)
    for _ in range(2):
        number = scheduler.submit(request)
        assert own(toy.run(scheduler), number) == alone(toy, request, 32)
    assert backend.slots == {}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_shared_cancelled_or_broken_nobody_notices(toy: SimpleNamespace, seed: int):
    rng = random.Random(seed)
    backend = toy.Backend(n_positions=64)

    def fail(work: Sequence[Work]) -> None:
        if rng.random() < 0.05 and len(work) > 1:
            backend.slots[work[0].slot] += work[0].tokens
            raise MemoryError

    backend.before_step = fail
    scheduler = Scheduler(
        backend, toy.Tokenizer(), max_slots=5, chunk_tokens=8, prefill_tokens=16, kv_bytes=300, prefix_bytes=150
    )
    asked: dict[int, Request] = {}
    cancelled: set[int] = set()
    events: list[Event] = []
    for _ in range(80):
        if rng.random() < 0.5:
            ending = "".join(rng.choices("ab", k=rng.randrange(12)))
            request = sampled(SHARED[: rng.choice([0, 20, 36])] + ending, rng.randrange(3), n=rng.choice([1, 1, 2]))
            request = replace(request, namespace=rng.choice("xy"), priority=rng.choice([0, 0, 1]))
            asked[scheduler.submit(request)] = request
        if asked and rng.random() < 0.15 and scheduler.cancel(number := rng.choice(list(asked))):
            cancelled.add(number)
        events += scheduler.step()
        assert backend.bytes() <= 300
    events += toy.run(scheduler)
    for number, request in asked.items():
        if number not in cancelled:
            expected = alone(toy, replace(request, priority=0))
            assert sorted(own(events, number), key=lambda e: e.sample) == sorted(expected, key=lambda e: e.sample)
    statistics = scheduler.statistics()
    assert statistics.counts.prefix_hits > 0
    assert statistics.counts.finished + statistics.counts.cancelled == statistics.counts.submitted == len(asked)
    assert statistics.prefix_entries == len(backend.slots)
    scheduler.close()
    assert backend.slots == {}


# Fairness, priorities, deadlines


def test_a_short_prompt_does_not_wait_behind_long_ones(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(n_positions=200), toy.Tokenizer(), chunk_tokens=8, prefill_tokens=16)
    for letter in "abcd":
        scheduler.submit(greedy(letter * 190, 1))
    for _ in range(10):
        scheduler.step()
    short = scheduler.submit(greedy("short", 1))
    n_steps = 0
    while not any(event.request == short for event in scheduler.step()):
        n_steps += 1
    assert n_steps <= 3  # of the 38 more that the long ones take


def test_a_long_prompt_is_not_stopped_by_a_stream_of_short_ones(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(n_positions=200), toy.Tokenizer(), chunk_tokens=8, prefill_tokens=8)
    long = scheduler.submit(greedy("a" * 80, 1))
    n_steps = 0
    while not any(event.request == long for event in scheduler.step()):
        for _ in range(2):
            scheduler.submit(greedy("shorter", 1))  # more than can be read
        n_steps += 1
        assert n_steps < 300


def test_many_small_requests_do_not_starve_a_large_one(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer(), max_slots=4)
    for i in range(4):
        scheduler.submit(greedy("a", 3 + i))
    large = scheduler.submit(greedy("b", n=4))
    n_steps = 0
    while not any(event.request == large for event in scheduler.step()):
        scheduler.submit(greedy("c", 6))
        n_steps += 1
        assert n_steps < 60


def test_higher_priorities_begin_first(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer(), max_slots=1)
    for priority in (0, 1, 5, 1, 5):
        scheduler.submit(greedy("a", 1, priority=priority))
    assert [event.request for event in toy.run(scheduler)] == [2, 4, 1, 3, 0]


def test_deadlines_are_the_callers_clock(toy: SimpleNamespace):
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=1)
    running = scheduler.submit(greedy("a", 20, start_by=1, finish_by=10))
    waiting = scheduler.submit(greedy("a", 20, start_by=5))
    assert [event.request for event in scheduler.step(0.5)] == [running]
    assert [event.request for event in scheduler.step(5)] == [running]
    late, token = scheduler.step(5.5)
    assert (late.request, late.finish_reason) == (waiting, "error")
    assert isinstance(late.error, DeadlineError)
    assert "was not begun in time: 0.5 after its time" in str(late.error)
    assert token.request == running
    scheduler.step()  # no clock, no deadlines
    assert [event.request for event in scheduler.step(10)] == [running]
    (late,) = scheduler.step(11)
    assert (late.request, late.usage.generated_tokens) == (running, 5)
    assert "was not finished in time" in str(late.error)
    assert backend.slots == {}
    assert not scheduler.busy


def test_one_that_ends_late_takes_no_time_from_another(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer())
    later, sooner = (scheduler.submit(greedy("a", 20, finish_by=time)) for time in (10, 3))
    for now, expected in ((1, [later, sooner]), (4, [sooner, later]), (10, [later]), (11, [later])):
        events = scheduler.step(now)
        assert [event.request for event in events] == expected
    assert isinstance(events[-1].error, DeadlineError)


def test_who_is_let_wait_has_no_time_to_begin_in(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer(), max_slots=1)
    running, let, late = (scheduler.submit(greedy("a", 2, start_by=1)) for _ in range(3))
    scheduler.step(0)
    scheduler.let_wait(let)
    scheduler.let_wait(running)  # which does not wait
    assert [event.request for event in scheduler.step(2)] == [late, running]
    assert [event.request for event in toy.run(scheduler)] == [let, let]


# What is reported


def test_usage_and_statistics(toy: SimpleNamespace):
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), chunk_tokens=2)
    scheduler.submit(greedy("abcd", 3, n=2))
    scheduler.submit(greedy("ab", 0))
    bad = scheduler.submit(greedy("!", 3))

    def fail(work: Sequence[Work]) -> None:
        if any(ord("!") in piece.tokens for piece in work):
            raise BackendError("broken")

    backend.before_step = fail
    assert scheduler.statistics().waiting == 3
    events = scheduler.step()
    now = scheduler.statistics()
    assert (now.running, now.waiting, now.sequences, now.kv_bytes) == (1, 0, 1, 2)
    events += toy.run(scheduler)
    usages = {event.request: event.usage for event in events if event.usage}
    assert sorted(usages) == [0, 1, bad]
    assert (usages[0].prompt_tokens, usages[0].generated_tokens) == (4, 6)
    assert (usages[1].prompt_tokens, usages[1].generated_tokens) == (2, 0)
    counts = scheduler.statistics().counts
    assert (counts.submitted, counts.finished, counts.failed, counts.cancelled) == (3, 2, 1, 0)
    assert (counts.prompt_tokens, counts.generated_tokens) == (4, 6)


@pytest.mark.parametrize("sampling", [{}, {"best_of": 3}, {"max_tokens": 0}, {"max_tokens": 0, "prompt_logprobs": 0}])
def test_the_last_event_of_a_request_carries_its_usage(toy: SimpleNamespace, sampling: dict[str, Any]):
    events = toy.continue_text(
        toy.Backend(), toy.Tokenizer(), "abc", **{"seed": 1, "n": 2, "max_tokens": 5, **sampling}
    )
    assert [event.usage is not None for event in events] == [False] * (len(events) - 1) + [True]


# Constraints


class Letters:
    """Allows the letters given in turn, then the end; every follower counts for itself."""

    def __init__(self, *turns: str, eot: int = 256) -> None:
        self.turns, self.eot, self.followers = turns, eot, []

    def begin(self) -> "LettersFollower":
        self.followers.append(LettersFollower(self))
        return self.followers[-1]


class LettersFollower:
    def __init__(self, letters: Letters) -> None:
        self.letters, self.came = letters, []

    def allowed(self) -> Any:
        mask = np.zeros(257, bool)
        turn = len(self.came)
        mask[list(self.letters.turns[turn].encode()) if turn < len(self.letters.turns) else self.letters.eot] = True
        return mask

    def advance(self, token: int) -> None:
        assert self.allowed()[token]
        self.came.append(token)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"seed": 1},
        {"seed": 1, "top_k": 3},
        {"seed": 2, "n": 3, "top_p": 0.9},
        {"seed": 1, "best_of": 4},
    ],
)
def test_a_constraint_holds_for_every_sample(toy: SimpleNamespace, settings: dict[str, Any]):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer())
    letters = Letters("ab", "cd", "e", "fghij")
    scheduler.submit(Request(prompt="x", sampling=Sampling(max_tokens=9, **settings), constraint=letters))
    events = toy.run(scheduler)
    for sample in range(settings.get("n", 1)):
        a, c, e, f = toy.text_of(events, sample=sample)
        assert a in "ab" and c in "cd" and e == "e" and f in "fghij"
    assert all(event.finish_reason == "stop" for event in events if event.finish_reason)
    assert len(letters.followers) == settings.get("best_of", settings.get("n", 1))


def test_among_allowed_tokens_the_draw_is_the_usual_one(toy: SimpleNamespace):
    backend = toy.Backend()
    everything = Letters(*[bytes(range(128)).decode()] * 5)
    free = toy.continue_text(
        backend, toy.Tokenizer(), "x", seed=1, max_tokens=5, logit_bias=dict.fromkeys(range(128, 257), -100)
    )
    scheduler = Scheduler(backend, toy.Tokenizer())
    scheduler.submit(Request(prompt="x", sampling=Sampling(seed=1, max_tokens=5), constraint=everything))
    assert toy.tokens_of(toy.run(scheduler)) == toy.tokens_of(free)


def test_what_a_constraint_cannot_continue_ends_with_an_error(toy: SimpleNamespace):
    class Broken(LettersFollower):
        def advance(self, token: int) -> None:
            raise RuntimeError("no grammar")

    class Raises(Letters):
        def begin(self) -> LettersFollower:
            return Broken(self)

    class LaterBroken(LettersFollower):
        def advance(self, token: int) -> None:
            if self.came:
                raise RuntimeError("no more grammar")
            super().advance(token)

    class FirstRaises(Letters):
        def begin(self) -> LettersFollower:
            super().begin()
            return self.followers[-1] if len(self.followers) > 1 else LaterBroken(self)

    backend = toy.Backend()
    for constraint, error in (
        (Letters("a", ""), GenerationError),
        (Raises("a"), RuntimeError),
        (FirstRaises("a", "b", "c"), RuntimeError),
    ):
        scheduler = Scheduler(backend, toy.Tokenizer())
        bad = scheduler.submit(Request(prompt="x", sampling=Sampling(n=2), constraint=constraint))
        good = scheduler.submit(sampled("y", 1))
        events = toy.run(scheduler)
        assert isinstance(own(events, bad)[-1].error, error)
        assert own(events, good) == alone(toy, sampled("y", 1))
        assert backend.slots == {}
