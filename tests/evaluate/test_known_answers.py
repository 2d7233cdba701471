"""The comparison with known answers, on answers that were computed here and then spoilt."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2 import checkpoint, hub
from gpt2.cli import main as frame
from gpt2.config import PUBLISHED
from gpt2.errors import MismatchError
from gpt2.evaluate import known_answers as answers
from gpt2.language_model import LanguageModel
from gpt2.tokenizer import Tokenizer

IDS = [50256, 464, 3290, 318, 257, 922, 3290, 13]


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    with gpt2.load("gpt2-mini", weights="fp32") as model:
        yield model


@pytest.fixture(scope="module")
def true_answers(model: LanguageModel) -> list[dict[str, Any]]:
    """What this model answers, by the plain definition: logits and their logarithm."""
    logits = model.logits(IDS)
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logprobs -= logits.max(-1, keepdims=True)
    own = [float(logprobs[i, token]) for i, token in enumerate(IDS[1:])]
    ranks = [int((logits[i] > logits[i, token]).sum()) for i, token in enumerate(IDS[1:])]
    ids, token = list(IDS), 0
    for _ in range(6):
        token = int(model.logits(ids)[-1].argmax())
        ids.append(token)
    first = int(logits[-1].argmax())
    fixed = {"source": "here", "licence": "ours", "model": "gpt2"}
    return [
        fixed | {"kind": "greedy", "name": "g", "ids": IDS, "continuation": ids[len(IDS) :]},
        fixed
        | {"kind": "logit", "name": "l", "ids": IDS, "token": first, "value": float(logits[-1, first])}
        | {"tolerance": 5e-3},
        fixed | {"kind": "mean_nll", "name": "n", "rows": [IDS, IDS], "value": -float(np.mean(own)), "tolerance": 1e-3},
        fixed | {"kind": "probabilities", "name": "p", "ids": IDS, "values": np.exp(own).tolist(), "tolerance": 2e-3},
        fixed | {"kind": "among_best", "name": "b", "ids": IDS, "first": 1, "best": max(ranks) + 1},
    ]


def test_true_answers_pass(model: LanguageModel, true_answers: list[dict[str, Any]]) -> None:
    found = list(answers.check_answers(model, true_answers))
    assert [check.passed for check in found] == [True] * 5
    assert found[0].found == "all 6 tokens the same"
    assert {check.source for check in found} == {"here"}


SPOILT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "greedy": lambda a: {"continuation": [*a["continuation"][:-1], (a["continuation"][-1] + 1) % 50257]},
    "logit": lambda a: {"value": a["value"] + 0.006},
    "mean_nll": lambda a: {"value": a["value"] - 0.0011},
    "probabilities": lambda a: {"values": [*a["values"][:-1], a["values"][-1] + 0.0025]},
    "among_best": lambda a: {"best": a["best"] - 1},
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_answer_is_noticed(model: LanguageModel, true_answers: list[dict[str, Any]], kind: str) -> None:
    spoilt = [answer | (SPOILT[kind](answer) if answer["kind"] == kind else {}) for answer in true_answers]
    found = list(answers.check_answers(model, spoilt))
    assert [check.passed for check in found] == [answer["kind"] != kind for answer in spoilt]


def test_another_token_that_is_likelier_is_noticed(model: LanguageModel, true_answers: list[dict[str, Any]]) -> None:
    logit = next(answer for answer in true_answers if answer["kind"] == "logit")
    other = int(model.logits(IDS)[-1].argsort()[-2])
    spoilt = logit | {"token": other, "value": float(model.logits(IDS)[-1, other])}
    [check] = answers.check_answers(model, [spoilt])
    assert check.passed is False
    assert check.found.endswith(f", and {logit['token']} is likelier than {other}")


def test_of_rounded_weights_only_losses_are_compared(model: LanguageModel, true_answers: list[dict[str, Any]]) -> None:
    found = list(answers.check_answers(model, true_answers, rounded="fp16"))
    assert [check.passed for check in found] == [None, None, True, None, None]
    assert found[0].found == "not compared: the weights are rounded, to fp16"


def test_the_file_of_answers_is_sound() -> None:
    tokenizer = Tokenizer.published()
    raw = json.loads(Path(answers.__file__).with_name("known_answers.json").read_text(encoding="utf-8"))
    assert {answer["model"] for answer in raw} == set(PUBLISHED)
    for answer in raw:
        assert answer["source"] and answer["licence"]
        rows = answer["rows"] if answer["kind"] == "mean_nll" else [answer["ids"]]
        assert all(0 <= token < 50257 for row in rows for token in row)
        assert all(len(row) <= 1024 for row in rows)
        if answer["kind"] == "greedy":  # the name quotes the prompt
            prompt = tokenizer.decode(answer["ids"])
            assert answer["name"] == f"greedy, after {prompt!r}"
        if answer["kind"] == "probabilities":
            assert len(answer["values"]) == len(answer["ids"]) - 1


@pytest.mark.skipif("not __import__('os').environ.get('GPT2_DATA')", reason="GPT2_DATA is not set")
def test_the_answers_are_those_of_the_collection() -> None:
    import os

    folder = Path(os.environ["GPT2_DATA"]) / "expected"
    collected = json.loads((folder / "gpt2_expected.json").read_text(encoding="utf-8"))
    greedy = {
        tuple(case["prompt_ids"]): tuple(case.get("new_ids", case["expected_new_ids_by_retokenising"]))
        for case in collected
        if case["kind"] == "greedy"
    }
    for name in ("gpt2", "gpt2-medium"):
        for answer in answers.known_answers(name):
            if answer["kind"] == "greedy":
                expected = greedy[tuple(answer["ids"])]
                assert tuple(answer["continuation"]) == expected[: len(answer["continuation"])]
                assert len(answer["continuation"]) >= min(len(expected), 39)
    lines = (folder / "gpt2_124M_gltr_probabilities.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {tuple(text["ids"]): text["prob"] for text in map(json.loads, lines)}
    seen = [answer for answer in answers.known_answers("gpt2") if answer["kind"] == "probabilities"]
    assert len(seen) == 2
    for answer in seen:
        assert texts[tuple(answer["ids"])] == answer["values"]


def test_another_shape_is_not_compared(model: LanguageModel) -> None:
    with pytest.raises(MismatchError, match=r"This is not gpt2-xl: it has n_layer \d+ for 48, .*n_embd \d+ for 1600"):
        answers.check_shape(model, "gpt2-xl")


def test_weights_that_are_not_finite_are_named(tiny_weights: checkpoint.Weights, tmp_path: Path) -> None:
    arrays = {name: tiny_weights.float32(name).copy() for name in tiny_weights.names}
    arrays["h.1.mlp.c_fc.w"][3, 5] = np.inf
    checkpoint.write_folder(tmp_path / "m", arrays, tiny_weights.config, Tokenizer.published())
    with gpt2.load(tmp_path / "m") as model:
        finite, vocabulary, loss = answers.check_integrity(model)
    assert (finite.passed, finite.found) == (False, "not in h.1.mlp.c_fc.w")
    assert vocabulary.passed
    assert loss.passed is False


def test_verify_a_model_of_no_known_name(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["verify", str(tiny_folder), "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert (facts["passed"], facts["compared_with"]) == (True, None)
    assert [check["passed"] for check in facts["checks"]] == [
        True,
        True,
        None,
    ]  # random weights are no better than chance
    assert "No answers are known for a model of this name" in said.err
    assert frame.run(["verify", str(tiny_folder), "--as", "gpt2"]) == 1
    assert "This is not gpt2: it has n_layer 2 for 12, n_head 2 for 12, " in capsys.readouterr().err


def test_verify_names_a_damaged_file_in_one_line(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "mine")
    (folder / "downloaded.json").write_text(json.dumps({"sha256": {"config.json": "0" * 64}}), encoding="utf-8")
    assert frame.run(["verify", str(folder)]) == 1
    row = r"^FAILED  hash of config\.json +0{16}… +its SHA-256 is [0-9a-f]{16}…, not 0{16}…$"
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)


def test_verify_compares_a_published_name(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small model under a published name: all of its answers are wrong, and that is said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "gpt2" / "models" / "gpt2"
    shutil.copytree(tiny_folder, folder)
    monkeypatch.setitem(PUBLISHED, "gpt2", checkpoint.read(folder).config)
    short = [answer for answer in answers.known_answers("gpt2") if len(answer.get("ids", [0] * 99)) < 20][:3]
    monkeypatch.setattr(answers, "known_answers", lambda name: short)
    assert frame.run(["verify", "gpt2"]) == 1
    said = capsys.readouterr()
    assert "gpt2 is not as it should be: 3 of 6 checks failed, the first: greedy, after 'The dog'" in said.err
    assert len(re.findall(r"^FAILED  greedy", said.out, re.MULTILINE)) == 3


def test_verify_passes_where_another_program_gives_the_same_answers(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small model under a published name, and answers of every kind that transformers computed with its weights."""
    transformers = pytest.importorskip("transformers")
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(tiny_folder, tmp_path / "gpt2" / "models" / "gpt2")
    monkeypatch.setitem(PUBLISHED, "gpt2", checkpoint.read(tiny_folder).config)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval()
    ids = [1, 7, 30, 2, 9]
    with torch.inference_mode():
        logits = theirs(torch.tensor([ids])).logits[0]
        greedy = theirs.generate(
            torch.tensor([ids]), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    logprobs = logits.log_softmax(-1)[range(4), ids[1:]]
    ranks = [int((logits[i] > logits[i, ids[i + 1]]).sum()) for i in range(4)]
    fixed = {"source": "transformers", "licence": "ours", "model": "gpt2", "ids": ids}
    first = int(logits[-1].argmax())
    right = [
        fixed | {"kind": "greedy", "name": "g", "continuation": greedy[0, 5:].tolist()},
        fixed | {"kind": "logit", "name": "l", "token": first, "value": float(logits[-1, first]), "tolerance": 1e-4},
        fixed | {"kind": "mean_nll", "name": "n", "rows": [ids], "value": -float(logprobs.mean()), "tolerance": 1e-4},
        fixed | {"kind": "probabilities", "name": "p", "values": logprobs.exp().tolist(), "tolerance": 1e-4},
        fixed | {"kind": "among_best", "name": "b", "first": 1, "best": max(ranks) + 1},
    ]
    monkeypatch.setattr(answers, "known_answers", lambda name: right)
    assert frame.run(["verify", "gpt2"]) == 0
    said = capsys.readouterr()
    assert "gpt2 gives the known answers of the published gpt2: all 7 checks passed" in said.err
    right[2]["value"] += 0.01
    assert frame.run(["verify", "gpt2"]) == 1
    assert "1 of 8 checks failed, the first: n" in capsys.readouterr().err


def test_hashes_that_came_with_the_files(tiny_folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "r" / "blobs", tmp_path / "r" / "snapshots" / "rev"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in tiny_folder.iterdir():
        data = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        hash = hashlib.sha256(data).hexdigest() if file.suffix == ".safetensors" else git
        (blobs / hash).write_bytes(data)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", hash))
    found = list(hub.check_hashes(snapshot))
    assert sorted(file.name for file in found) == sorted(file.name for file in tiny_folder.iterdir())
    assert not any(file.fault for file in found)
    for name in ("model.safetensors", "vocab.json"):
        content = (snapshot / name).read_bytes()
        (snapshot / name).write_bytes(content[:-1] + b"?")
    assert sorted(file.name for file in hub.check_hashes(snapshot) if file.fault) == ["model.safetensors", "vocab.json"]
    assert list(hub.check_hashes(tiny_folder)) == []
