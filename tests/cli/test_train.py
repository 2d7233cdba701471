"""`gpt2 train`: what it takes, says and leaves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from gpt2.cli import main as frame
from gpt2.data import PrepareConfig, ReadOptions, prepare
from gpt2.train import callbacks, load_config
from gpt2.train.step import Learner

RECIPE = """
[model]
n_layer = 1
n_head = 1
n_embd = 8
n_positions = 32

[schedule]
tokens = 640
batch_tokens = 128
sequence = [[0.0, 32]]

[loss]
rows = 500

[run]
checkpoint_every_steps = 0
validate_every_steps = 0
sample_every_steps = 5
dtype = "fp32"
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    stories = [f"Story {i}. " + "The cat sat on the mat and saw an old dog. " * 20 for i in range(40)]
    (folder / "stories.txt").write_text("\n\n".join(stories), encoding="utf-8")
    config = PrepareConfig(validation=0.2, read=ReadOptions(split_on="\n\n"))
    prepare([folder / "stories.txt"], folder / "shards", config=config)
    return folder / "shards"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return str(path)


def test_trains_says_the_plan_first_and_shows_what_it_writes(
    recipe: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a run"
    arguments = ["train", recipe, "--data", str(shards), "--out", str(out), "--threads", "1", "--json"]
    assert frame.run([*arguments, "--seed", "3", "--set", "optim.lr=0.01"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["step"] == 5
    checkpoint = json.loads(shown.out)["checkpoint"]
    assert f"try it: gpt2 generate --model '{checkpoint}' 'Once upon a time'\n" in shown.err
    assert "lr = 0.01" in shown.err
    assert "seed = 3" in shown.err
    plan, first = shown.err.index("in 5 steps"), shown.err.index("step 5/5")
    assert plan < first
    assert "step 5 wrote: Once upon a time" in shown.err
    assert load_config(out / "config.toml").run.seed == 3


def test_stopped_by_a_signal_ends_with_75_and_goes_on(
    recipe: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.step

    def interrupted(self: Learner, *args: Any, **named: Any) -> Any:
        if named["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **named)

    arguments = ["train", recipe, "--data", str(shards), "--out", str(tmp_path / "run"), "--threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        assert frame.run(arguments) == 75
    assert "the same command resumes from there" in capsys.readouterr().err
    assert frame.run([*arguments, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert (tmp_path / "run" / "latest").read_text(encoding="utf-8") == "step-00000005\n"


def test_steps_decides_the_length(recipe: str, shards: Path, tmp_path: Path) -> None:
    assert frame.run(["train", recipe, "--data", str(shards), "--out", str(tmp_path / "run"), "--steps", "2"]) == 0
    assert (tmp_path / "run" / "latest").read_text(encoding="utf-8") == "step-00000002\n"


def test_dry_run_writes_a_recipe(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["train", recipe, "--dry-run", "--data", "C:\\it's here", "--device", "cpu"]) == 0
    (tmp_path / "again.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    config = load_config(tmp_path / "again.toml")
    assert config.data.folder == "C:\\it's here"
    assert config.run.device == "cpu"


@pytest.mark.parametrize("verb", [["train", "tiny-cpu"], ["finetune", "text.txt", "--out", "new"]])
def test_an_interrupt_while_pytorch_starts_does_not_abort(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import os, signal\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: os.abort()  # as where an error reaches a C++ function that lets none through\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(tmp_path), str(Path(frame.__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-m", "gpt2", *verb],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["gpt2-mni"], "Did you mean 'gpt2-mini'?", 2),
        (["tiny-cpu", "--set", "optim.lrr=1"], "Did you mean optim.lr?", 2),
        (["tiny-cpu", "--set", "optim.lr=nan"], "optim.lr must lie between", 2),
        (["tiny-cpu", "--set", "model.n_layer=0"], "model.n_layer must lie between", 2),
        (["tiny-cpu"], "--out DIR", 2),
        (["tiny-cpu", "--out", "OUT"], "--data DIR", 2),
        (["tiny-cpu", "--out", "OUT", "--data", "nowhere"], "gpt2 prepare", 1),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], message: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.run(["train", *(str(tmp_path / "run") if a == "OUT" else a for a in arguments)]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("watching", [(), ("--tensorboard",), ("--wandb", "mine")])
@pytest.mark.parametrize("data", ["nowhere", "text.txt"])
@pytest.mark.parametrize("verb", ["train", "finetune"])
def test_without_its_data_a_run_leaves_nothing(
    verb: str,
    data: str,
    watching: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Watcher:
        def __init__(self, folder: str) -> None:
            raise AssertionError(f"{folder} was begun")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", types.SimpleNamespace(SummaryWriter=Watcher))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda project, dir: Watcher(dir)))
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n", encoding="utf-8")
    given = ["tiny-cpu", "--data", data] if verb == "train" else [data]
    assert frame.run([verb, *given, "--out", "new/run", *watching]) == 1
    assert "was begun" not in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("verb", ["train", "finetune"])
def test_a_report_that_could_not_be_drawn_is_refused_before_the_work(
    verb: str,
    recipe: str,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = [recipe, "--data", str(shards)] if verb == "train" else [str(shards.parent / "stories.txt")]
    assert frame.run([verb, *given, "--out", str(tmp_path / "new" / "run"), "--report"]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("error: The report cannot be drawn: matplotlib is not installed.")
    assert "gpt2kit[report]" in said
    assert not (tmp_path / "new").exists()


def test_a_recipe_that_changed_is_refused_and_the_error_says_what_goes_on(
    recipe: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    given = ["--data", str(shards), "--out", str(out), "--threads", "1", "--set", "run.sample_every_steps=0"]
    assert frame.run(["train", recipe, *given, "--steps", "1"]) == 0
    Path(recipe).write_text(RECIPE.replace("batch_tokens = 128", "batch_tokens = 64"), encoding="utf-8")
    capsys.readouterr()
    assert frame.run(["train", recipe, *given]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "schedule.batch_tokens = 64: it began with 128" in said
    command = said.split("`gpt2 ")[1].split("`")[0]
    assert command == f"train {out / 'config.toml'} --out {out}"
    assert frame.run([*command.split(), "--steps", "2"]) == 0
    assert "resuming from step 1" in capsys.readouterr().err


def test_a_folder_of_other_files_is_left_alone(
    recipe: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "config.toml").write_text("mine", encoding="utf-8")
    assert frame.run(["train", recipe, "--data", str(shards), "--out", str(tmp_path / "few")]) == 1
    assert "it holds 'config.toml', and no run that could go on" in capsys.readouterr().err.splitlines()[-1]
    assert [file.name for file in (tmp_path / "few").iterdir()] == ["config.toml"]
    assert (tmp_path / "few" / "config.toml").read_text(encoding="utf-8") == "mine"
    assert frame.run(["train", recipe, "--data", str(shards), "--out", recipe]) == 1
    assert "it is a file" in capsys.readouterr().err.splitlines()[-1]


def test_stopped_before_the_first_step_another_recipe_may_begin_there(
    recipe: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--data", str(shards), "--out", str(tmp_path / "run"), "--threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Samples, "at_start", lambda self, run: signal.raise_signal(signal.SIGINT))
        assert frame.run(["train", recipe, *given]) == 75
    assert (tmp_path / "run" / "latest").read_text(encoding="utf-8") == "step-00000000\n"
    quiet = ["--set", "run.sample_every_steps=0", "--set", "model.n_embd=16"]
    assert frame.run(["train", recipe, *given, *quiet, "--steps", "1"]) == 0
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]
