"""`gpt2 card` as typed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Run

from gpt2 import files
from gpt2.checkpoint import read, write_adapter
from gpt2.data.prepare import prepare
from gpt2.report import card as report
from gpt2.report.markdown import verbatim


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "mine")


def test_to_standard_output_with_what_the_model_writes(gpt2: Run, tiny_folder: Path) -> None:
    ran = gpt2("card", str(tiny_folder), "--samples", "2", "--quiet")
    assert ran.code == 0
    assert ran.out.startswith('---\nlibrary_name: "transformers"\n')
    assert "GPT-2's published vocabulary\n" in ran.out
    assert str(tiny_folder.parent) not in ran.out
    settings = ran.out.split("`gpt2 generate PROMPT ")[1].split("`")[0].split()
    written = gpt2("generate", "Once upon a time", "--model", str(tiny_folder), "--quiet", "--json", *settings)
    text = json.loads(written.out)["samples"][0]["text"]
    assert settings[:2] == ["--max-tokens", "32"]
    assert ran.out.count("```text\n") == 2
    assert f"\n{verbatim('Once upon a time' + text)}\n" in ran.out


def test_a_card_that_is_there_stays(gpt2: Run, folder: Path) -> None:
    before = (folder / "README.md").read_bytes()
    ran = gpt2("card", str(folder), "--write", "--samples", "0")
    assert (ran.code, ran.out) == (1, "")
    assert "--overwrite" in ran.err
    assert (folder / "README.md").read_bytes() == before

    assert gpt2("card", str(folder), "--write", "--overwrite", "--samples", "0").code == 0
    assert "No samples were drawn." in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").unlink()
    assert gpt2("card", str(folder), "--write", "--samples", "0").code == 0
    assert gpt2("card", str(folder), "--write", "--out", "x").code == 2


def test_a_device_is_written_to_without_asking(gpt2: Run, folder: Path) -> None:
    assert gpt2("card", str(folder), "--samples", "0", "--out", os.devnull).code == 0
    assert not Path(os.devnull).is_file()


def test_a_card_that_another_process_wrote_meanwhile_stays(
    gpt2: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = tmp_path / "card.md"
    original = report.card

    def slow(described: report.Described) -> str:
        goal.write_text("another's", encoding="utf-8")
        return original(described)

    monkeypatch.setattr(report, "card", slow)
    ran = gpt2("card", str(folder), "--samples", "0", "--out", str(goal))
    assert (ran.code, ran.out) == (1, "")
    assert "is there already. Give --overwrite" in ran.err
    assert goal.read_text(encoding="utf-8") == "another's"
    assert gpt2("card", str(folder), "--samples", "0", "--out", str(goal), "--overwrite").code == 0
    assert goal.read_text(encoding="utf-8").startswith("---\n")


def test_a_card_that_cannot_be_written_leaves_nothing(
    gpt2: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_text", full)
    assert gpt2("card", str(folder), "--samples", "0", "--out", str(tmp_path / "card.md")).code == 1
    assert not (tmp_path / "card.md").exists()


def test_with_a_run_shards_and_an_evaluation(gpt2: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "It was a bright day. " * 20}), encoding="utf-8")
    prepare(tmp_path / "a.jsonl", tmp_path / "shards")
    evaluated = gpt2("evaluate", "lambada", "--examples", "--model", str(folder), "--no-cache", "--limit", "2",
                     "--out", str(tmp_path / "result.json"))  # fmt: skip
    assert evaluated.code == 0
    _write_run(tmp_path / "run")
    ran = gpt2("card", str(folder), "--samples", "0", "--corpus", str(tmp_path / "shards"), "--run", str(tmp_path),
               "--evaluation", str(tmp_path / "result.json"), "--out", str(tmp_path / "card.md"))  # fmt: skip
    assert (ran.code, ran.out) == (0, "")
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    for said in (
        "do not record licences",
        "| a.jsonl |",
        "very files",
        "LAMBADA (the first 2) | perplexity",
        "Loss at the last: 9.5\n",
    ):
        assert said in text
    assert "Began from: gpt2\n" in text
    assert 'base_model: "openai-community/gpt2"' in text
    assert str(tmp_path) not in text


def test_the_run_that_lies_in_the_models_folder_is_told_of(gpt2: Run, folder: Path) -> None:
    _write_run(folder / "run")
    ran = gpt2("card", str(folder), "--samples", "0")
    assert ran.code == 0, ran.err
    assert "Loss at the last: 9.5\n" in ran.out
    for other in ("x = 1", "broken = ["):
        (folder / "run" / "config.toml").write_text(other, encoding="utf-8")
        ran = gpt2("card", str(folder), "--samples", "0")
        assert ran.code == 0, ran.err
        assert "run is left out: " in ran.err
        assert gpt2("card", str(folder), "--samples", "0", "--run", str(folder / "run")).code == 1


def test_with_a_corpus(gpt2: Run, folder: Path, tmp_path: Path) -> None:
    for extra in ("py3langid", "pycld2", "zstandard"):
        pytest.importorskip(extra)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "It was a bright day. " * 20}), encoding="utf-8")
    built = gpt2("corpus", "build", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "corpus"), "--workers", "1",
                 "--licence", "CC0-1.0")  # fmt: skip
    assert built.code == 0
    ran = gpt2("card", str(folder), "--samples", "0", "--corpus", str(tmp_path / "corpus"))
    assert ran.code == 0
    assert "| CC0-1.0 | 1 | " in ran.out
    assert "| a | 1 | " in ran.out


def test_with_its_training_text(gpt2: Run, folder: Path, tmp_path: Path) -> None:
    text = "The man was kind. The old woman was at home with her child, and it was a bright day. " * 3
    record = {"text": text, "source": "a book", "licence": "CC0-1.0"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "notes.md").write_text("We made it for a class.\n", encoding="utf-8")
    ran = gpt2("card", str(folder), "--samples", "0", "--training", str(tmp_path / "a.jsonl"), "--repeat-samples", "20",
               "--notes", str(tmp_path / "notes.md"), "--licence", "mit", "--language", "en")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.out.startswith('---\nlicense: "mit"\nlanguage: "en"\n')
    assert "\n## From its makers\n\nWe made it for a class.\n" in ran.out
    assert "| a book | CC0-1.0 | 1 | " in ran.out
    assert "20 samples of 32 tokens" in ran.out
    assert "| woman | 2 / 3 | " in ran.out
    assert "not measured" not in ran.out
    assert str(tmp_path) not in ran.out


def test_records_that_are_none(gpt2: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1", encoding="utf-8")
    for options in (
        ("--run", str(tmp_path)),
        ("--corpus", str(tmp_path)),
        ("--evaluation", str(tmp_path / "bad.json")),
    ):
        ran = gpt2("card", str(folder), "--samples", "0", *options)
        assert (ran.code, ran.out) == (1, "")
        assert "Traceback" not in ran.err
    (tmp_path / "config.toml").write_text("a = [", encoding="utf-8")
    assert "not readable TOML" in gpt2("card", str(folder), "--run", str(tmp_path)).err
    assert gpt2("card", "no-such-model").code == 1

    _write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"\x8e\xff\x00")
    ran = gpt2("card", str(folder), "--samples", "0", "--run", str(tmp_path / "run"))
    assert "no step of the run is recorded" in ran.out


def test_what_cannot_be_read_is_said_before_anything_is_computed(
    gpt2: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.load", None)  # drawing samples would call it
    (tmp_path / "notes.md").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "text.xyz").write_text("text", encoding="utf-8")
    ran = gpt2("card", str(folder), "--notes", str(tmp_path / "notes.md"))
    assert (ran.code, ran.out) == (1, "")
    assert "notes.md cannot be read as UTF-8: byte 0xe9. Save it as UTF-8." in ran.err
    assert "--errors" not in ran.err  # which this verb has not
    ran = gpt2("card", str(folder), "--training", str(tmp_path / "text.xyz"))
    assert "text.xyz cannot be read: its kind is not known" in ran.err
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    ran = gpt2("card", str(folder), "--training", str(tmp_path / "empty.txt"))
    assert (ran.code, ran.out) == (1, "")
    assert f"there is none in {tmp_path / 'empty.txt'}" in ran.err


def test_a_model_without_a_vocabulary(gpt2: Run, folder: Path) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (folder / name).unlink()
    ran = gpt2("card", str(folder), "--samples", "0", "--json")
    assert "taken for granted" in json.loads(ran.out)["card"]


def test_an_adapter_does_not_tell_where_its_base_lies(gpt2: Run, folder: Path, tmp_path: Path) -> None:
    arrays = {"h.0.attn.c_attn.lora_A": np.ones((2, 16), np.float32),
              "h.0.attn.c_attn.lora_B": np.ones((48, 2), np.float32)}  # fmt: skip
    (tmp_path / "lora").mkdir()
    write_adapter(tmp_path / "lora", arrays, base=str(folder), alpha=4, dropout=0.0, targets=("c_attn",))
    ran = gpt2("card", str(tmp_path / "lora"), "--samples", "0")
    assert ran.code == 0, ran.err
    assert 'library_name: "peft"' in ran.out
    assert "merged into mine\n" in ran.out
    assert str(tmp_path) not in ran.out


def test_an_adapter_of_an_int4_model_is_as_large_as_in_fp32(gpt2: Run, folder: Path, tmp_path: Path) -> None:
    assert gpt2("convert", str(folder), str(tmp_path / "int4"), "--to", "hf", "--weights", "int4").code == 0
    arrays = {"h.0.attn.c_attn.lora_A": np.ones((2, 16), np.float32),
              "h.0.attn.c_attn.lora_B": np.ones((48, 2), np.float32)}  # fmt: skip
    (tmp_path / "lora").mkdir()
    base = str(tmp_path / "int4")
    write_adapter(tmp_path / "lora", arrays, base=base, alpha=4, dropout=0.0, targets=("c_attn",))
    ran = gpt2("card", str(tmp_path / "lora"), "--samples", "0")
    assert f"fp32, {4 * read(folder).config.parameters:,} bytes" in ran.out, ran.err


def _write_run(folder: Path) -> None:
    config = pytest.importorskip("gpt2.train")
    shape = ["model.n_layer=2", "model.n_head=2", "model.n_embd=16", "model.n_positions=64"]
    made = config.load_config("tiny-cpu", [*shape, "schedule.sequence=[[0.0,64]]", "start.model='gpt2'"])
    folder.mkdir()
    (folder / "config.toml").write_text(config.to_toml(made), encoding="utf-8")
    row = {"step": 1, "tokens": 64, "seconds": 0.5, "loss": 9.5}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n" + '{"step": 2, "lo', encoding="utf-8")
