"""The second round: finds duplicates from the facts and sorted runs of all tasks together.

Each task left its keys sorted on the disk. They are merged range by range: the slices of all runs whose keys fall into
the range are joined and sorted, so the range, not the corpus, bounds the memory. About 24 bytes a document stay in
memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.data.ngrams import Hashes

KEPT, SAME_ADDRESS, SAME_TEXT, NEAR = range(4)
REASONS = ("", "duplicate.address", "duplicate.text", "duplicate.near")
_RANGE_ENTRIES = 8 << 20

Ids = NDArray[np.int64]
Run = tuple[Hashes, NDArray[np.integer[Any]], int]
"""Keys of a task ascending, the rows of the documents they are of, and the number of the task's first document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """What became of every document of the first round, in the order of tasks.

    Attributes:
        fate: KEPT or why not; uint8.
        winner: the document kept in its place, itself if kept; int64.
        clusters: size of a cluster of near duplicates -> how many have it.
    """

    fate: NDArray[np.uint8]
    winner: Ids
    clusters: dict[int, int]


def decide(folders: Sequence[Path], *, exact: bool, near: bool) -> Fates:
    """The fate of all documents that the tasks in these folders wrote.

    In each group of duplicates the text with the most words stays; among equals, the first.
    """
    facts = [np.load(folder / "facts.npy", mmap_mode="r") for folder in folders]
    starts = np.cumsum([0, *(each.size for each in facts)], dtype=np.int64)
    count = int(starts[-1])
    words = np.concatenate([np.empty(0, np.uint32), *(each["words"] for each in facts)])
    fate = np.zeros(count, np.uint8)
    winner = np.arange(count, dtype=np.int64)
    if exact:
        for name, reason in (("address", SAME_ADDRESS), ("text", SAME_TEXT)):
            runs = [_sorted_run(np.asarray(each[name]), int(start)) for each, start in zip(facts, starts, strict=False)]
            first, second = _join(merge_groups(runs, ignore_zero=name == "address"))
            alive = (fate[first] == KEPT) & (fate[second] == KEPT)
            _settle(connect(count, first[alive], second[alive]), words, fate, winner, reason)
    clusters: dict[int, int] = {}
    if near and count:
        first, second = _join(
            edges for band in range(_bands_in(folders)) for edges in merge_groups(_band_runs(folders, starts, band))
        )
        alive = (fate[first] == KEPT) & (fate[second] == KEPT)
        labels = connect(count, first[alive], second[alive])
        sizes = np.bincount(labels[fate == KEPT], minlength=1)
        found, how_many = np.unique(sizes[sizes > 1], return_counts=True)
        clusters = dict(zip(found.tolist(), how_many.tolist(), strict=True))
        _settle(labels, words, fate, winner, NEAR)
    for _ in range(3):  # a winner may itself have lost later
        winner = winner[winner]
    return Fates(fate=fate, winner=winner, clusters=clusters)


def _sorted_run(keys: Hashes, start: int) -> Run:
    order = np.argsort(keys, kind="stable")
    return keys[order], order, start


def _bands_in(folders: Sequence[Path]) -> int:
    return int(np.load(folders[0] / "bands.npy", mmap_mode="r").shape[0])


def _band_runs(folders: Sequence[Path], starts: Ids, band: int) -> list[Run]:
    return [
        (
            np.load(folder / "bands.npy", mmap_mode="r")[band],
            np.load(folder / "rows.npy", mmap_mode="r")[band],
            int(start),
        )
        for folder, start in zip(folders, starts, strict=False)
    ]


def merge_groups(
    runs: Sequence[Run], *, ignore_zero: bool = False, range_entries: int = _RANGE_ENTRIES
) -> Iterator[tuple[Ids, Ids]]:
    """Pairs that join all documents with equal keys: each with the first of its group.

    Args:
        runs: of each task.
        ignore_zero: the key 0 means no key.
        range_entries: about how many keys to hold at once.
    """
    total = sum(keys.shape[0] for keys, _, _ in runs)
    parts = max(1, -(-total // range_entries))
    edges = [round(part * 2**64 / parts) for part in range(1, parts)]
    cuts = [
        np.concatenate([[0], np.searchsorted(keys, np.array(edges, np.uint64)), [keys.shape[0]]]).astype(np.int64)
        for keys, _, _ in runs
    ]
    for part in range(parts):
        slices = [slice(int(cut[part]), int(cut[part + 1])) for cut in cuts]
        cut_runs = [(keys[some], rows[some], start) for (keys, rows, start), some in zip(runs, slices, strict=True)]
        keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _, _ in cut_runs)])
        ids = np.concatenate([np.empty(0, np.int64), *(rows.astype(np.int64) + start for _, rows, start in cut_runs)])
        order = np.lexsort((ids, keys))
        keys, ids = keys[order], ids[order]
        if ignore_zero:
            keys, ids = keys[keys != 0], ids[keys != 0]
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.empty(0, np.int64)
        sizes = np.diff(np.concatenate([begins, [keys.size]]))
        first = np.repeat(ids[begins], sizes) if keys.size else ids
        others = first != ids
        yield first[others], ids[others]


def _join(pairs: Iterator[tuple[Ids, Ids]]) -> tuple[Ids, Ids]:
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, second in pairs:
        firsts.append(first)
        seconds.append(second)
    return np.concatenate(firsts), np.concatenate(seconds)


def connect(count: int, first: Ids, second: Ids) -> Ids:
    """For each of `count` documents, the smallest one that a chain of pairs joins to it."""
    labels = np.arange(count, dtype=np.int64)
    while True:
        least = np.minimum(labels[first], labels[second])
        if (labels[first] == labels[second]).all():
            return labels
        np.minimum.at(labels, labels[first], least)
        np.minimum.at(labels, labels[second], least)
        while not np.array_equal(jumped := labels[labels], labels):
            labels = jumped


def _settle(labels: Ids, words: NDArray[np.uint32], fate: NDArray[np.uint8], winner: Ids, reason: int) -> None:
    """In every group of kept documents with one label, keep only the one with the most words."""
    alive = np.flatnonzero(fate == KEPT)
    order = alive[np.lexsort((alive, -words[alive].astype(np.int64), labels[alive]))]
    if not order.size:
        return
    begins = np.concatenate([[True], labels[order][1:] != labels[order][:-1]])
    best = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    fate[order[~begins]] = reason
    winner[order] = best
