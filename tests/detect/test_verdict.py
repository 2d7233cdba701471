"""The calibrated verdict: error rates that hold, and every reason to say less."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2.detect import Calibration, Reading, beginnings_of, judge, normalise
from gpt2.detect.calibration import LENGTHS, calibrate
from gpt2.detect.verdict import _combined
from gpt2.detect.windows import holm, windows
from gpt2.errors import DataError, FormatError, GenerationError, MismatchError
from gpt2.tokenizer import Tokenizer

HUMAN, OWN, FOREIGN = -1.0, 0.5, -6.0  # the surprise of a token over its expectation, on average


def reading(draw: np.random.Generator, mean: float, n: int = 400) -> Reading:
    """A text whose tokens lie `mean` above what the model expects, with a standard deviation of 1."""
    own = 0.5 * draw.standard_normal()  # texts differ from each other
    return Reading(
        ids_T=np.zeros(n, np.int64),
        logprobs_T=-4 + mean + own + draw.standard_normal(n),
        ranks_T=np.ones(n, np.int64),
        entropies_T=np.full(n, 4.0),
        means_T=np.full(n, -4.0),
        variances_T=np.ones(n),
    )


def made(seed: int = 0, *, n_human: int = 300, own: float = OWN) -> Calibration:
    draw = np.random.default_rng(seed)
    return calibrate(
        (reading(draw, HUMAN) for _ in range(n_human)),
        {"top-k 40": (reading(draw, own) for _ in range(100))},
        model="tiny",
        fingerprint="f" * 64,
        made_from={"human": "drawn"},
    )


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return made()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


def verdict(tokenizer: Tokenizer, calibration: Calibration | None, means: list[float], *, n: int = 400, **rest):
    """The verdict on ` a` n times, whose parts come out with the given means in turn."""
    draw, turns = np.random.default_rng(5), iter(means)
    return judge(
        " a" * n,
        tokenizer=tokenizer,
        read=lambda ids: reading(draw, next(turns), len(ids)),
        calibration=calibration,
        **rest,
    )


def test_the_three_verdicts(tokenizer: Tokenizer, calibration: Calibration) -> None:
    assert verdict(tokenizer, calibration, [4.0]).verdict == "generated"
    assert verdict(tokenizer, calibration, [HUMAN]).verdict == "human"
    between = verdict(tokenizer, made(own=HUMAN), [HUMAN])
    assert between.verdict == "inconclusive"
    assert between.least_tokens is None
    assert "at any length" in between.reason


def test_the_false_positive_rate_holds() -> None:
    """Over fresh calibrations and fresh human texts; 2,000 at 5 %, the bound is four standard deviations off."""
    draw, wrong, rate = np.random.default_rng(1), 0, 0.05
    for seed in range(20):
        calibration = made(seed + 10, n_human=100)
        for _ in range(100):
            score = reading(draw, HUMAN)
            wrong += calibration.p_human(400, float((score.logprobs_T + 4).sum() / 20)) <= rate
    assert wrong <= 2000 * rate + 4 * (2000 * rate * (1 - rate)) ** 0.5
    assert wrong > 0


def test_the_false_positive_rate_holds_for_long_texts_and_for_their_parts(tokenizer: Tokenizer) -> None:
    """Three windows and the beginning, fresh calibrations; 500 at 20 %, the bound is four standard deviations off."""
    draw, n_called, n_marked, rate = np.random.default_rng(1), 0, 0, 0.2
    text = " a" * 600
    for seed in range(10):
        calibration = made(seed + 10, n_human=100)
        for _ in range(50):
            long = reading(draw, HUMAN, 600)
            spans = iter([long.first(200), *(reading(draw, HUMAN, 200) for _ in range(2)), long.first(400)])
            found = judge(
                text,
                tokenizer=tokenizer,
                read=lambda ids, spans=spans: next(spans),
                calibration=calibration,
                false_positive_rate=rate,
            )
            n_called += found.verdict == "generated"
            n_marked += any(part.verdict == "generated" for part in found.parts)
            assert found.verdict == "generated" or not any(part.verdict == "generated" for part in found.parts)
    most = 500 * rate + 4 * (500 * rate * (1 - rate)) ** 0.5
    assert 0 < n_marked <= most / 2
    assert n_marked <= n_called <= most


def test_text_unlike_the_calibrations_gets_no_verdict(tokenizer: Tokenizer, calibration: Calibration) -> None:
    found = verdict(tokenizer, calibration, [FOREIGN])
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "another language, source code" in found.reason


def test_short_text(tokenizer: Tokenizer, calibration: Calibration) -> None:
    found = verdict(tokenizer, calibration, [OWN], n=24)
    assert found.verdict == "inconclusive"
    assert "24 tokens are too few" in found.reason


def test_a_rate_the_calibration_is_too_small_for(tokenizer: Tokenizer, calibration: Calibration) -> None:
    found = verdict(tokenizer, calibration, [4.0], false_positive_rate=0.001)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "only 300 texts" in found.reason


def test_mixed_authorship_is_marked(tokenizer: Tokenizer) -> None:
    calibration = made(n_human=999)
    found = verdict(tokenizer, calibration, [HUMAN, 4.0, HUMAN, HUMAN], n=600)  # three windows, and the beginning
    assert found.verdict == "generated"
    assert [part.verdict for part in found.parts] == ["human", "generated", "human"]
    assert [(part.start, part.end) for part in found.parts] == [(0, 400), (400, 800), (800, 1200)]
    assert "1 of 3 parts" in found.reason


def test_a_long_text_is_told_by_its_beginning_where_the_human_texts_are_few(tokenizer: Tokenizer) -> None:
    calibration = made(n_human=200)
    found = verdict(tokenizer, calibration, [4.0] * 6, n=1000)
    assert [part.verdict for part in found.parts] == ["inconclusive"] * 5  # 200 are too few for five windows at 1 %
    assert (found.verdict, found.p_value) == ("generated", pytest.approx(1.5 / 201))
    assert verdict(tokenizer, calibration, [4.0] * 5 + [HUMAN], n=1000).verdict == "inconclusive"


def test_without_a_calibration_there_is_no_verdict(tokenizer: Tokenizer) -> None:
    found = verdict(tokenizer, None, [OWN])
    assert (found.verdict, found.p_value) == ("uncalibrated", None)
    assert "--calibrate" in found.reason
    assert found.parts[0].statistics["mean_logprob"] == pytest.approx(-3.5, abs=1.5)


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (" \n", {}, "the text is empty"),
        ("a", {"false_positive_rate": 0.5}, "between 0 and 0.5"),
        ("a", {"window": 24}, "at least 25"),
    ],
)
def test_what_cannot_be_judged(tokenizer: Tokenizer, text: str, settings: dict[str, float], expected: str) -> None:
    with pytest.raises(GenerationError, match=expected):
        judge(text, tokenizer=tokenizer, read=lambda ids: pytest.fail("read"), calibration=None, **settings)


def test_a_calibration_comes_back_from_its_file(calibration: Calibration, tmp_path: Path) -> None:
    calibration.write(tmp_path / "c.json")
    found = Calibration.read(tmp_path / "c.json")
    assert (found.model, found.fingerprint, dict(found.made_from)) == ("tiny", "f" * 64, {"human": "drawn"})
    for length in LENGTHS:
        np.testing.assert_allclose(found.human[length], calibration.human[length], atol=1e-4)
        np.testing.assert_allclose(found.familiar[length], calibration.familiar[length], atol=1e-4)
        np.testing.assert_allclose(
            found.generated["top-k 40"][length], calibration.generated["top-k 40"][length], atol=1e-4
        )


@pytest.mark.parametrize("text", ["{}", "[]", '{"kind": "gpt2 detect calibration", "version": 2}', "no"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError):
        Calibration.read(tmp_path / "c.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.update(kind="another"),
        lambda found: found.update(version=found["version"] + 1),
        lambda found: found.update(generated={}),
        lambda found: found["human"].popitem(),
        lambda found: found["generated"]["top-k 40"].popitem(),
        lambda found: next(iter(found["human"].values())).clear(),
        lambda found: next(iter(found["familiar"].values())).append(float("nan")),
        lambda found: next(iter(found["human"].values())).append("no number"),
    ],
)
def test_a_calibration_that_is_not_whole_is_refused(
    calibration: Calibration, tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    calibration.write(tmp_path / "c.json")
    found = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    spoil(found)
    (tmp_path / "c.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(FormatError):
        Calibration.read(tmp_path / "c.json")


def test_another_model_is_refused(calibration: Calibration) -> None:
    calibration.check("f" * 64, "tiny")
    with pytest.raises(MismatchError, match="--calibrate"):
        calibration.check("e" * 64, "other")


def test_too_few_texts_make_no_calibration() -> None:
    with pytest.raises(DataError, match="at least 99"):
        made(n_human=98)


def test_p_values_of_several_parts() -> None:
    assert _combined([0.3]) == 0.3
    assert _combined([0.001, 0.9, 0.9]) == pytest.approx(0.003)
    assert _combined([0.001, 0.9, 0.9], 0.4) == pytest.approx(0.009)
    assert _combined([0.1] * 10, 0.003) == pytest.approx(0.0045)
    assert _combined([0.9] * 10, 0.9) == 1.0
    assert holm([0.02, 0.001, 0.004], 0.01) == [False, True, True]
    assert windows(650, 200) == [(0, 200), (200, 400), (400, 650)]
    assert windows(410, 400) == [(0, 410)]


def test_look_alikes_are_put_back() -> None:
    assert normalise("The c\u0430t s\u200bat on t\u04bbe m\u0430t") == ("The cat sat on the mat", 4)
    assert normalise("ｃａｔ") == ("cat", 3)
    assert normalise("\u0430 \u0441\u0430t, \u0441\u043e\u0440, o\u0261re\u00a0and\u2009more") == (
        "a cat, cop, ogre and more",
        9,
    )
    for kept in ("Собака лает", "сор: Собака", "Ελλάδα", "naïve café — “so” … ½", "日本語", "x²"):
        assert normalise(kept) == (kept, 0)


def test_the_beginning_of_a_text(tokenizer: Tokenizer) -> None:
    texts = ["too short", " word" * 300, " word" * 400 + " end" * 5000]
    assert [len(ids) for ids in beginnings_of(texts, tokenizer)] == [300, 400]
    assert len(set(list(beginnings_of(texts, tokenizer))[1][1:])) == 1


def test_the_shipped_calibration_is_of_the_shipped_weights() -> None:
    """Made anew with them: `python benchmarks/calibration.py`."""
    with gpt2.load("gpt2-mini") as model:
        shipped = model.calibration()
        if shipped is None:
            pytest.skip("gpt2-mini ships no calibration now")
        shipped.check(model.fingerprint(), model.name)
        path = model.checkpoint.folder / "calibration.json"
    assert path.stat().st_size < 100_000
    assert min(len(scores) for scores in shipped.human.values()) >= 99
    for own in shipped.generated.values():  # or "human" could not be said at 1 %
        assert min(len(scores) for scores in own.values()) >= 99
    assert sum(shipped.made_from["sources"].values()) == sum(shipped.made_from["licences"].values())
    assert not any("TinyStories" in licence for licence in shipped.made_from["licences"])
    with pytest.raises(MismatchError, match="--calibrate"):
        shipped.check("0" * 64, "another")


def test_a_calibration_shows_itself_without_its_thousands_of_numbers(calibration: Calibration) -> None:
    assert len(repr(calibration)) < 1000
