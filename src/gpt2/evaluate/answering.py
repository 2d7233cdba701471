"""From requests to answers: takes them from the cache, and computes the others, batched where that is faster."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gpt2.evaluate.benchmark import Answer, Continued, Request
from gpt2.evaluate.cache import Answers
from gpt2.generation import Sampling
from gpt2.generation.targets import Target, computed_tokens, score_targets, shared_tokens
from gpt2.language_model import LanguageModel
from gpt2.tasks import Asked

_STEP_TOKENS = 512  # of short requests together: enough for efficient matrix products
_PROMPTS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """The answers to some requests, and what they cost.

    Attributes:
        answers: in the order of the requests.
        from_cache: how many of them came from the cache.
        tokens_computed: for the others, counting a shared beginning once.
        seconds: that the others took.
    """

    answers: Sequence[Answer]
    from_cache: int
    tokens_computed: int
    seconds: float


def answer_all(
    model: LanguageModel, requests: Sequence[Request], kept: Answers, progress: Callable[[int, int], None]
) -> Answered:
    """Answer each request; computed answers are cached at once.

    Args:
        model: answers them.
        requests: of one kind, in any order.
        kept: the cache of answers; new ones are added.
        progress: called with (answered, all) at the beginning and after each step.
    """
    found = [kept.get(request) for request in requests]
    missing = [i for i, answer in enumerate(found) if answer is None]
    from_cache = len(found) - len(missing)
    begin, n_tokens, done = time.perf_counter(), 0, from_cache
    progress(done, len(found))
    for group in groups(requests, missing):
        asked = [requests[i] for i in group]
        computed, n = answers_of(model, asked)
        for i, request, answer in zip(group, asked, computed, strict=True):
            found[i] = answer
            kept.put(request, answer)
        n_tokens += n
        done += len(group)
        progress(done, len(found))
    return Answered(
        answers=[answer for answer in found if answer is not None],
        from_cache=from_cache,
        tokens_computed=n_tokens,
        seconds=time.perf_counter() - begin,
    )


def answers_of(model: LanguageModel, requests: Sequence[Request]) -> tuple[Sequence[Answer], int]:
    """The answers, and the number of tokens computed for them."""
    targets = [request for request in requests if isinstance(request, Target)]
    if targets:
        return score_targets(model.backend, targets), computed_tokens(targets)
    prompts = [request for request in requests if isinstance(request, Asked)]
    sampling = replace(prompts[0].sampling, logprobs=0, seed=0)
    continued: list[Continued] = []
    n_tokens = 0
    for completion in model.generate([asked.prompt for asked in prompts], sampling):
        logprobs = [each.logprob or 0.0 for each in completion.samples[0].logprobs or ()]
        continued.append(Continued(text=completion.text, logprob=math.fsum(logprobs)))
        n_tokens += len(model.tokenizer.encode(str(completion.prompt))) + len(logprobs)
    return continued, n_tokens


def groups(requests: Sequence[Request], wanted: Sequence[int]) -> Iterator[list[int]]:
    """Group requests to compute together: of similar length, up to `_STEP_TOKENS` tokens, or so many prompts.

    Neighbours with a common beginning stay together, and the beginning counts once.
    """
    group: list[int] = []
    n_tokens = 0
    for family in sorted(_families(requests, wanted), key=lambda family: -_size(requests[family[0]])):
        size = _size_of_family([requests[i] for i in family])
        alike = not group or _settings(requests[group[0]]) == _settings(requests[family[0]])
        if group and (n_tokens + size > _STEP_TOKENS or not alike):
            yield group
            group, n_tokens = [], 0
        group += family
        n_tokens += size
    if group:
        yield group


def _families(requests: Sequence[Request], wanted: Sequence[int]) -> Iterator[list[int]]:
    """Runs of neighbours that share at least half their tokens with the first of the run."""
    family: list[int] = []
    for i in wanted:
        if family and not _alike(requests[family[0]], requests[i]):
            yield family
            family = []
        family.append(i)
    if family:
        yield family


def _alike(one: Request, other: Request) -> bool:
    if isinstance(one, Target) and isinstance(other, Target):
        return 2 * shared_tokens(one, other) >= max(one.n_tokens, other.n_tokens)
    return False


def _size_of_family(requests: Sequence[Request]) -> int:
    targets = [request for request in requests if isinstance(request, Target)]
    return computed_tokens(targets) if targets else sum(map(_size, requests))


def _size(request: Request) -> int:
    return request.n_tokens if isinstance(request, Target) else _STEP_TOKENS // _PROMPTS_AT_ONCE


def _settings(request: Request) -> Sampling | None:
    return None if isinstance(request, Target) else request.sampling
