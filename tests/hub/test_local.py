"""Names and paths to models, in caches made for the test. Nothing here touches the user's own."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2 import hub
from gpt2.errors import ModelNotFoundError
from gpt2.hub import places

TINY: dict[str, Any] = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 3, "vocab_size": 5}
TINY_PARAMETERS = (5 + 3) * 2 + (4 + 12 + 6 + 4 + 2 + 4 + 16 + 8 + 16 + 2) + 4


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, an empty package folder and an empty working folder."""
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "EMBEDDED_FOLDER", tmp_path / "package")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def put(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TINY | changes), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


def put_in_hub_cache(cache: Path, hub_id: str, revision: str = "0a1b2c", **changes: Any) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    return put(repository / "snapshots" / revision, **changes)


def test_the_embedded_model_is_found_by_name(elsewhere: Path) -> None:
    folder = put(elsewhere / "package" / "gpt2-mini")
    assert hub.locate("gpt2-mini") == folder


def test_a_name_goes_before_a_path_of_the_same_spelling(elsewhere: Path) -> None:
    put(elsewhere / "work" / "gpt2-mini")
    assert hub.locate("gpt2-mini") == Path("gpt2-mini")
    folder = put(elsewhere / "package" / "gpt2-mini")
    assert hub.locate("gpt2-mini") == folder
    assert hub.locate("./gpt2-mini") == Path("gpt2-mini")


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
@pytest.mark.parametrize("hub_id", ["gpt2", "openai-community/gpt2"])
def test_a_published_model_is_found_in_hugging_faces_cache(elsewhere: Path, name: str, hub_id: str) -> None:
    folder = put_in_hub_cache(elsewhere / "cache" / "huggingface" / "hub", hub_id)
    assert hub.locate(name) == folder


def test_our_cache_goes_before_hugging_faces(elsewhere: Path) -> None:
    put_in_hub_cache(elsewhere / "cache" / "huggingface" / "hub", "openai-community/gpt2-xl")
    folder = put(elsewhere / "cache" / "gpt2" / "models" / "gpt2-xl")
    assert hub.locate("gpt2-xl") == hub.locate("openai-community/gpt2-xl") == folder


def test_paths_of_folders_and_files(elsewhere: Path) -> None:
    folder = put(elsewhere / "work" / "mine")
    assert hub.locate("mine") == Path("mine")
    assert hub.locate(folder) == folder
    assert hub.locate(folder / "model.safetensors") == folder / "model.safetensors"


def test_a_path_goes_before_a_hub_id_of_the_same_spelling(elsewhere: Path) -> None:
    cached = put_in_hub_cache(elsewhere / "cache" / "huggingface" / "hub", "org/name")
    assert hub.locate("org/name") == cached
    put(elsewhere / "work" / "org" / "name")
    assert hub.locate("org/name") == Path("org/name")


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")]
)
def test_the_variables_of_hugging_face_are_obeyed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    monkeypatch.setenv(variable, str(elsewhere / "other"))
    folder = put_in_hub_cache(elsewhere / "other" / below, "org/name")
    assert hub.locate("org/name") == folder


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_without_variables_the_platform_says_where(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    below = {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}[platform]
    assert hub.cache_folder() == Path.home() / below / "gpt2"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/cache")  # its specification: to be ignored
    assert hub.cache_folder() == Path.home() / below / "gpt2"


def test_a_user_without_a_home_has_the_root_as_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert hub.cache_folder().is_relative_to("/") and hub.cache_folder().name == "gpt2"
    assert hub.huggingface_cache() == Path("/.cache/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~nobody-has-this-name/here")
    assert hub.huggingface_cache() == Path("~nobody-has-this-name/here/hub")


def test_only_the_main_revision_is_taken(elsewhere: Path) -> None:
    cache = elsewhere / "cache" / "huggingface" / "hub"
    folder = put_in_hub_cache(cache, "org/name", "new")
    put(folder.parent / "old")
    assert hub.locate("org/name") == folder


@pytest.mark.parametrize("revision", ["../../../../work/mine", "..", "", "a/b", "x" * 200, "\0", "absent"])
def test_a_damaged_reference_leads_nowhere(elsewhere: Path, revision: str) -> None:
    put(elsewhere / "work" / "mine")
    folder = put_in_hub_cache(elsewhere / "cache" / "huggingface" / "hub", "org/name")
    (folder.parent.parent / "refs" / "main").write_text(revision, encoding="utf-8")
    with pytest.raises(ModelNotFoundError):
        hub.locate("org/name")
    assert hub.local_models() == []


def test_half_a_download_is_no_model(elsewhere: Path) -> None:
    folder = put_in_hub_cache(elsewhere / "cache" / "huggingface" / "hub", "org/name")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError):
        hub.locate("org/name")
    assert hub.local_models() == []


def test_an_unknown_model_lists_what_is_here_and_what_is_published(elsewhere: Path) -> None:
    put(elsewhere / "package" / "gpt2-mini")
    put_in_hub_cache(elsewhere / "cache" / "huggingface" / "hub", "org/name")
    with pytest.raises(ModelNotFoundError) as caught:
        hub.locate("gpt3")
    message = str(caught.value)
    assert "no model 'gpt3'" in message
    assert "Models here: gpt2-mini, org/name." in message
    assert "gpt2 (124M), gpt2-medium (355M), gpt2-large (774M), gpt2-xl (1558M)" in message


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "../absent", "org/../name", "a/b/c", "~", "\ud800", "gpt2"])
def test_no_name_breaks_the_search(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        hub.locate(name)


def test_the_list_has_every_place_and_only_gpt2(elsewhere: Path) -> None:
    cache = elsewhere / "cache" / "huggingface" / "hub"
    embedded = put(elsewhere / "package" / "gpt2-mini")
    ours = put(elsewhere / "cache" / "gpt2" / "models" / "org--mine", n_head=3)
    theirs = put_in_hub_cache(cache, "org/na--me")
    put_in_hub_cache(cache, "org/bert", model_type="bert")
    (put_in_hub_cache(cache, "org/broken") / "config.json").write_text("{", encoding="utf-8")
    (cache / "datasets--org--text").mkdir()
    (cache / "version.txt").write_text("1", encoding="utf-8")
    size = sum(file.stat().st_size for file in embedded.iterdir())
    assert [(m.name, m.path, m.parameters, m.origin) for m in hub.local_models()] == [
        ("gpt2-mini", embedded, TINY_PARAMETERS, "package"),
        ("org/mine", ours, None, "gpt2 cache"),  # its heads do not divide its width
        ("org/na--me", theirs, TINY_PARAMETERS, "hugging face cache"),
    ]
    assert hub.local_models()[0].bytes == size
    for model in hub.local_models():
        assert hub.locate(model.name) == model.path
