"""`gpt2 models`: the table and the JSON."""

import json
import shutil
import time
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
    assert heading.split() == ["NAME", "PARAMETERS", "MB", "FORM", "LAST", "READ", "FROM", "PATH"]
    day = time.strftime("%Y-%m-%d", time.localtime((medium / "model.safetensors").stat().st_atime))
    assert row.split() == ["gpt2-medium", "354,823,168", "1.5", "unreadable", day, "gpt2", "cache", str(medium)]
    assert shown.err == "published, but not here: gpt2, gpt2-large, gpt2-xl; `gpt2 download NAME` downloads one\n"


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
        "form": "unreadable",
        "used": (medium / "model.safetensors").stat().st_atime,
    }


def test_the_precision_of_sound_weights(caches: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_folder, caches / "cache" / "gpt2" / "models" / "org--tiny")
    assert frame.run(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["form"] == "fp32"


def test_removing_asks_first(medium: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert frame.run(["models", "--remove", "gpt2-medium"]) == 2
    assert f"give --yes to delete {medium}" in capsys.readouterr().err
    assert medium.is_dir()
    assert frame.run(["models", "--remove", "gpt2-medium", "--yes"]) == 0
    assert capsys.readouterr().err == "removed gpt2-medium and freed 1.5 MB\n"
    assert not medium.exists()
    assert frame.run(["models", "--remove", "gpt2-medium", "--yes"]) == 1
    assert frame.run(["models", "--remove", "../..", "--yes"]) == 1


def test_removing_for_programs(medium: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(file.stat().st_size for file in medium.iterdir())
    assert frame.run(["models", "--remove", "gpt2-medium", "--yes", "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)
    assert removed == {"name": "gpt2-medium", "removed": [str(medium)], "freed_bytes": size}


def test_a_folder_of_the_user_s_own_is_not_removed(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["models", "--remove", str(tiny_folder), "--yes"]) == 1
    assert "is not in a cache, and nothing else is removed" in capsys.readouterr().err
    assert tiny_folder.is_dir()


def test_nothing_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["models"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "published, but not here: gpt2, gpt2-medium, gpt2-large, gpt2-xl" in shown.err
    assert frame.run(["models", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == []
