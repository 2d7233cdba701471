"""`gpt2 models`: the table and the JSON."""

import json
from pathlib import Path

import pytest

from gpt2.cli import main as frame
from gpt2.hub import places


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "EMBEDDED_FOLDER", tmp_path / "package")
    return tmp_path


@pytest.fixture
def medium(caches: Path) -> Path:
    folder = caches / "cache" / "gpt2" / "models" / "gpt2-medium"
    folder.mkdir(parents=True)
    config = {"model_type": "gpt2", "n_layer": 24, "n_head": 16, "n_embd": 1024}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(1_500_000))
    return folder


def test_a_table_for_people(medium: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["models"]) == 0
    shown = capsys.readouterr()
    heading, row = shown.out.splitlines()
    assert heading.split() == ["NAME", "PARAMETERS", "MB", "FROM", "PATH"]
    assert row.split() == ["gpt2-medium", "354,823,168", "1.5", "gpt2", "cache", str(medium)]
    assert shown.err == "published, and not here: gpt2, gpt2-large, gpt2-xl\n"


def test_json_for_programs(medium: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["models", "--json"]) == 0
    [model] = json.loads(capsys.readouterr().out)
    size = sum(file.stat().st_size for file in medium.iterdir())
    assert model == {
        "name": "gpt2-medium",
        "path": str(medium),
        "parameters": 354_823_168,
        "bytes": size,
        "origin": "gpt2 cache",
    }


def test_nothing_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["models"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "published, and not here: gpt2, gpt2-medium, gpt2-large, gpt2-xl" in shown.err
    assert frame.run(["models", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == []
