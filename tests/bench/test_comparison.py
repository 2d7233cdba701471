"""Engines in their own processes, and the same work for each."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2.backends.reference import ReferenceBackend
from gpt2.bench import PEERS, Workload, compare, comparison, facts
from gpt2.bench.engines import missing_packages, open_engine
from gpt2.checkpoint import shapes, write_folder
from gpt2.config import ModelConfig
from gpt2.errors import BackendError, CheckpointError
from gpt2.tokenizer import Tokenizer

SMALL = Workload(prompt_tokens=8, decode_tokens=4, prefill_tokens=16, batch=2)
OURS = {"backend": "reference", "weights": "fp32", "device": "auto", "threads": None}


def test_our_engine_alone(tiny_folder: Path) -> None:
    [figures] = compare(tiny_folder, backend="reference", workload=SMALL, rounds=2, starts=0)
    assert figures.engine == "gpt2 reference fp32"
    assert len(figures.rounds) == 2
    assert set(figures.tokens_per_second) == {"decode", "prefill", "batch"}
    assert all(speed > 0 for speed in figures.tokens_per_second.values())
    assert figures.start_seconds is None


def test_a_peer_that_is_not_installed_is_left_out_and_said(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(comparison, "missing_packages", lambda peer: ["something"])
    found = compare(tiny_folder, peers=["all"], backend="reference", workload=SMALL, rounds=1, starts=0)
    assert [figures.engine for figures in found] == ["gpt2 reference fp32"]
    assert "openvino is left out: something is not installed" in caplog.text
    assert "transformers-compiled" not in caplog.text  # on a CPU it is not asked for


# What a process of its own runs: peers whose fate is in their names.
_PEERS = """
import os, signal
from gpt2.bench import comparison

class Peer:
    n_positions, vocab_size = 64, 100

    def __init__(self, name):
        self.name = name
        print("chatter")
        if name == "openvino":
            raise RuntimeError("no such device")

    def prefill(self, prompts):
        if self.name == "onnxruntime":
            print("the last straw", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)

    def decode(self, steps):
        pass

def serve(pipe, name, *rest):
    if name == "llama.cpp-q8_0":
        open(rest[-1], "w").close()
        pipe.send(name)
        pipe.poll(None)  # a question, which it does not read
        os.kill(os.getpid(), signal.SIGABRT)
    real = comparison.open_engine
    comparison.open_engine = lambda *args, **options: real(*args, **options) if name == "gpt2" else (Peer(name), name)
    comparison._serve(pipe, name, *rest)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process by a signal")
def test_a_peer_that_fails_or_ends_is_left_out_and_the_others_are_measured(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "stand_ins.py").write_text(_PEERS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(comparison, "_serve", importlib.import_module("stand_ins").serve)
    monkeypatch.setattr(comparison, "missing_packages", lambda peer: [])
    peers = ["openvino", "onnxruntime", "llama.cpp-q8_0", "transformers"]
    found = compare(tiny_folder, peers=peers, backend="reference", workload=SMALL, rounds=1, starts=0)
    assert [figures.engine for figures in found] == ["gpt2 reference fp32", "transformers"]
    assert all(figures.rounds and figures.tokens_per_second["decode"] > 0 for figures in found)
    assert "openvino is left out: no such device" in caplog.text
    assert re.search(r"onnxruntime is left out: .* it was stopped by SIGSEGV; .*the last straw", caplog.text, re.DOTALL)
    assert (
        "llama.cpp-q8_0 is left out: llama.cpp-q8_0 ended before it answered: it was stopped by SIGABRT" in caplog.text
    )
    assert "chatter" not in "".join(capfd.readouterr())


def test_a_peer_whose_start_fails_keeps_its_figures(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start_seconds(engine: str, *_: object, **__: object) -> float:
        if engine == "gpt2":
            return 0.5
        raise BackendError("transformers could not be started cold: no such module")

    (tmp_path / "stand_ins.py").write_text(_PEERS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(comparison, "_serve", importlib.import_module("stand_ins").serve)
    monkeypatch.setattr(comparison, "missing_packages", lambda peer: [])
    monkeypatch.setattr(comparison, "start_seconds", start_seconds)
    ours, theirs = compare(tiny_folder, peers=["transformers"], backend="reference", workload=SMALL, rounds=1, starts=1)
    assert (ours.start_seconds, theirs.start_seconds) == (0.5, None)
    assert theirs.tokens_per_second["decode"] > 0
    assert "the start of transformers is not measured: transformers could not be started" in caplog.text


def write_wide_folder(folder: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=64, n_positions=64)  # Q8_0 has blocks of 32
    random = np.random.default_rng(0)
    arrays = {each: random.normal(0.0, 0.02, shape).astype(np.float32) for each, shape in shapes(config).items()}
    write_folder(folder, arrays, config, Tokenizer.published())


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in PEERS if not name.startswith("transformers")])
def test_peers_that_are_installed_decode_as_many_tokens_as_asked(name: str, tmp_path: Path) -> None:
    if missing := missing_packages(name):
        pytest.skip(f"{' and '.join(missing)} is not installed")
    write_wide_folder(tmp_path / "model")
    engine, full_name = open_engine(name, str(tmp_path / "model"), **OURS)
    assert name.partition("-")[0] in full_name.lower()
    engine.prefill([[464, 3797, 3332], [1, 2, 3]])
    engine.decode(3)


@pytest.mark.long
def test_a_cold_start_of_llama_cpp(tmp_path: Path) -> None:
    if missing_packages("llama.cpp-q8_0"):
        pytest.skip("llama-cpp-python is not installed")
    write_wide_folder(tmp_path / "model")
    assert comparison.start_seconds("llama.cpp-q8_0", tmp_path / "model", {}, times=1) > 0


@pytest.mark.long
def test_beside_transformers_and_with_a_cold_start(tiny_folder: Path) -> None:
    pytest.importorskip("transformers")
    ours, theirs = compare(tiny_folder, peers=["transformers"], backend="reference", workload=SMALL, rounds=1, starts=1)
    assert theirs.engine.startswith("transformers ")
    assert set(ours.tokens_per_second) == set(theirs.tokens_per_second)
    assert ours.start_seconds is not None
    assert theirs.start_seconds is not None


@pytest.mark.long
def test_engines_decode_the_same_tokens(tiny_folder: Path) -> None:
    pytest.importorskip("transformers")
    found: list[list[int]] = []
    for name in ("gpt2", "transformers"):
        engine, _ = open_engine(name, str(tiny_folder), **OURS)
        engine.prefill([[464, 3797, 3332], [1, 2, 3]])
        engine.decode(5)
        found.append([int(token) for token in engine._next])
    assert found[0] == found[1]


def test_slots_are_given_back_between_prompts(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    new = ReferenceBackend.new
    monkeypatch.setattr(ReferenceBackend, "new", lambda self: opened.append(slot := new(self)) or slot)
    engine, _ = open_engine("gpt2", str(tiny_folder), **OURS)
    for _ in range(3):
        engine.prefill([[1, 2], [3, 4]])
    assert len(opened) == 6
    assert set(opened) == set(opened[:2])


def test_an_engine_that_cannot_open_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        compare(tmp_path / "nowhere", starts=0)
    with pytest.raises(BackendError, match="abacus"):
        open_engine("abacus", str(tmp_path), **OURS)


def test_facts_name_machine_software_and_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "sys.argv", [str(tmp_path / "x.py"), "--work", str(tmp_path / "w"), f"--human=a={tmp_path / 'h'}", "-n", "2"]
    )
    found = facts()
    assert found["command"] == "x.py --work w --human=a=h -n 2"  # and not where they lie
    assert {"command", "cpu", "physical_cores", "memory_bytes", "python", "versions"} <= set(found)
    assert "numpy" in found["versions"]
