"""`gpt2 doctor` says the same to people and to programs."""

import importlib
import json
import types
from pathlib import Path

import pytest
from tests.cli.conftest import Run

from gpt2 import machine
from gpt2.cli.doctor import bytes_below


def test_json_names_what_is_here(gpt2) -> None:
    found = json.loads(gpt2("doctor", "--json").out)
    assert set(found) == {"gpt2", "machine", "backends", "devices", "models", "caches", "versions"}
    assert found["machine"]["physical_cores"] == machine.physical_cores()
    assert found["backends"]["reference"].startswith("NumPy")
    assert set(found["backends"]) == {"native", "torch", "reference"}
    assert found["devices"]["cpu"] == "always"


def test_every_fact_has_a_line(gpt2) -> None:
    ran = gpt2("doctor")
    assert ran.code == 0
    for section, facts in json.loads(gpt2("doctor", "--json").out).items():
        assert f"{section}\n" in ran.out
        for name in facts:
            assert f"  {name.removesuffix('_bytes').replace('_', ' ')}" in ran.out


def test_a_file_that_vanishes_from_a_cache_meanwhile_counts_as_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "here").write_bytes(b"12345")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(Path, "is_file", lambda path: path.name in {"here", "gone"})  # it was, a moment ago
    assert bytes_below(tmp_path) == 5


@pytest.mark.parametrize(
    ("has_triton", "compiler", "seen"),
    [
        (True, "/bin/cc", "by kernels of gpt2"),
        (False, "/bin/cc", "without Triton"),
        (True, None, "without a C compiler"),
    ],
)
def test_a_gpu_is_said_to_decode_by_what_it_can(
    gpt2: Run, monkeypatch: pytest.MonkeyPatch, has_triton: bool, compiler: str | None, seen: str
) -> None:
    torch, doctor = pytest.importorskip("torch"), importlib.import_module("gpt2.cli.doctor")
    about = types.SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: about)
    here = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: has_triton or None if name == "triton" else here(name))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: compiler)
    monkeypatch.delenv("CC", raising=False)
    assert seen in json.loads(gpt2("doctor", "--json").out)["devices"]["cuda:0"]
