"""`gpt2 overlap`: what it prints."""

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "train.txt").write_text("It was a bright cold day in April, and the clocks.", encoding="utf-8")
    (tmp_path / "test.txt").write_text("a bright, cold day in april and the END of it", encoding="utf-8")
    return str(tmp_path / "train.txt"), str(tmp_path / "test.txt")


def test_a_table(gpt2: Run, files: tuple[str, str]) -> None:
    ran = gpt2("overlap", *files, "--show", "1")
    assert ran.code == 0
    heading, row, _, example = ran.out.splitlines()
    assert heading.split() == ["test", "set", "examples", "8-grams", "found", "%", "examples", "touched"]
    assert row.split() == [files[1], "1", "4", "1", "25.00", "1"]
    assert example.endswith("example 1: 1 of 4, first: a bright cold day in april and the")


def test_json(gpt2: Run, files: tuple[str, str]) -> None:
    ran = gpt2("overlap", *files, "--json", "--n", "3", "--confirm", "--workers", "1")
    told = json.loads(ran.out)
    assert told["n"] == 3
    assert (told["tests"][0]["found"], told["tests"][0]["ngrams"], told["tests"][0]["percent"]) == (6, 9, 600 / 9)


def test_what_is_not_there(gpt2: Run, files: tuple[str, str]) -> None:
    ran = gpt2("overlap", files[0], "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "nowhere cannot be read" in ran.err


@pytest.mark.parametrize("verb", ["overlap", "prepare"])
def test_a_field_of_plain_text_is_said_to_mean_nothing(gpt2: Run, files: tuple[str, str], verb: str) -> None:
    given = (verb, files[0], *(("--out", f"{files[0]}-shards") if verb == "prepare" else files[1:]), "--workers", "1")
    assert "--field" not in gpt2(*given).err
    ran = gpt2(*given, "--field", "txet")
    assert f"warning: --field has no effect: {files[0]} is read as plain text" in ran.err
