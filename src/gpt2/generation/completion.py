"""Whole answers instead of events: what a caller gets who does not stream."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpt2.generation.requests import Event, FinishReason, Request, TokenLogprob
from gpt2.generation.scheduler import Scheduler


@dataclass(kw_only=True, slots=True)
class Completion:
    """One continuation, whole.

    Attributes:
        text: without the prompt, and without the stop that ended it.
        ids: every token generated, the one that ended it included.
        logprobs: of those, where asked for.
        top: the most likely tokens at each, where asked for.
        finish_reason: "stop" or "length".
        stop_reason: the stop string or token id that ended it.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list[tuple[tuple[int, float], ...]])
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def add(self, event: Event) -> None:
        """Take in the next event of this sample."""
        self.text += event.text
        if event.token is not None:
            self.ids.append(event.token)
            self.top.append(event.top)
        if event.logprob is not None:
            self.logprobs.append(event.logprob)
        if event.finish_reason is not None:
            self.finish_reason, self.stop_reason = event.finish_reason, event.stop_reason


@dataclass(kw_only=True, slots=True)
class Answer:
    """The n continuations of one request, and the log-probabilities of its prompt where asked for."""

    completions: list[Completion]
    prompt: tuple[TokenLogprob, ...] | None = None


def complete(scheduler: Scheduler, requests: Iterable[Request]) -> list[Answer]:
    """Run requests to their end, together, and return an answer for each in order.

    Raises:
        Gpt2Error: a request cannot be had or failed; the others are cancelled.
    """
    answers: dict[int, Answer] = {}
    try:
        for request in requests:
            n = request.sampling.n
            answers[scheduler.submit(request)] = Answer(completions=[Completion() for _ in range(n)])
        while scheduler.busy:
            for event in scheduler.step():
                answer = answers.get(event.request)
                if answer is None:
                    continue  # someone else's: they share the scheduler at their own risk
                if event.error is not None:
                    raise event.error
                if event.prompt is not None:
                    answer.prompt = event.prompt
                else:
                    answer.completions[event.sample].add(event)
    except BaseException:
        for number in answers:
            scheduler.cancel(number)
        raise
    return list(answers.values())
