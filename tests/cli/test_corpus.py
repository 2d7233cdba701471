"""`gpt2 corpus build|stats|show` as typed."""

import json
from pathlib import Path

import pytest

pytest.importorskip("pycld2", reason="needs the extra corpus")

TEXT = "It was a bright cold day in April, and the clocks were striking. He went up the stairs slowly, and rested. "


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = [json.dumps({"text": f"Number {n}. {TEXT * 3}" if n < 3 else "short"}) for n in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "a.jsonl"


def test_build_look_and_show(gpt2, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = gpt2("corpus", "build", str(source), "--out", str(out), "--no-near", "--workers", "1", "--licence", "CC0-1.0")
    assert (ran.code, ran.out.split(",")[0]) == (0, f"{out}: 3 documents")
    assert ran.out.splitlines()[1] == f"length dropped most, 1 of 4: gpt2 corpus show length {out}"
    assert (out / "report.html").is_file()

    ran = gpt2("corpus", "stats", str(out))
    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == ["step", "documents", "tokens,", "about", "bytes", "dropped"]
    assert [ran.out.splitlines()[2].split()[at] for at in (0, 1, 4)] == ["length", "4", "1"]
    tables = ["step", "reason", "sources", "licences", "languages", "characters"]  # neither hosts nor duplicates
    assert [table.split()[0] for table in ran.out.split("\n\n")] == tables
    assert json.loads(gpt2("corpus", "stats", str(out), "--json").out)["contents"]["licences"]["CC0-1.0"][0] == 3

    ran = gpt2("corpus", "show", "length", str(out))
    assert ran.out == "--- a: a.jsonl, line 4\n    5 characters. 5 < 200 characters\nshort\n\n"
    ran = gpt2("corpus", "show", "lenght", str(out))
    assert (ran.code, ran.out) == (1, "")
    assert "Did you mean 'length'?" in ran.err


def test_options_over_the_file(gpt2, source: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'min_characters = 3\nseed = 4\n[[source]]\npath = "{source}"\n', encoding="utf-8")
    ran = gpt2("corpus", "build", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "o"), "--seed", "5")
    assert ran.code == 0
    config = json.loads((tmp_path / "o" / "stats.json").read_text(encoding="utf-8"))["config"]
    assert (config["min_characters"], config["seed"]) == (3, 5)
    ran = gpt2("corpus", "build", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "o"))
    assert ran.code == 1
    assert "seed was 5 and is now 4" in ran.err


def test_rules_that_are_named_are_for_every_source(gpt2, source: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[words]\nmin_words = 1000\n", encoding="utf-8")
    build = ("corpus", "build", str(source), "--workers", "1", "--rules", str(tmp_path / "r.toml"))
    ran = gpt2(*build, "--out", str(tmp_path / "o"), "--json")
    assert (ran.code, json.loads(ran.out)["documents"]) == (1, 0)
    assert "The corpus is empty: no document was kept." in ran.err
    assert "Number 0" in gpt2("corpus", "show", "r.min_words", str(tmp_path / "o")).out
    (tmp_path / "r.toml").write_text("[words]\nmin_wrods = 1000\n", encoding="utf-8")
    ran = gpt2(*build, "--out", str(tmp_path / "p"))
    assert ran.code == 2
    assert "unknown rule 'min_wrods'. Did you mean 'min_words'?" in ran.err


def test_how_pages_are_fetched(gpt2, tmp_path: Path) -> None:
    (tmp_path / "a.urls").write_text("ftp://a.example/\n", encoding="utf-8")
    build = ("corpus", "build", str(tmp_path / "a.urls"), "--workers", "1", "--fetch-cache", str(tmp_path / "cache"))
    ran = gpt2(*build, "--out", str(tmp_path / "o"), "--fetch-delay", "3", "--fetch-agent", "me", "--json")
    assert ran.code == 1  # nothing is in it
    assert "address 1, ftp://a.example/: only http and https are fetched, not ftp" in ran.err
    config = json.loads((tmp_path / "o" / "stats.json").read_text(encoding="utf-8"))["config"]
    assert (config["fetch"]["delay_seconds"], config["fetch"]["agent"], config["fetch"]["tries"]) == (3.0, "me", 3)
    ran = gpt2(*build, "--out", str(tmp_path / "o"), "--fetch-bytes", "0")
    assert ran.code == 2
    assert "max_bytes of fetching must lie between 1 and 67,108,864: got 0" in ran.err


def test_nothing_to_build_from(gpt2, tmp_path: Path) -> None:
    ran = gpt2("corpus", "build", "--out", str(tmp_path / "o"))
    assert (ran.code, ran.out) == (2, "")
    assert "no source was named" in ran.err
