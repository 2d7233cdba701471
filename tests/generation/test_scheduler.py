"""The scheduler's promises, through a backend whose logits depend on every token in the slot."""

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2.backends.seam import Work
from gpt2.errors import BackendError, ContextError, GenerationError
from gpt2.generation import Event, Request, Sampling, Scheduler

PROMPTS = ["", "a", "hello", "The quick brown fox ju", "0123456789" * 3, "once upon"]
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"seed": 1},
    {"seed": 1, "top_k": 5, "logprobs": 2},
    {"seed": 7, "top_p": 0.8, "n": 3},
    {"seed": 3, "n": 1, "best_of": 3, "top_k": 20},
    {"seed": 2, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "no_repeat_ngram": 2},
    {"temperature": 0, "prompt_logprobs": 2, "n": 2, "min_tokens": 10},
]


def requests(max_tokens: int) -> list[Request]:
    return [
        Request(prompt=prompt, sampling=Sampling(max_tokens=max_tokens + 3 * i, **kind))
        for i, prompt in enumerate(PROMPTS)
        for kind in KINDS
        if max_tokens + 3 * i >= kind.get("min_tokens", 0)
    ]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Event]]:
    """Events of requests by themselves, kept from one test to the next."""
    return {}


def own(events: Sequence[Event], request: int) -> list[Event]:
    """One request's events as if it had been alone."""
    return [replace(event, request=0) for event in events if event.request == request]


def by_sample(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.prompt is None, event.sample))


def test_greedy_takes_the_likeliest(toy: SimpleNamespace):
    backend = toy.Backend()
    events = toy.continue_text(backend, toy.Tokenizer(), "ab", temperature=0, max_tokens=5)
    ids = list(b"ab")
    for token in toy.tokens_of(events):
        assert token == backend.logits(ids).argmax()
        ids.append(token)
    assert len(ids) == 7
    assert [event.finish_reason for event in events] == [None] * 4 + ["length"]
    assert backend.slots == {}


@pytest.mark.parametrize("max_slots", [1, 4, 100])
@pytest.mark.parametrize("order_seed", [0, 1])
def test_a_request_yields_the_same_alone_and_among_others(
    toy: SimpleNamespace, alone: dict[str, list[Event]], max_slots: int, order_seed: int
):
    """Past the context too: 32 positions, up to 65 tokens."""
    everyone = requests(20)
    random.Random(order_seed).shuffle(everyone)
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=max_slots, chunk_tokens=8, prefill_tokens=16)
    numbers = [scheduler.submit(request) for request in everyone]
    together = toy.run(scheduler)
    assert backend.slots == {}
    for number, request in zip(numbers, everyone, strict=True):
        if str(request) not in alone:
            scheduler = Scheduler(toy.Backend(), toy.Tokenizer())
            scheduler.submit(request)
            alone[str(request)] = by_sample(toy.run(scheduler))
        assert by_sample(own(together, number)) == alone[str(request)], request


@pytest.mark.parametrize("chunk_tokens", [1, 3, 64])
def test_a_request_yields_the_same_in_any_chunks_and_when_others_come_later(toy: SimpleNamespace, chunk_tokens: int):
    request = Request(prompt="0123456789" * 3, sampling=Sampling(seed=4, max_tokens=30))
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer())
    scheduler.submit(request)
    alone = toy.run(scheduler)
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer(), chunk_tokens=chunk_tokens, prefill_tokens=chunk_tokens)
    scheduler.submit(request)
    events: list[Event] = []
    for i in range(12):
        events += scheduler.step()
        scheduler.submit(Request(prompt=PROMPTS[i % 6], sampling=Sampling(seed=i, max_tokens=9)))
    events += toy.run(scheduler)
    assert own(events, 0) == alone


def test_seeds_and_samples_differ(toy: SimpleNamespace):
    def tokens(sample: int = 0, **settings: Any) -> list[int]:
        events = toy.continue_text(toy.Backend(), toy.Tokenizer(), "a", max_tokens=12, ignore_eot=True, **settings)
        return toy.tokens_of(events, sample=sample)

    assert tokens(seed=1) == tokens(seed=1) == tokens(seed=1, n=3)
    assert len({tuple(tokens(seed=1)), tuple(tokens(seed=2)), tuple(tokens(1, seed=1, n=2))}) == 3
    assert tokens() != tokens()  # no seed: one is chosen


def test_going_on_from_the_text_so_far_gives_the_same_text(toy: SimpleNamespace):
    """The draws are keyed by position in the whole text, so a restart repeats nothing and changes nothing."""
    backend, tokenizer = toy.Backend(), toy.Tokenizer()
    whole = toy.tokens_of(toy.continue_text(backend, tokenizer, [*b"ab"], seed=5, max_tokens=20, ignore_eot=True))
    again = toy.continue_text(backend, tokenizer, [*b"ab", *whole[:8]], seed=5, max_tokens=12, ignore_eot=True)
    assert toy.tokens_of(again) == whole[8:]


def test_samples_share_the_prompts_slot(toy: SimpleNamespace):
    backend = toy.Backend()
    toy.continue_text(backend, toy.Tokenizer(), "hello", seed=1, n=4, max_tokens=3, ignore_eot=True)
    assert [[len(work.tokens) for work in step] for step in backend.steps] == [[5], [1] * 4, [1] * 4]
    assert backend.most_slots == 4


def test_admission_keeps_to_the_slots_and_lets_those_that_fit_overtake(toy: SimpleNamespace):
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=3)
    for n in (2, 2, 1, 5, 1):
        scheduler.submit(Request(prompt="a", sampling=Sampling(temperature=0, n=n, max_tokens=2)))
    order = list(dict.fromkeys(event.request for event in toy.run(scheduler)))
    assert order == [0, 2, 1, 4, 3]
    assert backend.most_slots == 5  # one that needs more than there are runs alone


def test_decoding_goes_on_while_a_long_prompt_is_read(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=64)
    scheduler = Scheduler(backend, toy.Tokenizer(), chunk_tokens=8, prefill_tokens=8)
    scheduler.submit(Request(prompt="a", sampling=Sampling(temperature=0, max_tokens=20, ignore_eot=True)))
    scheduler.step()
    scheduler.submit(Request(prompt="x" * 60, sampling=Sampling(temperature=0, max_tokens=1)))
    scheduler.submit(Request(prompt="y" * 30, sampling=Sampling(temperature=0, max_tokens=1)))
    toy.run(scheduler)
    # the two that read take turns, and the shorter is done first
    assert [[len(work.tokens) for work in step] for step in backend.steps[1:10]] == [[1, 8]] * 7 + [[1, 6, 8], [1, 8]]


# Ends


def test_end_of_text_ends_and_is_not_text(toy: SimpleNamespace):
    backend = toy.Backend(script=[*b"abc", toy.EOT, *b"de"])
    events = toy.continue_text(backend, toy.Tokenizer(), "a", temperature=0, logprobs=0)
    assert toy.text_of(events) == "bc"
    assert events[-1].token == toy.EOT
    assert (events[-1].finish_reason, events[-1].stop_reason) == ("stop", toy.EOT)
    assert events[-1].logprob == pytest.approx(0, abs=1e-4)


def test_end_of_text_may_be_ignored(toy: SimpleNamespace):
    backend = toy.Backend(script=[*b"abc", toy.EOT, *b"de"])
    events = toy.continue_text(backend, toy.Tokenizer(), "a", temperature=0, max_tokens=5, ignore_eot=True)
    assert toy.text_of(events) == "bc<|endoftext|>de"
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize("min_tokens", [0, 2, 3, 5])
def test_minimum_length(toy: SimpleNamespace, min_tokens: int):
    backend = toy.Backend(script=[*b"abc", toy.EOT, *b"de", toy.EOT])
    settings: dict[str, Any] = {"temperature": 0, "min_tokens": min_tokens, "max_tokens": 20}
    tokens = toy.tokens_of(toy.continue_text(backend, toy.Tokenizer(), "a", **settings))
    assert toy.EOT not in tokens[:min_tokens]
    assert tokens[2] == toy.EOT or min_tokens > 2


@pytest.mark.parametrize(("min_tokens", "text"), [(0, "bc"), (3, "bc"), (4, "bcde")])
def test_a_stop_counts_from_the_token_that_completes_the_minimum(toy: SimpleNamespace, min_tokens: int, text: str):
    backend = toy.Backend(script=b"abcde")
    settings = {"min_tokens": min_tokens, "max_tokens": 4, "temperature": 0, "stop": "d"}
    assert toy.text_of(toy.continue_text(backend, toy.Tokenizer(), "a", **settings)) == text


def test_a_stop_may_be_of_bytes_that_never_become_a_character(toy: SimpleNamespace):
    for script, max_tokens in ((b"ab\xe2", 2), ([*b"ab\xe2", toy.EOT], 9)):
        events = toy.continue_text(
            toy.Backend(script=script), toy.Tokenizer(), "a", temperature=0, stop="\ufffd", max_tokens=max_tokens
        )
        assert toy.text_of(events) == "b"
        assert (events[-1].finish_reason, events[-1].stop_reason) == ("stop", "\ufffd")


def test_the_end_of_text_ends_beside_stop_ids(toy: SimpleNamespace):
    backend = toy.Backend(script=[*b"ab", toy.EOT])
    events = toy.continue_text(backend, toy.Tokenizer(), "a", temperature=0, stop_ids=[ord("d")])
    assert (toy.text_of(events), events[-1].stop_reason) == ("b", toy.EOT)


def test_stop_ids(toy: SimpleNamespace):
    backend = toy.Backend(script=b"abcde")
    events = toy.continue_text(backend, toy.Tokenizer(), "a", temperature=0, stop_ids=[ord("d")])
    assert toy.text_of(events) == "bc"
    assert (events[-1].token, events[-1].stop_reason) == (ord("d"), ord("d"))


def test_stop_strings_across_tokens(toy: SimpleNamespace):
    backend = toy.Backend(script=b"one END two")
    events = toy.continue_text(backend, toy.Tokenizer(), "o", temperature=0, stop=["END", "two"])
    assert toy.text_of(events) == "ne "
    assert bytes(toy.tokens_of(events)) == b"ne END"
    assert (events[-1].finish_reason, events[-1].stop_reason) == ("stop", "END")


def test_held_text_comes_out_at_the_end(toy: SimpleNamespace):
    backend = toy.Backend(script=b"one END")
    events = toy.continue_text(backend, toy.Tokenizer(), "o", temperature=0, stop=["END"], max_tokens=5)
    assert toy.text_of(events) == "ne EN"
    assert events[-1].finish_reason == "length"


def test_a_character_is_never_shown_in_parts(toy: SimpleNamespace):
    backend = toy.Backend(script="a€b€".encode())
    events = toy.continue_text(backend, toy.Tokenizer(), "a", temperature=0, max_tokens=6)
    assert [event.text for event in events] == ["", "", "€", "b", "", "\N{REPLACEMENT CHARACTER}"]


def test_nothing_to_generate(toy: SimpleNamespace):
    backend = toy.Backend()
    events = toy.continue_text(backend, toy.Tokenizer(), "abc", n=2, max_tokens=0)
    assert [(event.sample, event.token, event.finish_reason) for event in events] == [
        (0, None, "length"),
        (1, None, "length"),
    ]
    assert backend.steps == []


# Log-probabilities


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"seed": 1}, {"seed": 1, "top_k": 4}, {"seed": 1, "top_p": 0.5}]
)
def test_logprobs_are_the_models_own(toy: SimpleNamespace, settings: dict[str, Any]):
    backend = toy.Backend()
    events = toy.continue_text(backend, toy.Tokenizer(), "ab", max_tokens=5, logprobs=3, ignore_eot=True, **settings)
    ids = list(b"ab")
    for event in events:
        expected = log_softmax(backend.logits(ids))
        assert event.token is not None
        assert event.logprob == pytest.approx(expected[event.token], abs=1e-5)
        assert [token for token, _ in event.top] == np.argsort(-expected)[:3].tolist()
        assert [logprob for _, logprob in event.top] == pytest.approx(np.sort(expected)[:-4:-1], abs=1e-5)
        assert dict(event.top).get(event.token, event.logprob) == event.logprob  # the very same number
        ids.append(event.token)


@pytest.mark.parametrize("max_tokens", [0, 2])
@pytest.mark.parametrize("prompt", ["a", "hello, world"])
def test_prompt_logprobs(toy: SimpleNamespace, prompt: str, max_tokens: int):
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), chunk_tokens=5)
    sampling = Sampling(temperature=0, max_tokens=max_tokens, prompt_logprobs=2, ignore_eot=True)
    scheduler.submit(Request(prompt=prompt, sampling=sampling))
    first, *rest = toy.run(scheduler)
    ids = list(prompt.encode())
    assert first.prompt is not None
    assert [entry.token for entry in first.prompt] == ids
    assert first.prompt[0].logprob is None
    for i, entry in enumerate(first.prompt[1:], start=1):
        expected = log_softmax(backend.logits(ids[:i]))
        assert entry.logprob == pytest.approx(expected[ids[i]], abs=1e-5)
        assert [token for token, _ in entry.top] == np.argsort(-expected)[:2].tolist()
    assert len(toy.tokens_of(rest)) == max_tokens
    assert rest[-1].finish_reason == "length"
    for step in backend.steps:
        for work in step:  # no logits but those of the last row ever leave the backend
            assert not (work.want.logits and work.want.rows > 1)


def test_best_of_returns_the_likeliest_per_token(toy: SimpleNamespace):
    def mean(events: Sequence[Event], sample: int) -> float:
        logprobs = [event.logprob for event in events if event.sample == sample]
        return sum(logprobs) / len(logprobs)

    backend, tokenizer = toy.Backend(), toy.Tokenizer()
    everyone = toy.continue_text(backend, tokenizer, "a", seed=12, n=6, logprobs=0, max_tokens=8, stop_ids=range(90))
    best = toy.continue_text(backend, tokenizer, "a", seed=12, n=2, best_of=6, max_tokens=8, stop_ids=range(90))
    ranked = sorted(range(6), key=lambda sample: -mean(everyone, sample))
    summed = [sum(event.logprob for event in everyone if event.sample == sample) for sample in range(6)]
    assert ranked[:2] != sorted(range(6), key=lambda sample: -summed[sample])[:2]  # so that per token means something
    for rank in (0, 1):
        assert toy.tokens_of(best, sample=rank) == toy.tokens_of(everyone, sample=ranked[rank])
    assert {event.sample for event in best} == {0, 1}
    assert best[-1].usage.generated_tokens == everyone[-1].usage.generated_tokens  # those dropped count


def test_the_row_of_a_prompt_gives_each_sample_its_own_first_token(toy: SimpleNamespace):
    for n in (1, 2):
        backend = toy.Backend()
        toy.continue_text(backend, toy.Tokenizer(), "a", seed=1, n=n, max_tokens=1)
        [[work]] = backend.steps
        assert (work.want.draw is None) == (n > 1)


def test_best_of_with_greedy_is_one_sample(toy: SimpleNamespace):
    backend = toy.Backend()
    toy.continue_text(backend, toy.Tokenizer(), "a", temperature=0, best_of=5, max_tokens=3)
    assert backend.most_slots == 1


# The context


@pytest.mark.parametrize(("n_positions", "n_prompt"), [(1, 1), (2, 1), (2, 2), (3, 2), (8, 5), (8, 8), (32, 8)])
def test_sliding_is_the_stated_policy(toy: SimpleNamespace, n_positions: int, n_prompt: int):
    backend = toy.Backend(n_positions=n_positions)
    settings = {"temperature": 0, "max_tokens": 70, "ignore_eot": True}
    tokens = toy.tokens_of(toy.continue_text(backend, toy.Tokenizer(), "x" * n_prompt, **settings))
    ids, start = [ord("x")] * n_prompt, 0
    for token in tokens:
        if len(ids) - start > n_positions:
            start = len(ids) - max(1, n_positions // 2)
        assert token == backend.logits(ids[start:]).argmax()
        ids.append(token)
    assert len(tokens) == 70


@pytest.mark.parametrize("n_positions", [1, 2, 8])
def test_refusing_ends_at_the_context(toy: SimpleNamespace, n_positions: int):
    for n_prompt in range(1, n_positions + 1):
        backend = toy.Backend(n_positions=n_positions)
        settings = {"temperature": 0, "ignore_eot": True, "overflow": "refuse"}
        events = toy.continue_text(backend, toy.Tokenizer(), "x" * n_prompt, **settings)
        assert len(toy.tokens_of(events)) == n_positions - n_prompt
        assert events[-1].finish_reason == "length"
        assert backend.slots == {}


def test_a_prompt_beyond_the_context_is_refused_with_the_ways_on(toy: SimpleNamespace):
    scheduler = Scheduler(toy.Backend(n_positions=8), toy.Tokenizer())
    with pytest.raises(ContextError, match=r"it has 1,009 tokens, and the model's context is 8\. Shorten it.*score"):
        scheduler.submit(Request(prompt="x" * 1009))
    assert not scheduler.busy


def test_a_prompt_beyond_the_context_may_be_truncated(toy: SimpleNamespace):
    backend = toy.Backend(n_positions=8)
    long = toy.continue_text(backend, toy.Tokenizer(), "0123456789", seed=1, max_tokens=20, truncate_prompt=True)
    assert long == toy.continue_text(backend, toy.Tokenizer(), "23456789", seed=1, max_tokens=20)


# Prompts


def test_an_empty_prompt_starts_from_end_of_text(toy: SimpleNamespace):
    backend = toy.Backend()
    empty = toy.continue_text(backend, toy.Tokenizer(), "", temperature=0, max_tokens=4)
    assert empty == toy.continue_text(backend, toy.Tokenizer(), [toy.EOT], temperature=0, max_tokens=4)


def test_an_empty_prompt_without_end_of_text(toy: SimpleNamespace):
    with pytest.raises(GenerationError, match="no end-of-text token to start from"):
        toy.continue_text(toy.Backend(), toy.Tokenizer(eot=None), "")


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt=[257]),
        Request(prompt=[-1]),
        Request(prompt=[True]),
        Request(prompt="a", sampling=Sampling(stop_ids=(257,))),
        Request(prompt="a", sampling=Sampling(logit_bias={257: 1})),
    ],
)
def test_ids_outside_the_vocabulary(toy: SimpleNamespace, request_: Request):
    with pytest.raises(GenerationError, match=r"not in the vocabulary: ids are whole numbers from 0 to 256"):
        Scheduler(toy.Backend(), toy.Tokenizer()).submit(request_)


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_more_likely_tokens_than_there_are(toy: SimpleNamespace, name: str):
    scheduler = Scheduler(toy.Backend(), toy.Tokenizer())
    scheduler.submit(Request(prompt="a", sampling=Sampling(**{name: 257})))
    with pytest.raises(GenerationError, match=f"^{name} must be at most 257, .* got 258"):
        scheduler.submit(Request(prompt="a", sampling=Sampling(**{name: 258})))


def test_ids_that_pad_the_model_are_never_drawn(toy: SimpleNamespace):
    for settings in ({"temperature": 0}, {"seed": 1}, {"seed": 1, "top_k": 300}):
        backend = toy.Backend(vocab_size=4096)
        settings |= {"max_tokens": 40, "ignore_eot": True, "logprobs": 0}
        events = toy.continue_text(backend, toy.Tokenizer(), "a", **settings)
        assert max(toy.tokens_of(events)) < 257
        whole = log_softmax(
            backend.logits([ord("a")])
        )  # the padding has its share of the probability, as in a prompt's
        assert events[0].logprob == pytest.approx(whole[events[0].token], abs=1e-5)


# Faults


def test_cancelling_gives_slots_back_at_once_and_leaves_others_alone(toy: SimpleNamespace):
    request = Request(prompt="hello", sampling=Sampling(seed=1, max_tokens=20, ignore_eot=True))
    others = Request(prompt="0123456789" * 3, sampling=Sampling(seed=2, n=3, max_tokens=20))
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=4, chunk_tokens=8)
    mine, reading, sampling = scheduler.submit(request), scheduler.submit(others), None
    waiting = scheduler.submit(others)
    events = scheduler.step()
    assert scheduler.cancel(reading)
    assert len(backend.slots) == 1
    assert scheduler.cancel(waiting)
    sampling = scheduler.submit(others)
    for _ in range(6):
        events += scheduler.step()
    assert len(backend.slots) == 4
    assert scheduler.cancel(sampling)
    assert len(backend.slots) == 1
    assert not scheduler.cancel(sampling)
    events += toy.run(scheduler)
    assert not scheduler.cancel(mine)
    assert own(events, mine) == toy.continue_text(
        toy.Backend(), toy.Tokenizer(), "hello", seed=1, max_tokens=20, ignore_eot=True
    )
    assert backend.slots == {}


def test_closing_cancels_everything(toy: SimpleNamespace):
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=2)
    for _ in range(4):
        scheduler.submit(Request(prompt="a"))
    scheduler.step()
    scheduler.close()
    assert backend.slots == {}
    assert not scheduler.busy
    assert scheduler.step() == []


@pytest.mark.parametrize("half_done", [False, True])
def test_a_failing_request_ends_alone(toy: SimpleNamespace, half_done: bool):
    backend = toy.Backend()
    poison = ord("!")

    def fail(work: Sequence[Work]) -> None:
        if any(poison in piece.tokens for piece in work):
            if half_done:  # some slots had their tokens appended before the step failed
                backend.slots[work[0].slot] += work[0].tokens
            raise BackendError("broken")

    backend.before_step = fail
    scheduler = Scheduler(backend, toy.Tokenizer())
    sampling = Sampling(seed=1, max_tokens=5, n=2, ignore_eot=True, logit_bias={poison: -100})
    first = scheduler.submit(Request(prompt="good", sampling=sampling))
    bad = scheduler.submit(Request(prompt="bad!", sampling=sampling))
    last = scheduler.submit(Request(prompt="also good", sampling=sampling))
    events = toy.run(scheduler)
    (failure,) = own(events, bad)
    assert failure.finish_reason == "error"
    assert isinstance(failure.error, BackendError)
    for number, prompt in ((first, "good"), (last, "also good")):
        settings: dict[str, Any] = {"seed": 1, "max_tokens": 5, "n": 2, "ignore_eot": True}
        alone = toy.continue_text(toy.Backend(), toy.Tokenizer(), prompt, logit_bias={poison: -100}, **settings)
        assert own(events, number) == alone
    assert backend.slots == {}


@pytest.mark.parametrize("call", ["new", "fork"])
def test_no_memory_for_a_slot_ends_that_request_alone(toy: SimpleNamespace, call: str, monkeypatch: pytest.MonkeyPatch):
    backend = toy.Backend()
    scheduler = Scheduler(backend, toy.Tokenizer())
    original = getattr(backend, call)
    left = 1

    def scarce(*slot: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return original(*slot)

    monkeypatch.setattr(backend, call, scarce)
    for n in (1, 3) if call == "fork" else (1, 1):
        scheduler.submit(Request(prompt="a", sampling=Sampling(seed=1, n=n, max_tokens=3, ignore_eot=True)))
    events = toy.run(scheduler)
    assert isinstance(events[-1].error, MemoryError) or isinstance(own(events, 1)[-1].error, MemoryError)
    assert len(toy.tokens_of(events, 0)) == 3
    assert backend.slots == {}


def test_when_every_token_is_banned_the_request_ends_with_a_reason(toy: SimpleNamespace):
    backend = toy.Backend(vocab_size=3)
    for settings in ({"temperature": 0}, {"seed": 1}, {"seed": 1, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.1}):
        events = toy.continue_text(backend, toy.Tokenizer(), [0], no_repeat_ngram=1, **settings)
        assert len(toy.tokens_of(events)) == 2
        assert isinstance(events[-1].error, GenerationError)
        assert "no token is left" in str(events[-1].error)
        assert backend.slots == {}


def test_ctrl_c_passes_through_and_close_gives_slots_back(toy: SimpleNamespace):
    backend = toy.Backend()

    def interrupt(work: Sequence[Work]) -> None:
        raise KeyboardInterrupt

    backend.before_step = interrupt
    scheduler = Scheduler(backend, toy.Tokenizer())
    scheduler.submit(Request(prompt="a"))
    with pytest.raises(KeyboardInterrupt):
        scheduler.step()
    scheduler.close()
    assert backend.slots == {}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_slots_come_back_and_neighbours_do_not_notice(
    toy: SimpleNamespace, alone: dict[str, list[Event]], seed: int
):
    """Random arrivals, cancellations and failures of the backend."""
    rng = random.Random(seed)
    backend = toy.Backend()
    poison = 250

    def fail(work: Sequence[Work]) -> None:
        for piece in work:
            if poison in piece.tokens:
                raise BackendError("broken")
            if rng.random() < 0.1 and len(work) > 1:  # half-way, and not again when each is computed alone
                backend.slots[piece.slot] += piece.tokens
                raise MemoryError

    backend.before_step = fail
    scheduler = Scheduler(backend, toy.Tokenizer(), max_slots=5, chunk_tokens=8, prefill_tokens=16)
    asked: dict[int, Request] = {}
    cancelled: set[int] = set()
    events: list[Event] = []
    everyone = [request for request in requests(8) if request.prompt]
    for _ in range(60):
        if rng.random() < 0.4:
            request = rng.choice(everyone)
            if rng.random() < 0.2:
                request = replace(request, prompt=[*request.prompt.encode(), poison])
            asked[scheduler.submit(request)] = request
        if asked and rng.random() < 0.1:
            number = rng.choice(list(asked))
            if scheduler.cancel(number):
                cancelled.add(number)
        events += scheduler.step()
    events += toy.run(scheduler)
    assert backend.slots == {}
    for number, request in asked.items():
        mine = own(events, number)
        if number in cancelled:
            continue
        if isinstance(request.prompt, list):
            assert isinstance(mine[-1].error, BackendError)
        elif not any(event.token == poison for event in mine):
            if str(request) not in alone:
                single = Scheduler(toy.Backend(), toy.Tokenizer())
                single.submit(request)
                alone[str(request)] = by_sample(toy.run(single))
            unseen = request.sampling.best_of is not None and isinstance(mine[-1].error, BackendError)
            assert unseen or by_sample(mine) == alone[str(request)], request
