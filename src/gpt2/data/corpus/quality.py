"""Checks of a text's quality: each measures something, compares it with its limit, and reports what it found.

A limit of None is off. Words are runs of word characters (with inner apostrophes) and runs of other marks. The
published rules were computed with each language's own tokenizer, so a text close to a limit may fall on the other side.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2.data.corpus.page import Dropped, Page
from gpt2.data.ngrams import Hashes, WordHashes, hash_ngrams
from gpt2.tokenizer import Tokenizer

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")
_LETTER = re.compile(r"[^\W\d_]")
_PARAGRAPHS = re.compile(r"\n{2,}")
_SENTENCE = re.compile(r"(?<![.!?…。！？])[.!?…。！？]+[\"'”’)\]]*(?=\s|$)")  # tried once per run of dots
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_CLOSING = tuple(".!?…。！？؟।॥:;\"'”’")
_word_hashes = WordHashes()


@functools.lru_cache(maxsize=1)  # several checks in a row split the same text
def split_words(text: str) -> tuple[str, ...]:
    """Words and runs of marks, unchanged."""
    return tuple(_WORD.findall(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A step with limits; `set_name` is the prefix of its reasons."""

    set_name: str = ""

    def __call__(self, page: Page) -> Page | Dropped:
        """The page, or the first limit that it breaks."""
        raise NotImplementedError

    def _over(self, page: Page, measured: Iterator[tuple[str, float]]) -> Page | Dropped:
        """Compare each measure with its limit, min_… or max_…; measures without a limit are not computed."""
        for rule, value in measured:
            limit = getattr(self, rule)
            if limit is not None and (value < limit if rule.startswith("min_") else value > limit):
                sign = "<" if rule.startswith("min_") else ">"
                return Dropped(page=page, reason=f"{self.set_name}.{rule}", detail=f"{value:.4g} {sign} {limit:g}")
        return page


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition(Check):
    """How much of a text repeats itself: shares of all lines, paragraphs and characters."""

    max_duplicate_lines: float | None = None
    max_duplicate_paragraphs: float | None = None
    max_duplicate_line_characters: float | None = None
    max_duplicate_paragraph_characters: float | None = None
    max_top_2gram_characters: float | None = None
    max_top_3gram_characters: float | None = None
    max_top_4gram_characters: float | None = None
    max_duplicate_5gram_characters: float | None = None
    max_duplicate_6gram_characters: float | None = None
    max_duplicate_7gram_characters: float | None = None
    max_duplicate_8gram_characters: float | None = None
    max_duplicate_9gram_characters: float | None = None
    max_duplicate_10gram_characters: float | None = None

    def __call__(self, page: Page) -> Page | Dropped:
        """The page, or the first limit that it breaks."""
        return self._over(page, self._measures(page.text))

    def _measures(self, text: str) -> Iterator[tuple[str, float]]:
        size = max(1, len(text))
        paragraphs = _PARAGRAPHS.split(text.strip())
        count, characters = count_duplicates(paragraphs)
        yield "max_duplicate_paragraphs", count / len(paragraphs)
        yield "max_duplicate_paragraph_characters", characters / size
        lines = [line for line in text.split("\n") if line]
        count, characters = count_duplicates(lines)
        yield "max_duplicate_lines", count / max(1, len(lines))
        yield "max_duplicate_line_characters", characters / size
        words = split_words(text)
        numbers = _word_hashes.of(words)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        ends = np.concatenate([[0], np.cumsum(lengths)])
        for n in (2, 3, 4):
            if len(words) >= n:
                yield f"max_top_{n}gram_characters", _top_characters(hash_ngrams(numbers, n), ends, n) / size
        for n in range(5, 11):
            characters = _duplicate_characters(hash_ngrams(numbers, n), ends, n)
            if not characters:
                return  # then no longer n-gram repeats
            yield f"max_duplicate_{n}gram_characters", characters / size


def count_duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts occurred before, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


def _top_characters(grams: Hashes, ends: "np.ndarray[tuple[int], np.dtype[np.int64]]", n: int) -> int:
    """The characters of all occurrences of the most frequent n-gram, with spaces between its words."""
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    most = counts == counts.max()
    place = int(first[most].min())
    return int(counts.max()) * int(ends[place + n] - ends[place] + n - 1)


def _duplicate_characters(grams: Hashes, ends: "np.ndarray[tuple[int], np.dtype[np.int64]]", n: int) -> int:
    """The characters of repeated n-grams, none counted twice: after one, the search continues behind it."""
    _, which, counts = np.unique(grams, return_inverse=True, return_counts=True)
    seen: set[int] = set()
    characters = free = 0
    for place in np.flatnonzero(counts[which] > 1).tolist():  # the others occur once
        if place < free:
            continue
        number = int(which[place])
        if number in seen:
            characters += int(ends[place + n] - ends[place])
            free = place + n
        else:
            seen.add(number)
    return characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Words(Check):
    """What a text's words look like."""

    min_words: float | None = None
    max_words: float | None = None
    min_mean_word_length: float | None = None
    max_mean_word_length: float | None = None
    max_hashes_per_word: float | None = None
    max_ellipses_per_word: float | None = None
    max_bullet_lines: float | None = None
    max_ellipsis_lines: float | None = None
    min_alphabetic_words: float | None = None
    min_stop_words: float | None = None
    stop_words: tuple[str, ...] = ()

    def __call__(self, page: Page) -> Page | Dropped:
        """The page with its count of words, or the first limit that it breaks."""
        text = page.text
        words = split_words(text)
        told = [word for word in words if word[0].isalnum() or word[0] == "_"]
        return self._over(page.measured(words=len(told)), self._measures(text, words, told))

    def _measures(self, text: str, words: Sequence[str], told: Sequence[str]) -> Iterator[tuple[str, float]]:
        count = max(1, len(words))
        yield "min_words", len(told)
        yield "max_words", len(told)
        mean = sum(map(len, told)) / max(1, len(told))
        yield "min_mean_word_length", mean
        yield "max_mean_word_length", mean
        yield "max_hashes_per_word", text.count("#") / count
        yield "max_ellipses_per_word", (text.count("...") + text.count("…")) / count
        lines = [line.strip() for line in text.splitlines()]
        yield "max_bullet_lines", sum(line.startswith(("•", "-")) for line in lines) / max(1, len(lines))
        yield "max_ellipsis_lines", sum(line.endswith(("...", "…")) for line in lines) / max(1, len(lines))
        # Split at white space: if every comma counted as a word, one in eight sound news articles would fail.
        spaced = text.split()
        yield "min_alphabetic_words", sum(1 for word in spaced if _LETTER.search(word)) / max(1, len(spaced))
        yield "min_stop_words", len(set(self.stop_words).intersection(words))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaning(Check):
    """Removes lines, and drops a page of which too little stays."""

    keep_lines_ending_in: tuple[str, ...] = ()
    min_words_per_line: int = 0
    max_word_length: int | None = None
    remove_citations: bool = False
    drop_lines_with: tuple[str, ...] = ()
    drop_pages_with: tuple[str, ...] = ()
    min_sentences: float | None = None

    def __call__(self, page: Page) -> Page | Dropped:
        """The page without the lines that break a rule, or why it is dropped as a whole."""
        kept: list[str] = []
        sentences = 0
        for raw in page.text.splitlines():
            line = raw.strip()
            words = line.split()
            if self.max_word_length is not None and any(len(word) > self.max_word_length for word in words):
                continue
            if self.remove_citations:
                line = _CITATION.sub("", line)
            if self.keep_lines_ending_in and (
                not line.endswith(self.keep_lines_ending_in) or line.endswith(("...", "…"))
            ):
                continue
            if len(words) < self.min_words_per_line:
                continue
            lowered = line.lower()
            for phrase in self.drop_pages_with:
                if phrase in lowered:
                    return Dropped(page=page, reason=f"{self.set_name}.drop_pages_with", detail=repr(phrase))
            if any(phrase in lowered for phrase in self.drop_lines_with):
                continue
            sentences += max(1, len(_SENTENCE.findall(line)))
            kept.append(line)
        if self.min_sentences is not None and sentences < self.min_sentences:
            return Dropped(
                page=page, reason=f"{self.set_name}.min_sentences", detail=f"{sentences} < {self.min_sentences:g}"
            )
        return replace(page, text="\n".join(kept))


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraphs(Check):
    """Whether there are enough long lines."""

    min_paragraphs: float | None = None
    min_paragraph_characters: int = 0

    def __call__(self, page: Page) -> Page | Dropped:
        """The page, or that it has too few."""
        long_ones = sum(len(line) >= self.min_paragraph_characters for line in page.text.split("\n"))
        return self._over(page, iter([("min_paragraphs", long_ones)]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines(Check):
    """What a text's lines look like."""

    min_lines_ending_in_punctuation: float | None = None
    max_short_lines: float | None = None
    short_line_characters: int = 30
    max_duplicate_line_characters: float | None = None
    max_newlines_per_word: float | None = None

    def __call__(self, page: Page) -> Page | Dropped:
        """The page, or the first limit that it breaks."""
        lines = [line for line in page.text.split("\n") if line.strip()]
        if not lines:
            return Dropped(page=page, reason=f"{self.set_name}.empty")
        return self._over(page, self._measures(page.text, lines))

    def _measures(self, text: str, lines: list[str]) -> Iterator[tuple[str, float]]:
        yield "min_lines_ending_in_punctuation", sum(line.endswith(_CLOSING) for line in lines) / len(lines)
        yield "max_short_lines", sum(len(line) <= self.short_line_characters for line in lines) / len(lines)
        yield "max_duplicate_line_characters", count_duplicates(lines)[1] / max(1, len(text.replace("\n", "")))
        yield "max_newlines_per_word", text.count("\n") / max(1, len(split_words(text)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens(Check):
    """How long a text is in GPT-2's tokens."""

    min_tokens: float | None = None

    def __call__(self, page: Page) -> Page | Dropped:
        """The page, or that it is too short."""
        if self.min_tokens is None or len(page.text.split()) >= self.min_tokens:  # a word is a token at least
            return page
        return self._over(page, iter([("min_tokens", len(_gpt2().encode(page.text)))]))


@functools.cache
def _gpt2() -> Tokenizer:
    return Tokenizer.published()
