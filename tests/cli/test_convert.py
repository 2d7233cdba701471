"""`gpt2 convert`: what it writes, what it says, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2 import checkpoint
from gpt2.cli import main as frame
from gpt2.config import ModelConfig

CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=4, n_positions=8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in checkpoint.shapes(CONFIG).items()}
    checkpoint.write_folder(tmp_path / "source", arrays, CONFIG, None, card="# A card\n")
    return tmp_path / "source"


def test_a_copy_says_what_it_wrote(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goal = tmp_path / "goal"
    assert frame.run(["convert", str(source), str(goal), "--to", "hf"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"wrote {goal}: 201,312 parameters, fp32, ")
    assert (goal / "README.md").read_text(encoding="utf-8") == "# A card\n"
    assert (goal / "vocab.json").is_file()
    before, after = checkpoint.read(source).weights, checkpoint.read(goal).weights
    for name in before.names:
        np.testing.assert_array_equal(before.float32(name), after.float32(name))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_goal_of_links_in_a_circle_is_no_fault_of_ours(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    goal = tmp_path / "goal"
    goal.symlink_to(goal)
    assert frame.run(["convert", str(source), str(goal), "--to", format]) == 1
    said = capsys.readouterr().err
    assert "symbolic links" in said and "a fault in gpt2" not in said
    assert goal.is_symlink()


def test_every_change_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = source / "model.safetensors"
    arrays = checkpoint.read_safetensors(file)
    wte = np.concatenate([arrays["transformer.wte.weight"].data, np.zeros((47, 4), np.float32)])
    padded = checkpoint.StoredArray(data=wte, dtype="F32")
    mask = checkpoint.StoredArray(data=np.ones((1, 1, 8, 8), np.float32), dtype="F32")
    added = {"transformer.wte.weight": padded, "lm_head.weight": padded, "transformer.h.0.attn.bias": mask}
    checkpoint.write_safetensors(file, arrays | added)
    arguments = ["convert", str(source), str(tmp_path / "goal"), "--to", "hf", "--weights", "bf16", "--json"]
    assert frame.run(arguments) == 0
    shown = capsys.readouterr()
    facts = json.loads(shown.out)
    assert facts["changes"] == [
        "attention masks left out (1 of attn.bias, attn.masked_bias): they are constants",
        "lm_head.weight left out: it repeats wte, as GPT-2's tied head must",
        "vocabulary cut from 50,304 rows to the 50,257 that are tokens",
        "precision from fp32 to bf16: every value rounded",
    ]
    assert (facts["weights"], facts["parameters"]) == ("bf16", 201_312)
    for change in facts["changes"]:
        assert f"changed: {change}" in shown.err


def test_int8_and_back(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compact, ordinary = tmp_path / "compact", tmp_path / "ordinary"
    assert frame.run(["convert", str(source), str(compact), "--to", "hf", "--weights", "int8"]) == 0
    assert "only this package reads the int8 form" in capsys.readouterr().err
    assert frame.run(["convert", str(compact), str(ordinary), "--to", "hf"]) == 0
    assert "precision from int8 to fp32: the rounding of int8 stays" in capsys.readouterr().err
    before, after = checkpoint.read(compact).weights, checkpoint.read(ordinary).weights
    assert (before.form, after.form) == ("int8", "fp32")
    for name in before.names:
        np.testing.assert_array_equal(before.float32(name), after.float32(name))


def test_a_folder_that_is_there_is_replaced_only_when_asked(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(source), str(tmp_path / "goal"), "--to", "hf"]
    assert frame.run(arguments) == 0
    assert frame.run(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    assert frame.run([*arguments, "--weights", "fp16", "--overwrite"]) == 0
    assert checkpoint.read(tmp_path / "goal").weights.form == "fp16"


def test_a_model_is_not_converted_onto_itself(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "alias").symlink_to(source)
    before = (source / "model.safetensors").read_bytes()
    for start in (source, source / "model.safetensors", tmp_path / "alias"):
        assert frame.run(["convert", str(start), str(source), "--to", "hf", "--weights", "fp16", "--overwrite"]) == 1
        assert "cannot be converted onto itself" in capsys.readouterr().err
    assert (source / "model.safetensors").read_bytes() == before


def test_wrong_usage_is_told_apart_from_failure(source: Path, tmp_path: Path) -> None:
    goal = str(tmp_path / "goal")
    assert frame.run(["convert", str(source), goal]) == 2
    assert frame.run(["convert", str(source), goal, "--to", "keras"]) == 2
    assert frame.run(["convert", str(source), goal, "--to", "hf", "--weights", "int3"]) == 2
    assert frame.run(["convert", str(tmp_path / "absent"), goal, "--to", "hf"]) == 1
    assert not (tmp_path / "goal").exists()


@pytest.mark.parametrize(
    ("format", "forms", "changes"),
    [
        ("openai", ["fp32"], []),
        (
            "llmc",
            ["fp32", "bf16"],
            [
                "matrices transposed from [in, out] to [out, in]",
                "vocabulary padded with 47 rows of zeros, to a multiple of 128",
            ],
        ),
        (
            "nanogpt",
            ["fp32", "fp16", "bf16"],
            [
                "matrices transposed from [in, out] to [out, in]",
                "nanoGPT computes GELU exactly, GPT-2 by its tanh form: its logits will differ a little",
            ],
        ),
        ("gguf", ["fp32", "fp16", "bf16", "q8_0", "q4_0"], ["matrices transposed from [in, out] to [out, in]"]),
    ],
)
def test_other_formats_and_back(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, forms: list[str], changes: list[str]
) -> None:
    goal, back = tmp_path / "goal.gguf", tmp_path / "back"
    assert frame.run(["convert", str(source), str(goal), "--to", format, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["format"], facts["weights"], facts["changes"]) == (format, "fp32", changes)
    pickled = ["--allow-pickle"] if format == "nanogpt" else []
    assert frame.run(["convert", str(goal), str(back), "--to", "hf", *pickled]) == 0
    assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert checkpoint.read(back).tokenizer().hash == checkpoint.read(source).tokenizer().hash
    for form in ("fp16", "bf16", "int8", "q8_0", "q4_0"):
        code = frame.run(["convert", str(source), str(tmp_path / form), "--to", format, "--weights", form])
        said = capsys.readouterr().err
        if form in ("q8_0", "q4_0") and form in forms:
            assert "not multiples of 32" in said
        elif form in forms:
            assert code == 0
            kept = "matrices rounded, vectors and positions in fp32" if format == "gguf" else "every value rounded"
            assert f"changed: precision from fp32 to {form}: {kept}" in said
        else:
            assert code == 2
            assert f"cannot be written as '{format}' in '{form}'" in said


def test_a_precision_the_goal_has_not_is_widened_and_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    assert frame.run(["convert", str(source), str(half), "--to", "hf", "--weights", "fp16"]) == 0
    assert frame.run(["convert", str(half), str(tmp_path / "goal"), "--to", "openai"]) == 0
    assert "changed: precision from fp16 to fp32: no value changed" in capsys.readouterr().err


def test_the_root_is_no_place_for_a_model(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["convert", str(source), Path(source.anchor).as_posix(), "--to", "hf"]) == 1
    assert "is there already" in capsys.readouterr().err


STOPPED = """
import os, signal, sys
from gpt2.checkpoint import unfinished
from gpt2.cli.main import run
if sys.argv[1] != "early":
    unfinished.SYNC_BYTES = 1
real = unfinished.ArrayFile.append
def append(self, name, *rest):
    if "h.0.mlp" in name:
        os.kill(os.getpid(), signal.SIGTERM if sys.argv[1] == "term" else signal.SIGINT)
    return real(self, name, *rest)
unfinished.ArrayFile.append = append
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize(("how", "code"), [("term", 75), ("int", 130)])
def test_a_signal_keeps_what_is_written_and_says_so(source: Path, tmp_path: Path, how: str, code: int) -> None:
    arguments = [how, "convert", str(source), str(tmp_path / "goal"), "--to", "hf"]
    done = subprocess.run([sys.executable, "-c", STOPPED, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == code
    assert "kept in .unfinished-goal; the same command resumes" in done.stderr
    assert not (tmp_path / "goal").exists()
    assert frame.run(arguments[1:]) == 0


def is_left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_a_signal_before_anything_has_reached_the_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    arguments = ["early", "convert", str(source), str(tmp_path / "goal"), "--to", "gguf"]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED.replace("h.0.mlp", "blk.0.ffn"), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert is_left(tmp_path) == ["source"]


FULL = """
import resource, sys
from pathlib import Path
from gpt2.cli.main import run
from gpt2.checkpoint import FORMS_OF
source, folder, most_bytes = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), resource.RLIM_INFINITY))
for format in FORMS_OF:
    print(format, run(["convert", source, str(Path(folder) / "goal"), "--to", format]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize("most_bytes", [0, 100_000])  # the journal itself, the arrays
def test_a_full_disk_leaves_nothing_in_any_format(source: Path, tmp_path: Path, most_bytes: int) -> None:
    arguments = [str(source), str(tmp_path), str(most_bytes)]
    done = subprocess.run([sys.executable, "-c", FULL, *arguments], check=False, capture_output=True, text=True)
    assert done.stdout.split() == [word for format in checkpoint.FORMS_OF for word in (format, "1")]
    said = "cannot be written: File too large. What was there before is as it was."
    assert [line.removeprefix(f"error: {tmp_path / 'goal'} ") for line in done.stderr.splitlines()] == [said] * len(
        checkpoint.FORMS_OF
    )
    assert is_left(tmp_path) == ["source"]
