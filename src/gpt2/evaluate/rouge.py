"""ROUGE (Lin 2004): the overlap of a summary with another in words, pairs of words and longest common subsequences."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

_WORD = re.compile(r"[a-z0-9]+")


def words_of(text: str) -> list[str]:
    """Runs of letters a to z and digits, in lower case; no stemming."""
    return _WORD.findall(text.lower())


def rouge_n(summary: str, reference: str, n: int) -> float:
    """F1 of runs of n words."""
    given, wanted = _runs(words_of(summary), n), _runs(words_of(reference), n)
    return _f1((given & wanted).total(), given.total(), wanted.total())


def rouge_l(summary: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the words in the union of longest common subsequences, sentence by sentence ("summary level").

    Args:
        summary: its sentences.
        reference: its sentences.
    """
    given, wanted = [words_of(each) for each in summary], [words_of(each) for each in reference]
    left_given, left_wanted = Counter(chain(*given)), Counter(chain(*wanted))
    hits = 0
    for sentence in wanted:
        taken = sorted({i for other in given for i in _common(sentence, other)})
        for word in (sentence[i] for i in taken):
            if left_given[word] > 0 and left_wanted[word] > 0:
                left_given[word] -= 1
                left_wanted[word] -= 1
                hits += 1
    return _f1(hits, sum(map(len, given)), sum(map(len, wanted)))


def _runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _f1(hits: int, n_given: int, n_wanted: int) -> float:
    return 2 * hits / (n_given + n_wanted) if hits else 0.0


def _common(words: Sequence[str], others: Sequence[str]) -> list[int]:
    """The places in `words` of a longest common subsequence with `others`."""
    rows = [[0] * (len(others) + 1)]
    for word in words:
        before, row = rows[-1], [0]
        for j, other in enumerate(others):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
        rows.append(row)
    places: list[int] = []
    i, j = len(words), len(others)
    while i and j:
        if words[i - 1] == others[j - 1]:
            places.append(i - 1)
            i, j = i - 1, j - 1
        elif rows[i][j - 1] > rows[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]
