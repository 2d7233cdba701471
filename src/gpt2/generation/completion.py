"""The result of a request: its events, gathered into texts."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt2.errors import GenerationError
from gpt2.generation.prompts import is_number, said_of
from gpt2.generation.requests import Event, FinishReason, Request, TokenLogprob, Usage
from gpt2.generation.settings import Sampling

if TYPE_CHECKING:  # reading completions needs no NumPy
    from gpt2.generation.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One continuation of a prompt.

    Attributes:
        text: without the prompt, up to the stop.
        tokens: the generated ids, including the end-of-text or stop id.
        finish_reason: "stop" at end-of-text or a stop; "length" at `max_tokens`, or at the context's end if refused.
        stop_reason: the stop string or token id at which it stopped.
        logprobs: one per token, if `Sampling.logprobs` asked for them.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The continuations of one prompt.

    Attributes:
        prompt: the prompt as given; an array as a list.
        samples: the continuations, `Sampling.n` of them.
        seed: the seed that repeats them, given or chosen.
        usage: tokens read, generated, drafted and accepted.
        prompt_logprobs: one for each token of the prompt, if requested.
    """

    prompt: str | Sequence[int]
    samples: tuple[Sample, ...]
    seed: int
    usage: Usage = field(compare=False)
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def text(self) -> str:
        """The text of the first sample."""
        return self.samples[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids of the first sample."""
        return self.samples[0].tokens

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first sample ended."""
        return self.samples[0].finish_reason


class Gathering:
    """Collects the events of one request as they arrive."""

    def __init__(self, n: int) -> None:
        self._events: list[list[Event]] = [[] for _ in range(n)]
        self._prompt: tuple[TokenLogprob, ...] | None = None
        self._usage: Usage | None = None

    def add(self, event: Event) -> None:
        """Add one event."""
        self._usage = event.usage or self._usage
        if event.prompt is not None:
            self._prompt = event.prompt
        else:
            self._events[event.sample].append(event)

    def completion(self, prompt: str | Sequence[int], sampling: Sampling) -> Completion:
        """The completion, once all events are added."""
        assert sampling.seed is not None
        assert self._usage is not None, "the last event has it"
        samples = tuple(_sample(events, sampling) for events in self._events)
        return Completion(
            prompt=prompt, samples=samples, seed=sampling.seed, usage=self._usage, prompt_logprobs=self._prompt
        )


def prompts_of(prompt: object) -> tuple[Sequence[str | Sequence[int]], bool]:
    """A list of prompts, and whether a single one (a text, or a list of ids) was given.

    Raises:
        GenerationError: neither one prompt nor several. Each prompt itself is checked later.
    """
    if isinstance(prompt, str | bytes):
        return [prompt], True  # pyright: ignore[reportReturnType] -- bytes are refused with what to do, as no text
    given: Any = _plain(prompt)
    if not isinstance(given, Sequence):
        raise GenerationError(
            f"What is to be continued is token ids, a text or a list of texts: got {prompt!r:.60}. "
            f"For texts that come one by one there is generate_each."
        )
    are_ids = [is_number(each) for each in given]
    if any(are_ids) and not all(are_ids):
        odd = are_ids.index(not are_ids[0])
        raise GenerationError(
            f"A list cannot hold ids and prompts alike: got {given[0]!r:.30} first, and {given[odd]!r:.30} at "
            f"position {odd}. Write several prompts as [[464, 3797], 'a text'], each a text or a list of its own."
        )
    return ([given], True) if any(are_ids) else ([_plain(each) for each in given], False)


def requests_of(prompts: object, sampling: Sampling) -> Iterator[Request]:
    """A request for each of any number of prompts, made lazily.

    Raises:
        GenerationError: `prompts` cannot be iterated over, or is a single text.
    """
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable):
        raise GenerationError(
            f"What is to be continued one by one is a list of texts, or makes them: got {prompts!r:.60}."
        )
    return (Request(prompt=_plain(prompt), sampling=sampling) for prompt in prompts)


def complete(scheduler: "Scheduler", prompts: Sequence[str | Sequence[int]], sampling: Sampling) -> list[Completion]:
    """Complete all prompts together on an idle scheduler, and close it."""
    numbers: list[int] = []
    for place, prompt in enumerate(prompts, 1):
        with said_of(f"prompt {place:,} of {len(prompts):,}" if len(prompts) > 1 else ""):
            numbers.append(scheduler.submit(Request(prompt=prompt, sampling=sampling)))
    gathered = {number: Gathering(sampling.n) for number in numbers}
    for event in events_of(scheduler):
        gathered[event.request].add(event)
    pairs = zip(numbers, prompts, strict=True)
    return [gathered[number].completion(prompt, sampling) for number, prompt in pairs]


def events_of(scheduler: "Scheduler") -> Generator[Event]:
    """The events of the submitted requests. The scheduler is closed at the end, or when the caller stops early.

    Raises:
        Exception: the error that ended a request.
    """
    try:
        while scheduler.busy:
            for event in scheduler.step():
                if event.error is not None:
                    raise event.error
                yield event
    finally:
        scheduler.close()


def _plain(given: Any) -> Any:
    """An array as a list; anything else unchanged."""
    return given.tolist() if getattr(given, "ndim", 0) and hasattr(given, "tolist") else given


def _sample(events: Sequence[Event], sampling: Sampling) -> Sample:
    last = events[-1]
    assert last.finish_reason is not None
    tokens = [event for event in events if event.token is not None]
    logprobs = tuple(TokenLogprob(event.token, event.logprob, event.top) for event in tokens if event.token is not None)
    return Sample(
        text="".join(event.text for event in events),
        tokens=tuple(event.token for event in tokens if event.token is not None),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        logprobs=None if sampling.logprobs is None else logprobs,
    )
