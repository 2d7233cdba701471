"""What no file, host or name can be is answered in words, with the exit code of a failure."""

from pathlib import Path

import pytest
from tests.cli.conftest import Run

HALF = "\udcff"  # what Python makes of a byte of the command line that is not UTF-8


def test_a_licence_that_is_not_utf8(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("corpus", "build", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--licence", HALF)
    assert (ran.code, ran.out) == (1, "")
    assert "text.txt cannot be said to be" in ran.err and "is not UTF-8" in ran.err


@pytest.mark.parametrize("option", ["--field", "--split-on"])
def test_a_field_or_separator_that_is_not_utf8(gpt2: Run, tmp_path: Path, option: str) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("prepare", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), option, HALF)
    assert (ran.code, ran.out) == (1, "")
    assert "No text can be read by" in ran.err and "is not UTF-8" in ran.err


@pytest.mark.parametrize("verb", [("prepare",), ("overlap", "b.txt"), ("corpus", "build")])
def test_more_processes_than_a_machine_can_have(gpt2: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    out = () if verb[0] == "overlap" else ("--out", str(tmp_path / "out"))
    ran = gpt2(*verb, "a.txt", *out, "--workers", "9" * 20)
    assert (ran.code, ran.out) == (2, "")
    assert "1<=x<=256" in ran.err


def test_ngrams_longer_than_any_text(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("overlap", str(tmp_path / "text.txt"), str(tmp_path / "text.txt"), "--n", "9" * 23, "--workers", "1")
    assert (ran.code, ran.out) == (1, "")
    assert "error: " in ran.err and "a fault in gpt2" not in ran.err


def test_a_host_that_no_name_can_be(gpt2: Run) -> None:
    pytest.importorskip("starlette")
    ran = gpt2("serve", "--host", HALF, "--port", "0")
    assert (ran.code, ran.out) == (1, "")
    assert "cannot listen on" in ran.err


def test_keys_that_are_no_text(gpt2: Run, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    (tmp_path / "keys").write_bytes(b"sixteen letters or more\n\xff")
    ran = gpt2("serve", "--api-keys", str(tmp_path / "keys"), "--port", "0")
    assert (ran.code, ran.out) == (1, "")
    assert "keys: byte 24 is not UTF-8" in ran.err
