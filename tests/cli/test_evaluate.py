"""`gpt2 evaluate`: the table, JSON, and every way to be told that it cannot be."""

import json
import os
from pathlib import Path

import pytest


@pytest.fixture
def evaluate(gpt2, tiny_folder: Path):
    def run(*arguments: str):
        return gpt2("evaluate", *arguments, "--model", str(tiny_folder), "--backend", "reference", "--no-cache")

    return run


def test_what_there_is(evaluate) -> None:
    listed = evaluate("--list").out
    assert "lambada: LAMBADA" in listed
    assert "--set wikitext2.detokenize=yes|no" in listed
    assert evaluate("ptb", "--list").out in listed


@pytest.mark.skipif("GPT2_DATA" not in os.environ, reason="GPT2_DATA is not set")
def test_the_table_and_json(evaluate, tmp_path: Path) -> None:
    data = os.environ["GPT2_DATA"]
    file = tmp_path / "figures.json"
    ran = evaluate("wsc273", "ptb", "--data", data, "--limit", "2", "--set", "ptb.newlines=ignored", "--out", str(file))
    assert ran.code == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["benchmark", "figure", "here", "124M", "355M", "774M", "1.5B"]
    assert any(line[-4:] == ["65.85", "47.33", "40.31", "35.76"] for line in lines)
    assert "the first 2 examples only" in ran.err
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["benchmarks"]["ptb"]["choices"] == {"detokenize": "yes", "newlines": "ignored"}
    assert report["settings"] == {"stride": 32, "limit": 2}
    printed = json.loads(evaluate("wsc273", "--data", data, "--limit", "2", "--json").out)
    assert printed["benchmarks"]["wsc273"]["figures"] == report["benchmarks"]["wsc273"]["figures"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lambda",), 1, "Did you mean lambada?"),
        (("lambada",), 2, "Give --data DIR"),
        (("lambada", "--data", "nowhere"), 1, "lambada_test.jsonl is missing"),
        (("lambada", "--set", "text=openai"), 2, "must look like"),
        (("lambada", "--set", "ptb.newlines=ignored"), 2, "'ptb' is not among what is run"),
    ],
)
def test_what_cannot_be_run(
    evaluate, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.delenv("GPT2_DATA", raising=False)
    ran = evaluate(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
