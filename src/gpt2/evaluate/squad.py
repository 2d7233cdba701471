"""SQuAD's comparison of an answer with the right ones: exact match, and F1 over words."""

import re
import string
from collections import Counter
from collections.abc import Sequence


def normalised(text: str) -> str:
    """A text without case, punctuation, articles and extra spaces."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def f1(answer: str, right: str) -> float:
    """The harmonic mean of precision and recall of words; an empty answer matches only an empty one."""
    given, wanted = normalised(answer).split(), normalised(right).split()
    if not given or not wanted:
        return float(given == wanted)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted))


def f1_among(answer: str, right: Sequence[str]) -> float:
    """F1 against several people's answers, as in CoQA: the best of all but one, averaged over the one left out.

    So people's answers can be measured against each other in the same way.
    """
    if len(right) == 1:
        return f1(answer, right[0])
    scores = [f1(answer, each) for each in right]
    return sum(max(scores[:i] + scores[i + 1 :]) for i in range(len(scores))) / len(scores)
