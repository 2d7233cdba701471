"""Many requests through one scheduler: each as alone, in order, no place left empty, nothing read before its time."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gpt2.errors import ContextError, GenerationError
from gpt2.generation import Request, Sampling, Scheduler, complete_each


def request(number: int, max_tokens: int = 6) -> Request:
    return Request(prompt=f"n{number}", sampling=Sampling(seed=number, max_tokens=max_tokens, ignore_eot=True))


def test_each_is_what_it_is_alone_and_in_order(toy: SimpleNamespace):
    asked = [request(number, 1 + number * 7 % 20) for number in range(40)]
    backend = toy.Backend()
    found = list(complete_each(Scheduler(backend, toy.Tokenizer(), max_slots=4), asked, ahead=9))
    assert [each.prompt for each in found] == [each.prompt for each in asked]
    for completion, each in zip(found, asked, strict=True):
        [alone] = complete_each(Scheduler(toy.Backend(), toy.Tokenizer()), [each])
        assert completion == alone
    assert backend.slots == {}


def test_every_sample_is_waited_for_and_has_its_logprobs(toy: SimpleNamespace):
    asked = replace(request(0), sampling=Sampling(seed=4, n=4, logprobs=0, max_tokens=20, stop_ids=tuple(range(20))))
    [found, after] = complete_each(Scheduler(toy.Backend(), toy.Tokenizer()), [asked, request(1)])
    lengths = [len(sample.tokens) for sample in found.samples]
    assert len(set(lengths)) > 1
    assert [len(sample.logprobs or ()) for sample in found.samples] == lengths
    assert after.samples[0].logprobs is None


def test_no_place_is_empty_while_one_text_is_long(toy: SimpleNamespace):
    asked = [request(0, 30), *(request(number, 3) for number in range(1, 28))]  # 30 tokens, and 81 in three places
    backend = toy.Backend()
    assert len(list(complete_each(Scheduler(backend, toy.Tokenizer(), max_slots=4), asked))) == 28
    assert len(backend.steps) <= 32


def test_requests_are_read_when_there_is_room(toy: SimpleNamespace):
    n_read = 0

    def source() -> Iterator[Request]:
        nonlocal n_read
        for number in range(100):
            n_read += 1
            yield request(number)

    completions = complete_each(Scheduler(toy.Backend(), toy.Tokenizer(), max_slots=2), source(), ahead=5)
    for n_given, _ in enumerate(completions, start=1):
        assert n_read < n_given + 5


def test_what_came_before_a_failure_is_given_and_nothing_after_it(toy: SimpleNamespace):
    def failing_source() -> Iterator[Request]:
        yield from (request(0), request(1))
        raise OSError("the file is gone")

    refused = replace(request(2), prompt="x" * 200)
    broken = replace(request(2), prompt="!")
    for source, error in (
        (failing_source(), OSError),
        (iter([request(0), request(1), refused, request(3)]), ContextError),
        (iter([request(0), request(1), broken, request(3)]), RuntimeError),
    ):
        backend = toy.Backend()

        def fail(work: object) -> None:
            if any(ord("!") in piece.tokens for piece in work):  # type: ignore[attr-defined]
                raise RuntimeError

        backend.before_step = fail
        completions = complete_each(Scheduler(backend, toy.Tokenizer()), source)
        assert [next(completions).prompt for _ in range(2)] == ["n0", "n1"]
        with pytest.raises(error):
            next(completions)
        assert backend.slots == {}


def test_a_caller_may_leave_in_the_middle(toy: SimpleNamespace):
    backend = toy.Backend()
    completions = complete_each(Scheduler(backend, toy.Tokenizer()), (request(number) for number in range(50)))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert backend.slots == {}
    assert list(complete_each(Scheduler(backend, toy.Tokenizer()), [])) == []
    with pytest.raises(GenerationError):
        list(complete_each(Scheduler(backend, toy.Tokenizer(), kv_bytes=3), [request(0)]))
