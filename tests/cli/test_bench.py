"""`gpt2 bench`: a table for people, JSON for programs."""

import json
from pathlib import Path

import pytest

from gpt2 import bench

QUICK = (
    *("--prompt-tokens", "8", "--decode-tokens", "4", "--prefill-tokens", "16", "--batch", "2"),
    *("--rounds", "1", "--starts", "0", "--backend", "reference"),
)


def test_json_holds_the_figures_and_what_they_need_beside_them(gpt2, tiny_folder: Path) -> None:
    found = json.loads(gpt2("bench", "--model", str(tiny_folder), *QUICK, "--json").out)
    asked = {"prompt_tokens": 8, "decode_tokens": 4, "prefill_tokens": 16, "batch": 2}
    assert found["workload"].items() >= asked.items()
    assert found["command"].startswith("gpt2 bench")
    [engine] = found["engines"]
    assert engine["engine"] == "gpt2 reference fp32"
    assert engine["settings"]["backend"] == "reference"


def test_the_table(gpt2, tiny_folder: Path) -> None:
    lines = gpt2("bench", "--model", str(tiny_folder), *QUICK).out.splitlines()
    assert lines[0].split()[:4] == ["tokens/s", "decode", "prefill", "batch"]
    assert lines[1].startswith("gpt2 reference fp32")


def test_the_table_says_what_the_machine_allows_the_native_engine(gpt2, tiny_folder: Path) -> None:
    lines = gpt2("bench", "--model", str(tiny_folder), *QUICK, "--backend", "native").out.splitlines()
    assert lines[2].startswith("  share of the limit")
    assert all(share.endswith("%") for share in lines[2].split()[-3:])


def test_the_table_says_how_many_times_a_peers_rate_ours_is(
    gpt2, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures(engine: str, speed: float) -> bench.Figures:
        speeds = {"decode": speed, "prefill": 2 * speed, "batch": 3 * speed}
        return bench.Figures(engine=engine, tokens_per_second=speeds, rounds=[speeds], peak_bytes=1)

    monkeypatch.setattr(bench, "compare", lambda *args, **options: [figures("ours", 100), figures("theirs", 40)])
    lines = gpt2("bench", "--model", str(tiny_folder)).out.splitlines()
    assert lines[3].split() == ["gpt2", "does", "2.50x", "2.50x", "2.50x"]


def test_a_peer_that_is_not_known(gpt2, tiny_folder: Path) -> None:
    ran = gpt2("bench", "--model", str(tiny_folder), "--compare", "abacus", *QUICK)
    assert ran.code == 2
    assert "abacus" in ran.err


@pytest.mark.parametrize("option", ["--prompt-tokens", "--decode-tokens", "--prefill-tokens"])
def test_what_does_not_fit_the_context_is_refused(gpt2, tiny_folder: Path, option: str) -> None:
    ran = gpt2("bench", "--model", str(tiny_folder), *QUICK, option, "99999")
    assert (ran.code, ran.out) == (2, "")
    assert f"{option} 99999 cannot be: the model's context is 64 tokens" in ran.err


def test_a_default_that_does_not_fit_the_context_is_cut_and_said(gpt2, tiny_folder: Path) -> None:
    quick = ("--rounds", "1", "--starts", "0", "--batch", "1", "--backend", "reference")
    ran = gpt2("bench", "--model", str(tiny_folder), *quick, "--json")
    assert json.loads(ran.out)["workload"]["prefill_tokens"] == 64
    assert "--prefill-tokens is 64, not 1000: the model's context is 64 tokens" in ran.err
