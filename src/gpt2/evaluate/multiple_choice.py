"""Choosing the likeliest of several continuations, for CBT and HellaSwag."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.evaluate.benchmark import Judged, Setting
from gpt2.generation.targets import Target, TargetScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Attributes:
    before: the text before every continuation.
    continuations: each with the space before it, if there is one.
    right: the index of the right one.
    names: of the continuations, for people.
    """

    before: str
    continuations: tuple[str, ...]
    right: int
    names: tuple[str, ...]


def requests_of(items: Sequence[Item], setting: Setting, *, start: Sequence[int]) -> list[Target]:
    """One request for each continuation of each item, after as much of the preceding text's end as the context holds.

    All continuations of an item follow the same tokens, as many as the longest continuation leaves room for.

    Args:
        items: each has at least one token before it, including `start`.
        setting: the vocabulary and the context.
        start: tokens that precede everything.
    """
    requests: list[Target] = []
    for item in items:
        before = (*start, *setting.encode(item.before)) or (setting.eot,)
        targets = [tuple(setting.encode(each))[: setting.n_positions] for each in item.continuations]
        kept = before[-(setting.n_positions - max(map(len, targets)) + 1) :]
        requests += [Target(context=kept, targets=each) for each in targets]
    return requests


def by_item(items: Sequence[Item], results: Sequence[TargetScore]) -> list[list[float]]:
    """The log-probability of each continuation, item by item."""
    logprobs = iter(math.fsum(result.logprobs) for result in results)
    return [[next(logprobs) for _ in item.continuations] for item in items]


def best(values: Sequence[float]) -> int:
    """The index of the largest value; the first among equals."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def judge(items: Sequence[Item], results: Sequence[TargetScore]) -> list[Judged]:
    """How each item was answered."""
    return [judged(item, values) for item, values in zip(items, by_item(items, results), strict=True)]


def judged(item: Item, values: Sequence[float]) -> Judged:
    """How an item was answered; the confidence is the favourite's share of the probability of all continuations."""
    favourite = best(values)
    total = math.fsum(math.exp(value - values[favourite]) for value in values)
    return Judged(
        given=item.before,
        expected=item.names[item.right],
        answered=item.names[favourite],
        score=float(favourite == item.right),
        confidence=1 / total,
    )
