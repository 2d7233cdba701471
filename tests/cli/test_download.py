"""`gpt2 download`, and --download: what is said, and that nothing is fetched unasked. The transfers are tests/hub's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2 import hub
from gpt2.hub import fetching
from gpt2.hub.transfer import RemoteFile

from .conftest import Run


@pytest.fixture
def plan(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> hub.Plan:
    """A plan without a server; carrying it out copies a small model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    files = (RemoteFile(name="model.safetensors", url="https://there/model.safetensors", bytes=3_000_000),)
    plan = hub.Plan(
        name="org/tiny",
        source="huggingface",
        server="https://there",
        place=tmp_path / "cache" / "tiny",
        files=files,
        present_bytes=1_000_000,
        total_bytes=3_000_000,
        free_bytes=5_000_000_000,
    )

    def download(plan: hub.Plan, *, progress: Callable[[int], None]) -> Path:
        progress(3_000_000)
        return tiny_folder

    monkeypatch.setattr(fetching, "plan", lambda name, **settings: plan)
    monkeypatch.setattr(fetching, "download", download)
    return plan


def test_it_says_what_will_be_done_and_what_can_be_done_then(gpt2: Run, plan: hub.Plan) -> None:
    ran = gpt2("download", "org/tiny")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [
        f"org/tiny from https://there: 3.0 MB, 1.0 MB of it already here; to {plan.place}, with 5,000.0 MB free",
        "org/tiny is here; all lengths and hashes match: `gpt2 generate --model org/tiny`",
    ]


def test_json(gpt2: Run, plan: hub.Plan, tiny_folder: Path) -> None:
    ran = gpt2("download", "org/tiny", "--json", "--quiet")
    assert json.loads(ran.out) == {
        "name": "org/tiny",
        "path": str(tiny_folder),
        "from": "https://there",
        "files": {"model.safetensors": 3_000_000},
    }
    assert ran.err == ""


def test_an_interruption_says_how_to_go_on(gpt2: Run, plan: hub.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "download", interrupted)
    ran = gpt2("download", "org/tiny")
    assert ran.code == 130
    assert "what has arrived is kept: `gpt2 download org/tiny` resumes from there" in ran.err


def test_nothing_is_fetched_unless_asked(gpt2: Run, plan: hub.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = gpt2("score", "Hello", "--model", "org/tiny")
    assert ran.code == 1
    assert "`gpt2 download org/tiny` fetches it, as does --download" in ran.err
    ran = gpt2("score", "Hello", "--model", "org/tiny", "--download", "--totals")
    assert "org/tiny is here; all lengths and hashes match" in ran.err
    assert ran.code == 1  # what was fetched did not come into the cache


def test_the_absent_published_model_names_its_command(gpt2: Run, plan: hub.Plan) -> None:
    ran = gpt2("generate", "Hello", "--model", "gpt2")
    assert ran.code == 1
    assert "The model 'gpt2' is not on this machine. `gpt2 download gpt2` fetches it" in ran.err


def test_bench_fetches_what_it_is_told_to(
    gpt2: Run, plan: hub.Plan, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--prompt-tokens", "8", "--decode-tokens", "4", "--prefill-tokens", "16", "--batch", "2", "--rounds", "1")

    def download(plan: hub.Plan, *, progress: Callable[[int], None]) -> Path:
        return Path(shutil.copytree(tiny_folder, tmp_path / "cache" / "gpt2" / "models" / "org--tiny"))

    monkeypatch.setattr(fetching, "download", download)
    ran = gpt2("bench", "--model", "org/tiny", "--download", *quick, "--starts", "0", "--backend", "reference")
    assert (ran.code, ran.out.splitlines()[1][:19]) == (0, "gpt2 reference fp32")
