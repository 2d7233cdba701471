"""Finding what a model's samples repeat of its training text word for word, and what that text says near given words.

It takes one pass over the training text, in memory that depends only on the samples, whose n-grams are looked up as in
`overlap`. N-grams that are consecutive both in a document and in a sample make one common passage.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.data.documents import ReadOptions, find_sources, read_documents, read_json_lines
from gpt2.data.ngrams import WordHashes, hash_ngrams, words_of
from gpt2.data.overlap import PAPER_N, NgramIndex
from gpt2.data.workers import Tally, run_tasks
from gpt2.errors import DataError

WINDOW_WORDS = 20

Words = Mapping[str, frozenset[str]]
"""A name and the words that count as it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """Words that a sample and the training text have in common.

    Attributes:
        sample: number of the sample, from 0.
        n_words: of the passage.
        text: its words, normalised.
        samples: how many samples contain it.
        times: how often it occurs in the training text; for a passage longer than an n-gram, its rarest n-gram.
    """

    sample: int
    n_words: int
    text: str
    samples: int
    times: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Near:
    """What occurs near the words of a group.

    Attributes:
        mentions: how often the group is named.
        near: category -> the number of mentions that one of its words follows within `WINDOW_WORDS` words.
    """

    mentions: int = 0
    near: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated:
    """What one pass over the training text found.

    Attributes:
        n: words of an n-gram.
        samples, ngrams, found: samples with an n-gram; their n-grams; how many of these are in the training text.
        touched: samples with at least one found n-gram.
        longest: the longest common passages, each sample once, longest first.
        frequent: n-grams of the training text that most samples contain, most first.
        documents, text_bytes: of the training text.
        sources: source and licence, as the records of JSON Lines state them -> documents and bytes.
        near: group -> what occurs near it in the training text.
    """

    n: int
    samples: int
    ngrams: int
    found: int
    touched: int
    longest: tuple[Passage, ...]
    frequent: tuple[Passage, ...]
    documents: int
    text_bytes: int
    sources: Mapping[tuple[str, str], tuple[int, int]]
    near: Mapping[str, Near]


def find_repeated(
    samples: Sequence[str],
    train: Sequence[str | Path],
    *,
    groups: Words | None = None,
    categories: Words | None = None,
    n: int = PAPER_N,
    shown: int = 10,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda documents, read_bytes: None,
) -> Repeated:
    """Look for what samples and training text have in common.

    Args:
        samples: texts that the model wrote.
        train: files or folders, read as `prepare` reads them.
        groups, categories: names and their words, for `near`.
        n: words of an n-gram.
        shown: how many passages to list.
        workers: processes, each reading one file at a time; the result is the same.
        progress: receives the numbers of documents and of bytes of files read so far.

    Raises:
        DataError: something cannot be read, or no sample has an n-gram.
    """
    sources = find_sources(train)
    words = WordHashes()
    split = [words_of(text) for text in samples]
    hashes = [hash_ngrams(words.of(each), n) for each in split]
    index = NgramIndex(hashes, n=n)
    if not index.hashes.size:
        raise DataError(f"Nothing can be looked for: no sample has {n} words.")
    which = [np.searchsorted(index.hashes, each).tolist() for each in hashes]
    homes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for sample, row in enumerate(which):
        for place, number in enumerate(row):
            homes[number].append((sample, place))
    job = _Job(index=index, homes=dict(homes), groups=groups or {}, categories=categories or {}, tally=Tally())
    total = _Seen.empty(index.hashes.size)
    for _, seen in run_tasks(
        _search, sources, workers=workers, start=_start, arguments=(job,), look=lambda: progress(*job.tally.read())
    ):
        total.add(seen)
    in_samples = Counter(number for row in which for number in set(row) if total.counts[number])
    touched = sum(any(total.counts[number] for number in row) for row in which)

    def passage(sample: int, place: int, n_grams: int) -> Passage:
        numbers = which[sample][place : place + n_grams]
        return Passage(
            sample=sample,
            n_words=n_grams + n - 1,
            text=" ".join(split[sample][place : place + n_grams + n - 1]),
            samples=min(in_samples[number] for number in numbers),
            times=int(min(total.counts[number] for number in numbers)),
        )

    often = sorted(in_samples, key=lambda number: (-in_samples[number], -int(total.counts[number]), number))[:shown]
    return Repeated(
        n=n,
        samples=sum(bool(row) for row in which),
        ngrams=sum(map(len, which)),
        found=sum(bool(total.counts[number]) for row in which for number in row),
        touched=touched,
        longest=tuple(passage(*run) for run in _longest(total.runs)[:shown]),
        frequent=tuple(passage(*homes[number][0], 1) for number in often),
        documents=total.documents,
        text_bytes=total.text_bytes,
        sources=_by_bytes(total.sources),
        near={group: Near(mentions=total.mentions[group], near=dict(total.near[group])) for group in job.groups},
    )


def _longest(runs: Mapping[tuple[int, int], int]) -> list[tuple[int, int, int]]:
    """The first of the longest runs of each sample, as (sample, place, n-grams), longest first."""
    longest: dict[int, tuple[int, int]] = {}  # sample -> n-grams, -place
    for (sample, place), n_grams in runs.items():
        longest[sample] = max(longest.get(sample, (0, 0)), (n_grams, -place))
    best = sorted(longest.items(), key=lambda item: (-item[1][0], item[0]))
    return [(sample, -place, n_grams) for sample, (n_grams, place) in best]


def count_near(words: Sequence[str], groups: Words, categories: Words) -> Iterator[tuple[str, list[str]]]:
    """Each mention of a group, with the categories that follow it within `WINDOW_WORDS` words."""
    group_of = {word: group for group, some in groups.items() for word in some}
    for place in [i for i, word in enumerate(words) if word in group_of]:
        window = words[place + 1 : place + 1 + WINDOW_WORDS]
        yield group_of[words[place]], [name for name, some in categories.items() if not some.isdisjoint(window)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    index: NgramIndex
    homes: dict[int, list[tuple[int, int]]]
    groups: Words
    categories: Words
    tally: Tally
    words: WordHashes = field(default_factory=WordHashes)


@dataclass(kw_only=True, slots=True)
class _Seen:
    counts: Any  # of each n-gram of the index
    runs: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    documents: int = 0
    text_bytes: int = 0
    sources: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    mentions: Counter[str] = field(default_factory=Counter[str])
    near: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict[str, Counter[str]](Counter[str]))

    @classmethod
    def empty(cls, n_ngrams: int) -> "_Seen":
        return cls(counts=np.zeros(n_ngrams, np.int64))

    def add(self, other: "_Seen") -> None:
        self.counts += other.counts
        for run, n_grams in other.runs.items():
            self.runs[run] = max(self.runs.get(run, 0), n_grams)
        self.documents += other.documents
        self.text_bytes += other.text_bytes
        self.sources += other.sources
        self.mentions += other.mentions
        for group, counts in other.near.items():
            self.near[group] += counts


_job_here: list[_Job] = []  # a worker process's own, set once at its start


def _start(job: _Job) -> None:
    _job_here[:] = [job]


def _search(source: str) -> _Seen:
    job = _job_here[0]
    seen = _Seen.empty(job.index.hashes.size)
    for text, origin, licence in _records(source, job.tally.count_bytes):
        words = words_of(text)
        n_bytes = len(text.encode("utf-8", "surrogatepass"))
        seen.documents += 1
        seen.text_bytes += n_bytes
        seen.sources[origin, licence, "documents"] += 1
        seen.sources[origin, licence, "bytes"] += n_bytes
        _look_up(words, job, seen)
        for group, categories in count_near(words, job.groups, job.categories) if job.groups else ():
            seen.mentions[group] += 1
            seen.near[group].update(categories)
        job.tally.count_documents()
    job.tally.flush()
    return seen


def _look_up(words: list[str], job: _Job, seen: _Seen) -> None:
    places, which = job.index.find(hash_ngrams(job.words.of(words), job.index.n))
    np.add.at(seen.counts, which, 1)
    begin = 0
    for end in [*(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]:
        numbers = which[begin:end].tolist()
        begin = end
        going: dict[tuple[int, int], int] = {}  # (sample, place) that a run has reached -> its n-grams
        for number in numbers:
            going = {(s, p): 1 + going.get((s, p - 1), 0) for s, p in job.homes[number]}
            for (sample, place), n_grams in going.items():
                start = (sample, place - n_grams + 1)
                if n_grams > seen.runs.get(start, 0):
                    seen.runs[start] = n_grams


def _records(source: str, on_read: Callable[[int], None]) -> Iterator[tuple[str, str, str]]:
    """Text, source and licence of each document; outside JSON Lines the source is the file's name, without licence."""
    if ".jsonl" not in Path(source).suffixes:
        for document in read_documents(source, ReadOptions(), on_read=on_read):
            yield document.text, Path(source).name, ""
        return
    for where, record in read_json_lines(source, on_read=on_read):
        if not isinstance(record, dict) or "text" not in record:
            raise DataError(f"{where}, is no object with a text.")
        yield str(record["text"]), str(record.get("source", "")), str(record.get("licence", ""))


def _by_bytes(counts: "Counter[tuple[str, str, str]]") -> dict[tuple[str, str], tuple[int, int]]:
    names = {(source, licence) for source, licence, _ in counts}
    rows = [(name, (counts[*name, "documents"], counts[*name, "bytes"])) for name in names]
    return dict(sorted(rows, key=lambda row: (-row[1][1], row[0])))
