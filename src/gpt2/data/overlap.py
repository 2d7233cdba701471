"""How much of a test set stands word for word in a training set: the paper's section 4.

A test set is small and a training set is not, so the filter holds the 8-grams of the test sets and the training text
streams past it, in memory that depends only on the test sets. What passes the filter is looked up among the test sets'
64-bit hashes, with an error probability below 1e-12 for each 8-gram.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.data.bloom import BloomFilter
from gpt2.data.compressed import STDIN
from gpt2.data.documents import ReadOptions, find_sources, read_documents
from gpt2.data.evaluation_sets import find_test_sets, read_test_set
from gpt2.data.ngrams import Hashes, WordHashes, hash_ngrams, words_of
from gpt2.data.workers import Tally, run_tasks
from gpt2.errors import DataError

PAPER_N = 8


class NgramIndex:
    """The n-grams of some texts, to be found in others.

    Args:
        hashes: of the n-grams of each text, or of each part.

    Attributes:
        n: words in an n-gram.
        hashes: of all n-grams, each once, ascending; uint64.
        bloom: the same as a filter.
    """

    def __init__(self, hashes: Iterable[Hashes], *, n: int) -> None:
        self.n = n
        self.hashes = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
        self.bloom = BloomFilter(self.hashes.size)
        self.bloom.add(self.hashes)

    def find(self, ngrams: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The indices of indexed n-grams in `ngrams`, and which they are (indices into `hashes`)."""
        if not self.hashes.size:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        places = self.bloom.find(ngrams)
        candidates = ngrams[places]
        which = np.minimum(np.searchsorted(self.hashes, candidates), self.hashes.size - 1)
        true = self.hashes[which] == candidates
        return places[true], which[true]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An example of a test set of which the training text holds n-grams.

    Attributes:
        number: of the example in its file, from 1.
        found: how many of its n-grams were found.
        ngrams: how many it has.
        text: its first found n-gram, normalised.
    """

    number: int
    found: int
    ngrams: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """How much of one test set was found.

    Attributes:
        name: of the file.
        examples: in it, including those too short for an n-gram.
        ngrams: in all examples; none crosses from one example into the next.
        found: how many of these are in the training text.
        touched: examples with at least one found n-gram.
        worst: the examples with the largest share found, largest first.
    """

    name: str
    examples: int
    ngrams: int
    found: int
    touched: int
    worst: tuple[Example, ...]

    @property
    def percent(self) -> float:
        """Share of the n-grams found, in percent: the paper's figure."""
        return 100.0 * self.found / self.ngrams if self.ngrams else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """How far a search is: documents and bytes of files read, seconds, and seconds left if known."""

    documents: int
    read_bytes: int
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """The arguments of every worker."""

    index: NgramIndex
    options: ReadOptions
    tally: Tally
    confirm: bool
    words: WordHashes = field(default_factory=WordHashes)


def measure_overlap(
    train: str | Path | Sequence[str | Path],
    tests: str | Path | Sequence[str | Path],
    *,
    n: int = PAPER_N,
    read: ReadOptions | None = None,
    confirm: bool = False,
    worst: int = 3,
    workers: int = 1,
    progress: Callable[[Searched], None] | None = None,
) -> list[Overlap]:
    """Find which n-grams of each test set are in the training text.

    With more than one worker, processes are spawned: a script that calls this must guard its main part by
    `if __name__ == "__main__"`.

    Args:
        train: files or folders, read as `prepare` reads them.
        tests: files or folders of evaluation sets in any form; each file is a test set.
        n: words in an n-gram.
        read: how to read the training text.
        confirm: compare the words themselves, not only their hashes.
        worst: how many examples of each test set to list.
        workers: processes, each reading one file of the training text at a time; the result is the same.
        progress: called a few times a second.

    Raises:
        DataError: something cannot be read, or a test set has no n-gram.
    """
    if n < 1:
        raise DataError(f"The length of an n-gram must be at least 1: got {n}.")
    read = read or ReadOptions()
    sources = find_sources([train] if isinstance(train, str | Path) else train, read.kind)
    files = find_test_sets([tests] if isinstance(tests, str | Path) else tests)
    hashes_of = {path: hash_examples(path, n) for path in files}
    index = NgramIndex(chain.from_iterable(hashes_of.values()), n=n)
    if not index.hashes.size:
        raise DataError(f"Nothing can be looked for: no text of {n} words in {', '.join(map(str, files))}.")

    job = _Job(index=index, options=read, tally=Tally(), confirm=confirm)
    meter = _Meter(sources, job.tally, progress)
    seen = np.zeros(index.hashes.size, np.bool_)
    texts: dict[int, set[str]] = {}
    for _, (found, found_texts) in run_tasks(
        _search, sources, workers=workers, start=_start, arguments=(job,), look=meter.tell
    ):
        seen[found] = True
        for which, some in found_texts.items():
            texts.setdefault(which, set()).update(some)
    meter.tell()
    return [_judge(path, hashes_of[path], index, seen, texts if confirm else None, worst) for path in files]


def hash_examples(path: Path, n: int) -> list[Hashes]:
    """The n-grams of each example of a test set's file, as `NgramIndex` takes them."""
    words = WordHashes()
    return [hash_ngrams(words.of(words_of(text)), n) for text in read_test_set(path)]


_job_here: list[_Job] = []  # a worker process's own, set once at its start


def _start(job: _Job) -> None:
    _job_here[:] = [job]


def _search(source: str) -> tuple[NDArray[np.int64], dict[int, set[str]]]:
    """Which n-grams of the index are in one file; with their words, if asked for."""
    job = _job_here[0]
    seen = np.zeros(job.index.hashes.size, np.bool_)
    texts: dict[int, set[str]] = {}
    for words in _document_words(source, job.options, job.tally.count_bytes, job.index.n):
        places, which = job.index.find(hash_ngrams(job.words.of(words), job.index.n))
        seen[which] = True
        if job.confirm:
            for place, number in zip(places.tolist(), which.tolist(), strict=True):
                texts.setdefault(number, set()).add(" ".join(words[place : place + job.index.n]))
        job.tally.count_documents()
    job.tally.flush()
    return np.flatnonzero(seen), texts


def _document_words(source: str, options: ReadOptions, on_read: Callable[[int], None], n: int) -> Iterator[list[str]]:
    """The words of each document; of a text read in pieces, each piece with the last n - 1 words before it."""
    before: list[str] = []
    for document in read_documents(source, options, on_read=on_read):
        words = before + words_of(document.text)
        yield words
        before = words[-(n - 1) :] if n > 1 and not document.ends else []


def _judge(
    path: Path,
    examples: list[Hashes],
    index: NgramIndex,
    seen: NDArray[np.bool_],
    texts: dict[int, set[str]] | None,
    worst: int,
) -> Overlap:
    counts: list[tuple[int, int, int, int]] = []  # found, n-grams, number, place of the first found
    sayings = iter(read_test_set(path))
    for number, ngrams in enumerate(examples):
        hits = seen[np.searchsorted(index.hashes, ngrams)]
        if texts is not None:
            words = words_of(next(sayings))
            for place in np.flatnonzero(hits):
                which = int(np.searchsorted(index.hashes, ngrams[place]))
                hits[place] = " ".join(words[place : place + index.n]) in texts.get(which, ())
        if hits.any():
            counts.append((int(hits.sum()), ngrams.size, number, int(hits.argmax())))
    largest = sorted(counts, key=lambda count: (-count[0] / count[1], -count[0], count[2]))[:worst]
    wanted = {number for _, _, number, _ in largest}
    words_at = {number: words_of(text) for number, text in enumerate(read_test_set(path)) if number in wanted}
    return Overlap(
        name=str(path),
        examples=len(examples),
        ngrams=sum(ngrams.size for ngrams in examples),
        found=sum(count[0] for count in counts),
        touched=len(counts),
        worst=tuple(
            Example(
                number=number + 1,
                found=found,
                ngrams=total,
                text=" ".join(words_at[number][place : place + index.n]),
            )
            for found, total, number, place in largest
        ),
    )


class _Meter:
    """How far the search is, from the bytes of the files read so far."""

    def __init__(self, sources: Sequence[str], tally: Tally, tell: Callable[[Searched], Any] | None) -> None:
        self._tally = tally
        self._tell = tell
        self._total_bytes = None if STDIN in sources else sum(Path(name).stat().st_size for name in sources)
        self._began = time.monotonic()

    def tell(self) -> None:
        """Report the progress."""
        if self._tell is None:
            return
        documents, read_bytes = self._tally.read()
        seconds = time.monotonic() - self._began
        left = None
        if self._total_bytes is not None and read_bytes:
            left = seconds / read_bytes * max(0, self._total_bytes - read_bytes)
        self._tell(Searched(documents=documents, read_bytes=read_bytes, seconds=seconds, seconds_left=left))
