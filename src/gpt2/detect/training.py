"""Trains the baseline on pairs of human text and the user's own model's continuations of its beginnings.

Training texts do not count for the error rate: every other human text is held out to measure it.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from gpt2.detect.calibrating import PROMPT_TOKENS, Author, facts_of
from gpt2.detect.calibration import LENGTHS, Calibration, calibrate
from gpt2.detect.reading import Reading
from gpt2.detect.trained import FEATURES, Detector, features, terms_of
from gpt2.errors import DataError, MissingExtraError
from gpt2.tokenizer import Tokenizer

_LEAST_TEXTS = 198  # half of them measure the rate, which takes 99 texts for 1 %
_TERMS = 1 << 16
_STRENGTHS = tuple(4.0**k for k in range(-3, 4))  # inverse regularisation, 1/64 to 64, as in OpenAI's baseline


def train_detector(
    human: Iterable[Sequence[int]],
    author: Author,
    *,
    source: str,
    seed: int = 0,
    progress: Callable[[int, str], None] = lambda done, of: None,
) -> Calibration:
    """Train a detector, and measure its scores on held-out texts.

    Args:
        human: the beginning of each human text, as `beginnings_of` gives them.
        author: reads them, and continues the beginning of each.
        source: what the human texts are, for people.
        seed: of the samples and the lengths to which texts are cut.
        progress: called with the number of texts done and their kind.

    Raises:
        DataError: too few texts.
        MissingExtraError: scikit-learn is not installed.
    """
    _require_sklearn()
    given = [ids for ids in human if len(ids) >= PROMPT_TOKENS + LENGTHS[0]]
    if len(given) < _LEAST_TEXTS:
        raise DataError(
            f"The detector cannot be trained: {len(given):,} human texts reach {PROMPT_TOKENS + LENGTHS[0]} tokens. "
            f"Give at least {_LEAST_TEXTS}: one half trains it, the other measures its error rate."
        )
    of_humans: list[Reading] = []
    for n, ids in enumerate(given):
        trains = n % 2 == 0  # train on the same stretch as the model's; measure on whole texts, as judged
        of_humans.append(author.read(ids[PROMPT_TOKENS:] if trains else ids))
        progress(n + 1, "human texts")
    own: list[tuple[str, Reading]] = []
    for setting, reading in author.own_texts([ids[:PROMPT_TOKENS] for ids in given], seed=seed):
        own.append((setting, reading))
        progress(len(own), "texts of the model")
    trained_on = [reading for _, reading in own[::2]]
    detector, strength = _fit(of_humans[::2], trained_on, author.tokenizer, seed=seed)
    fresh: dict[str, list[Reading]] = {setting: [] for setting, _ in own}
    for setting, reading in own[1::2]:
        fresh[setting].append(reading)
    return calibrate(
        of_humans[1::2],
        fresh,
        model=author.name,
        fingerprint=author.fingerprint,
        made_from=facts_of(source, n_human=len(given), n_own=len(own), seed=seed)
        | {
            "statistic": "trained detector",
            "trained_on_texts": 2 * len(trained_on),
            "inverse_regularisation": strength,
        },
        detector=detector,
        decode=author.tokenizer.decode,
    )


def _require_sklearn() -> None:
    if find_spec("sklearn") is None:
        raise MissingExtraError.of("The detector cannot be trained", package="scikit-learn", extra="detect")


def _fit(
    human: Sequence[Reading], generated: Sequence[Reading], tokenizer: Tokenizer, *, seed: int
) -> tuple[Detector, float]:
    """The regression with the regularisation that does best on a held-out fifth, retrained on all texts."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    draw = random.Random(seed)
    texts: list[Reading] = []
    labels: list[int] = []
    for label, some in ((0, human), (1, generated)):
        for reading in some:
            cut = draw.choice([n for n in LENGTHS if n <= len(reading)] or [len(reading)])
            texts += [reading, reading.first(cut)]
            labels += [label, label]
    analyzer: Any = _analyse
    vectoriser = TfidfVectorizer(analyzer=analyzer, min_df=3, max_features=_TERMS)
    try:
        words: Any = vectoriser.fit_transform([tokenizer.decode(text.ids_T.tolist()) for text in texts])
    except ValueError:  # no terms remain
        raise DataError("The detector cannot be trained: no word occurs in three texts. Give more texts.") from None
    numbers = np.array([list(features(text).values()) for text in texts])
    mean, scale = numbers.mean(axis=0), numbers.std(axis=0)
    scale[scale == 0] = 1.0
    x: Any = hstack([words, csr_matrix((numbers - mean) / scale)], format="csr")
    y = np.array(labels)
    held = np.arange(len(y)) // 2 % 5 == 0  # keeps both cuts of a text on one side

    def fitted(strength: float, rows: Any) -> Any:
        return LogisticRegression(solver="liblinear", C=strength, random_state=seed).fit(x[rows], y[rows])

    best = max(_STRENGTHS, key=lambda strength: fitted(strength, ~held).score(x[held], y[held]))
    found = fitted(best, np.ones(len(y), np.bool_))
    names = vectoriser.get_feature_names_out().tolist()
    weights = found.coef_[0]
    return Detector(
        terms={term: (float(idf), float(w)) for term, idf, w in zip(names, vectoriser.idf_, weights, strict=False)},
        statistics={
            feature: (float(m), float(s), float(w))
            for feature, m, s, w in zip(FEATURES, mean, scale, weights[len(names) :], strict=True)
        },
        bias=float(found.intercept_[0]),
    ), best


def _analyse(text: str) -> list[str]:
    return list(terms_of(text))
