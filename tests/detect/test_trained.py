"""The trained baseline: scikit-learn's regression, applied without it, with error rates from texts it has not seen."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from gpt2.detect import Calibration, Detector, Reading, judge
from gpt2.detect.calibrating import Author
from gpt2.detect.trained import FEATURES, terms_of
from gpt2.detect.training import train_detector
from gpt2.errors import DataError, FormatError, MissingExtraError
from gpt2.tokenizer import Tokenizer

TEXTS = ["The cat sat on the mat; the cat slept.", "A dog, a cat & 2 dogs! Été, the dog's", "mat mat mat", ""]
HUMAN, OWN = (
    "the weather was cold and the old farmer walked slowly home ",
    "the little girl was happy and played with mom ",
)


def reading_of(ids: Sequence[int]) -> Reading:
    """All texts look alike to this model: only the words tell."""
    n = len(ids)
    return Reading(
        ids_T=np.array(ids, np.int64),
        logprobs_T=np.full(n, -4.0) + np.arange(n) % 3,
        ranks_T=np.arange(n) % 20,
        entropies_T=np.full(n, 4.0),
        means_T=np.full(n, -4.0),
        variances_T=np.ones(n),
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


@pytest.fixture
def trained(tokenizer: Tokenizer) -> Calibration:
    return train(tokenizer, 240)


def words_of(text: str, seed: int, n: int = 60) -> str:
    return " ".join(np.random.default_rng(seed).choice(text.split(), n))


def train(tokenizer: Tokenizer, n: int) -> Calibration:
    author = Author(
        name="tiny",
        fingerprint="f" * 64,
        tokenizer=tokenizer,
        read=reading_of,
        write=lambda prompts, *, seed, **settings: [words_of(OWN, seed + 1000 * i) for i, _ in enumerate(prompts)],
    )
    return train_detector((tokenizer.encode(words_of(HUMAN, i)) for i in range(n)), author, source="made up")


def test_words_are_weighed_as_by_scikit_learn() -> None:
    vectoriser = TfidfVectorizer(ngram_range=(1, 2))
    table = vectoriser.fit_transform(TEXTS)
    assert [list(vectoriser.build_analyzer()(text)) for text in TEXTS] == [list(terms_of(text)) for text in TEXTS]
    weights = np.random.default_rng(0).standard_normal(table.shape[1])
    names = vectoriser.get_feature_names_out()
    detector = Detector(
        terms={term: (idf, w) for term, idf, w in zip(names, vectoriser.idf_, weights, strict=True)},
        statistics=dict.fromkeys(FEATURES, (0.0, 1.0, 0.0)),
        bias=0.5,
    )
    for text, expected in zip(TEXTS, table @ weights, strict=True):
        assert detector.score(reading_of([1, 2, 3]), text) == pytest.approx(expected + 0.5, abs=1e-12)


def test_the_score_is_the_regressions_own_and_words_tell(tokenizer: Tokenizer, trained: Calibration) -> None:
    assert trained.detector is not None
    longest = max(trained.human)
    assert all(trained.power(setting, longest, 0.01) == 1 for setting in trained.generated)
    assert len(trained.human[longest]) == 120  # the other half, which it was not trained on
    assert trained.made_from["trained_on_texts"] == 240
    for text, expected in ((words_of(OWN, 77), "generated"), (words_of(HUMAN, 999_999), "human")):
        found = judge(text, tokenizer=tokenizer, read=reading_of, calibration=trained, false_positive_rate=0.03)
        assert found.verdict == expected


def test_it_comes_back_from_its_file(trained: Calibration, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "detector.json"
    trained.write(path)
    found = Calibration.read(path)
    assert found.detector is not None and trained.detector is not None
    ids = tokenizer.encode(words_of(OWN, 3))
    before, after = (each.score(reading_of(ids), tokenizer.decode) for each in (trained, found))
    assert after == pytest.approx(before, rel=1e-3)
    given = json.loads(path.read_text(encoding="utf-8"))
    for broken in (
        {"terms": {"a": [1]}, "statistics": given["detector"]["statistics"], "bias": 0},
        {"terms": {}, "statistics": {}, "bias": 0},
        {"terms": {"a": ["x", 1]}, "statistics": given["detector"]["statistics"], "bias": 0},
        [],
    ):
        path.write_text(json.dumps(given | {"detector": broken}), encoding="utf-8")
        with pytest.raises(FormatError):
            Calibration.read(path)


def test_training_without_scikit_learn_names_the_extra(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"gpt2kit\[detect\]"):
        train(tokenizer, 198)


def test_too_few_texts_train_nothing(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="at least 198"):
        train(tokenizer, 197)
