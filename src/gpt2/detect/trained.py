"""The trained baseline: a logistic regression on words, word pairs and the statistics.

OpenAI released such a detector with GPT-2 (openai/gpt-2-output-dataset, baseline.py: TF-IDF of one and two words,
logistic regression); this one adds this package's statistics as features. Training needs scikit-learn (`training`);
applying the detector does not: it is a table of words with two numbers each, and a sum.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gpt2.detect.reading import Reading
from gpt2.detect.statistics import curvature as curvature_of
from gpt2.detect.statistics import histogram, lrr, mean_entropy, mean_log_rank, mean_logprob

_WORD = re.compile(r"\b\w\w+\b")  # scikit-learn's default


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Detector:
    """A trained detector.

    Attributes:
        terms: word, or two words joined by a space -> (inverse document frequency, weight).
        statistics: name of `features` -> (mean, deviation, weight).
        bias: added to the sum.
    """

    terms: Mapping[str, tuple[float, float]]
    statistics: Mapping[str, tuple[float, float, float]]
    bias: float

    def score(self, reading: Reading, text: str) -> float:
        """Log-odds of "generated" among texts like its training texts; `Calibration` turns them into error rates.

        Args:
            reading: of the text.
            text: the text itself.
        """
        counts = Counter(term for term in terms_of(text) if term in self.terms)
        weighed = [(count * self.terms[term][0], self.terms[term][1]) for term, count in counts.items()]
        norm = math.sqrt(sum(value * value for value, _ in weighed)) or 1.0
        words = sum(value * weight for value, weight in weighed) / norm
        found = features(reading)
        numbers = sum((found[name] - mean) / scale * weight for name, (mean, scale, weight) in self.statistics.items())
        return self.bias + words + numbers

    def as_json(self) -> dict[str, Any]:
        """Plain data, rounded to five digits."""
        return {
            "terms": {term: [_short(x) for x in pair] for term, pair in self.terms.items()},
            "statistics": {name: [_short(x) for x in three] for name, three in self.statistics.items()},
            "bias": _short(self.bias),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Detector":
        """A detector from the result of `as_json`.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        terms = {str(term): _numbers(pair, 2) for term, pair in found["terms"].items()}
        three = {str(name): _numbers(each, 3) for name, each in found["statistics"].items()}
        if set(three) != set(FEATURES) or any(scale <= 0 for _, scale, _ in three.values()):
            raise ValueError
        [bias] = _numbers([found["bias"]], 1)
        return cls(
            terms={term: (idf, weight) for term, (idf, weight) in terms.items()},
            statistics={name: (mean, scale, weight) for name, (mean, scale, weight) in three.items()},
            bias=bias,
        )


FEATURES = ("mean_logprob", "mean_log_rank", "mean_entropy", "lrr", "curvature", "top_10", "beyond_1000")


def features(reading: Reading) -> dict[str, float]:
    """The statistics used as features, by name."""
    counts = histogram(reading)
    found = (
        mean_logprob(reading),
        mean_log_rank(reading),
        mean_entropy(reading),
        min(lrr(reading), 20.0),  # infinite if every token is the first guess
        curvature_of(reading),
        counts[0] / len(reading),
        counts[3] / len(reading),
    )
    return dict(zip(FEATURES, found, strict=True))


def terms_of(text: str) -> Iterator[str]:
    """The text's words in lower case, and each pair of consecutive words, as in scikit-learn's vectoriser."""
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))


def _short(x: float) -> float:
    return float(f"{x:.5g}")


def _numbers(values: Sequence[Any], n: int) -> list[float]:
    found = [float(value) for value in values]
    if len(found) != n or not all(map(math.isfinite, found)):
        raise ValueError
    return found
