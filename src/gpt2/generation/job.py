"""A request in progress: one slot reads its prompt, then its samples continue from there."""

from dataclasses import dataclass, field

from gpt2.generation.constraint import Follower
from gpt2.generation.requests import Event, Request, TokenLogprob, Usage
from gpt2.generation.sampler import Sampler
from gpt2.generation.sequence import SlotSequence
from gpt2.generation.settings import Sampling
from gpt2.generation.text import TextStream


@dataclass(kw_only=True, slots=True, eq=False)
class Sample:
    """One continuation being generated."""

    index: int
    sequence: SlotSequence
    stream: TextStream
    follower: Follower | None
    is_open: bool = True
    n_tokens: int = 0
    logprob_sum: float = 0.0
    events: list[Event] = field(default_factory=list[Event])  # held back while best_of is undecided


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """A checked request and its state."""

    id: int
    request: Request
    sampler: Sampler
    prompt: list[int]
    end_ids: frozenset[int]
    limit: int  # tokens to generate for each sample
    need_bytes: int  # of keys and values, at most
    n_overtaken: int = 0  # by later requests that fitted earlier
    n_served: float = 0.0  # tokens read for it, on the clock of `Turns`
    reading: SlotSequence | None = None
    samples: list[Sample] = field(default_factory=list[Sample])
    scored: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    n_cached: int = 0
    n_drafted: int = 0
    n_accepted: int = 0

    @property
    def sampling(self) -> Sampling:
        """Its settings."""
        return self.request.sampling

    @property
    def scores_prompt(self) -> bool:
        """Whether each token of the prompt is scored, and so must be computed."""
        return self.sampling.prompt_logprobs is not None

    @property
    def is_unread(self) -> bool:
        """Whether there is nothing to compute: no token to generate or score."""
        return self.limit <= 0 and not (self.scores_prompt and len(self.prompt) > 1)

    def sequences(self) -> list[tuple[Sample | None, SlotSequence]]:
        """The open sequences; the prompt's has no sample."""
        if self.reading is not None:
            return [(None, self.reading)]
        return [(sample, sample.sequence) for sample in self.samples if sample.is_open]

    def prompt_event(self) -> list[Event]:
        """The log-probabilities of the prompt, if requested."""
        if not self.scores_prompt:
            return []
        return [Event(request=self.id, prompt=(TokenLogprob(self.prompt[0], None), *self.scored))]

    def usage(self) -> Usage:
        """The usage so far."""
        return Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=self.n_cached,
            generated_tokens=sum(sample.n_tokens for sample in self.samples),
            drafted_tokens=self.n_drafted,
            accepted_tokens=self.n_accepted,
        )

    def free(self) -> None:
        """Free its slots."""
        for _, sequence in self.sequences():
            sequence.free()
