"""Requests to the scheduler, and the events it answers with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from gpt2.generation.constraint import Constraint
from gpt2.generation.settings import Sampling

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt, as text or as ids, and how to continue it. An empty prompt starts from the end-of-text token.

    Attributes:
        prompt: text or ids.
        sampling: how to continue it.
        priority: higher requests begin first and read their prompts first. It changes when a text comes, never the
            text.
        namespace: only requests of one namespace share the computation of a common prefix, so that timing does not
            reveal what others asked.
        start_by: if it has not begun by then, it ends with `DeadlineError`; on the clock passed to `Scheduler.step`.
        finish_by: if it is not complete by then, it ends with `DeadlineError`.
        constraint: limits the continuation, token by token.
    """

    prompt: str | Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    priority: int = 0
    namespace: str = ""
    start_by: float | None = None
    finish_by: float | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability under the model: natural, before any filter or temperature.

    Attributes:
        token: its id.
        logprob: None for the first token of a prompt, which nothing predicts.
        top: the most likely tokens at that position with their log-probabilities, most likely first.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The tokens of one request, all its samples together.

    Attributes:
        prompt_tokens: tokens of the prompt as it was read.
        cached_tokens: prompt tokens that another request had already computed.
        generated_tokens: tokens of all samples, including those that `best_of` dropped.
        drafted_tokens: tokens proposed to the model.
        accepted_tokens: drafted tokens that the model would have drawn, and so did not compute one by one.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One token of one sample; or, without a token, an end, an error, or the log-probabilities of the prompt.

    Attributes:
        request: the number that `submit` returned.
        sample: 0 to n - 1.
        text: the text that became final; the pieces of a sample join to its text.
        token: the id generated. End-of-text and stop ids are reported as tokens but add no text.
        logprob: log-probability of the token, if `Sampling.logprobs` or `best_of` requested it.
        top: the most likely tokens with their log-probabilities, likeliest first.
        finish_reason: set once per sample, on its last event: "stop", "length" or "error".
        stop_reason: the stop string, or the token id, that ended the sample.
        error: the error that ended the whole request, with all its samples; none of its events follow.
        prompt: one for each token of the prompt, if `Sampling.prompt_logprobs` requested them.
        usage: set on the last event of a request. Events that differ in nothing else are equal: what was cached
            or drafted is no part of the answer.
    """

    request: int
    sample: int = 0
    text: str = ""
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: Exception | None = None
    prompt: tuple[TokenLogprob, ...] | None = None
    usage: Usage | None = field(default=None, compare=False)
