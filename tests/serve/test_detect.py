"""`/v1/detect` says what the detect room says, and refuses by name what cannot be judged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.detect import Calibration, read
from gpt2.detect.calibration import LENGTHS
from gpt2.errors import FormatError
from gpt2.language_model import LanguageModel, load
from gpt2.serve import Limits, ServedModel

TEXT = "The cat sat on the mat, étoile 😀, and the dog was \u0430sleep. " * 12


def post(server: Any, **body: Any) -> tuple[int, Any]:
    status, _, answer = server.request("POST", "/v1/detect", body)
    return status, answer


def test_it_says_what_the_model_itself_says(tiny: Any, tiny_model: LanguageModel) -> None:
    status, found = post(tiny, text=TEXT, window=60)
    expected = tiny_model.detect(TEXT, window=60)
    assert status == 200
    assert (found["object"], found["verdict"], found["calibration"]) == ("detection", "uncalibrated", None)
    assert (found["reason"], found["n_tokens"], found["n_normalised"]) == (expected.reason, expected.n_tokens, 12)
    assert len(found["parts"]) == len(expected.parts) > 1
    for part, other in zip(found["parts"], expected.parts, strict=True):
        assert (part["start"], part["end"], tuple(part["histogram"])) == (other.start, other.end, other.histogram)
        assert part["statistics"] == pytest.approx(other.statistics, abs=1e-4)
    assert found["text"] == TEXT.replace("\u0430", "a")
    assert found["byte_ends"][-1] == len(found["text"].encode())
    assert len(found["ranks"]) == len(found["token_logprobs"]) == len(found["token_ids"]) == found["n_tokens"]
    first = read(tiny_model.backend, tiny_model.tokenizer, found["token_ids"][: found["parts"][0]["n_tokens"]])
    assert found["ranks"][: len(first)] == first.ranks_T.tolist()
    assert {int(token) for token in found["pieces"]} == set(found["token_ids"])


def test_with_a_calibration_there_is_a_verdict_and_another_models_is_refused(
    running: Any, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("sound", "other"):
        shutil.copytree(tiny_folder, tmp_path / name)
    model = load(tmp_path / "sound", backend="reference")
    scores = {length: np.linspace(-400, -300, 999) for length in LENGTHS}
    made = {"model": "tiny", "made_from": {"human": "letters"}, "human": scores, "familiar": scores}
    made["generated"] = {"top-k 40": scores}
    Calibration(fingerprint=model.fingerprint(), **made).write(tmp_path / "sound" / "calibration.json")
    Calibration(fingerprint="0" * 64, **made).write(tmp_path / "other" / "calibration.json")
    server = running(model, name="tiny")
    try:
        status, found = post(server, text=TEXT)
        assert (status, found["verdict"], found["p_value"]) == (200, "generated", 0.001)
        assert found["calibration"] == {"human": "letters", "human_texts": 999, "least_tokens": 25}
        long = post(server, text=TEXT * 2)[1]
        assert len(long["parts"]) > 1
        assert len(long["ranks"]) == len(long["entropies"]) == len(long["token_ids"]) == long["n_tokens"] > max(LENGTHS)
        assert "The cat sat" not in str(server.request("GET", "/metrics"))
    finally:
        server.stop()
    server = running(load(tmp_path / "other", backend="reference"), name="tiny")
    try:
        status, found = post(server, text=TEXT)
        assert status == 500 and "fault of the server" in found["error"]["message"]
        assert "--calibrate" in caplog.text
    finally:
        server.stop()
    (tmp_path / "other" / "calibration.json").write_text("{}", encoding="utf-8")
    with load(tmp_path / "other", backend="reference") as model, pytest.raises(FormatError, match="not a calibration"):
        ServedModel(model, name="tiny")  # known at the start


@pytest.mark.parametrize(
    ("body", "param", "expected"),
    [
        ({}, "text", "text is missing"),
        ({"text": " \n"}, "text", "25 tokens"),
        ({"text": 5}, "text", "cannot be used"),
        ({"text": TEXT, "false_positive_rate": 0.5}, "false_positive_rate", "less than 0.5"),
        ({"text": TEXT, "false_positive_rate": 0}, "false_positive_rate", "greater than 0"),
        ({"text": TEXT, "window": 24}, "window", "25"),
    ],
)
def test_what_cannot_be_judged(tiny: Any, body: dict[str, Any], param: str, expected: str) -> None:
    status, answer = post(tiny, **body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert expected in answer["error"]["message"]


def test_too_long_a_text_is_refused_by_the_limit(tiny_folder: Path, serve: Any) -> None:
    server = serve(limits=Limits(score_tokens=30))
    status, answer = post(server, text=TEXT)
    assert status == 400
    assert answer["error"]["code"] == "score_tokens"
    assert "30" in answer["error"]["message"]
