"""The probabilities of target tokens after a context, for benchmarks, several requests at a time.

Unlike `scoring.score`, which scores one whole text, this scores only the targets, without a sliding window. Common
prefixes are computed once: requests form a tree of segments, and a slot is forked where they diverge. A row predicts
the next token, so a segment ends one token before its requests diverge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gpt2.backends.seam import Backend, Result, Want, Work
from gpt2.errors import ContextError
from gpt2.generation.sampler import best_of_rows
from gpt2.generation.sequence import CHUNK_TOKENS

_WORTH_SHARING_TOKENS = 8  # a shorter common prefix costs less than the extra step


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Target tokens to score after a context.

    Attributes:
        context: at least one token.
        targets: at least one; context and all targets but the last must fit `n_positions`.
        best: how many of the most likely tokens to report at the first target.
    """

    context: tuple[int, ...]
    targets: tuple[int, ...]
    best: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens read: all but the last target."""
        return len(self.context) + len(self.targets) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScore:
    """Attributes:
    logprobs: of each target, natural.
    ranks: how many tokens were more likely than each.
    best: ids of the most likely tokens at the first target, most likely first.
    best_logprob: of the first of these.
    """

    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    best: tuple[int, ...] = ()
    best_logprob: float | None = None


def score_targets(backend: Backend, requests: Sequence[Target]) -> list[TargetScore]:
    """Score several targets in the same steps, with the same results as alone.

    Raises:
        ContextError: a request is longer than the context.
    """
    for request in requests:
        assert request.context and request.targets
        if request.n_tokens > backend.config.n_positions:
            raise ContextError(
                f"The targets cannot be scored: with what stands before them they take {request.n_tokens:,} tokens, "
                f"and the model's context is {backend.config.n_positions:,}. Shorten what stands before them."
            )
    found = [_Found() for _ in requests]
    wave = list(_segments(requests))
    slots: set[int] = set()
    try:
        for segment in wave:
            segment.slot = backend.new()
            slots.add(segment.slot)
        while wave:
            _compute(backend, wave, requests, found)
            wave = [child for segment in wave for child in _followers(backend, segment, slots)]
    finally:
        for slot in slots:
            backend.free(slot)
    return [each.score() for each in found]


def computed_tokens(requests: Sequence[Target]) -> int:
    """Tokens that `score_targets` computes for these requests together."""
    total, wave = 0, list(_segments(requests))
    while wave:
        total += sum(segment.end - segment.begin for segment in wave)
        wave = [child for segment in wave for child in segment.children]
    return total


def shared_tokens(one: Target, other: Target) -> int:
    """Length of the common prefix of both, without their last targets."""
    return _common(one.context + one.targets[:-1], other.context + other.targets[:-1])


@dataclass(slots=True)
class _Segment:
    """Tokens `begin` to `end` that its requests share, and the segments that follow.

    `first_row` is the first row whose prediction a request wants.
    """

    tokens: tuple[int, ...]
    begin: int
    end: int
    first_row: int
    best: int
    members: list[int]
    children: list["_Segment"] = field(default_factory=list["_Segment"])
    slot: int = -1


@dataclass(slots=True)
class _Found:
    logprobs: list[float] = field(default_factory=list[float])
    ranks: list[int] = field(default_factory=list[int])
    best: tuple[tuple[int, float], ...] = ()

    def take(self, request: Target, first_row: int, result: Result) -> None:
        """Take what belongs to the request out of rows that begin at `first_row`."""
        assert result.target_logprobs_R is not None
        assert result.target_ranks_R is not None
        skipped = max(0, len(request.context) - 1 - first_row)
        if skipped >= len(result.target_logprobs_R):
            return
        if request.best and not self.logprobs:
            self.best = best_of_rows(result)[skipped][: request.best]
        self.logprobs += result.target_logprobs_R[skipped:].tolist()
        self.ranks += result.target_ranks_R[skipped:].tolist()

    def score(self) -> TargetScore:
        return TargetScore(
            logprobs=tuple(self.logprobs),
            ranks=tuple(self.ranks),
            best=tuple(token for token, _ in self.best),
            best_logprob=self.best[0][1] if self.best else None,
        )


def _segments(requests: Sequence[Target]) -> Iterator[_Segment]:
    """The roots of the tree."""
    texts = [request.context + request.targets for request in requests]
    members = sorted(range(len(requests)), key=texts.__getitem__)
    if members:
        yield from _divided(members, 0, texts, requests)


def _divided(
    members: list[int], begin: int, texts: Sequence[tuple[int, ...]], requests: Sequence[Target]
) -> Iterator[_Segment]:
    """Segments from `begin` on, for sorted requests whose texts agree before it."""
    shared = _common(texts[members[0]], texts[members[-1]])
    alone = texts[members[0]] == texts[members[-1]]
    rest = [member for member in members if len(texts[member]) > shared]
    groups: list[list[int]] = []
    for member in rest:
        if not groups or texts[groups[-1][0]][shared] != texts[member][shared]:
            groups.append([])
        groups[-1].append(member)
    end = shared - 1  # the row of the last shared token predicts a token that is not shared
    if not alone and len(rest) == len(members) and end - begin < _WORTH_SHARING_TOKENS:
        for group in groups:
            yield from _divided(group, begin, texts, requests)
        return
    segment = _Segment(
        tokens=texts[members[0]][: end + 1],
        begin=begin,
        end=end,
        first_row=max(begin, min(len(requests[member].context) for member in members) - 1),
        best=max(requests[member].best for member in members),
        members=members,
    )
    for group in groups:
        segment.children += _divided(group, end, texts, requests)
    yield segment


def _compute(backend: Backend, wave: Sequence[_Segment], requests: Sequence[Target], found: Sequence[_Found]) -> None:
    """Read the segments of a wave into their slots, one chunk of each at a time."""
    for first in range(0, max(segment.end - segment.begin for segment in wave), CHUNK_TOKENS):
        works: list[Work] = []
        takers: list[_Segment] = []
        for segment in wave:
            begin = segment.begin + first
            end = min(begin + CHUNK_TOKENS, segment.end)
            if begin >= end:
                continue
            row = max(begin, segment.first_row)
            rows = max(0, end - row)
            targets = segment.tokens[row + 1 : end + 1] if rows else None
            want = Want(rows=rows, targets=targets, best=segment.best if rows else 0)
            works.append(Work(slot=segment.slot, tokens=segment.tokens[begin:end], want=want))
            takers.append(segment)
        for work, segment, result in zip(works, takers, backend.step(works), strict=True):
            if work.want.rows:
                row = segment.begin + first + len(work.tokens) - work.want.rows
                for member in segment.members:
                    found[member].take(requests[member], row, result)


def _followers(backend: Backend, segment: _Segment, slots: set[int]) -> list[_Segment]:
    """The segment's children, each with a slot that holds its prefix; the last takes over the segment's own."""
    for child in segment.children[:-1]:
        child.slot = backend.fork(segment.slot)
        slots.add(child.slot)
    if segment.children:
        segment.children[-1].slot = segment.slot
    else:
        slots.discard(segment.slot)
        backend.free(segment.slot)
    return segment.children


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)
