import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gpt2.cli import main as frame
from gpt2.cli import training
from gpt2.train import callbacks, finetune_data, plan
from gpt2.train.step import Learner

SPEED = ["--threads", "1", "--set", "run.dtype=fp32", "--epochs", "1", "--context", "32"]


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text("The cat sat on the mat and saw an old dog. " * 60, encoding="utf-8")
    return path


def test_one_command_adapts_a_model_and_says_all_it_does(
    novel: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my model"
    arguments = ["finetune", str(novel), "--out", str(out), "--model", str(tiny_folder), *SPEED, "--json"]
    assert frame.run([*arguments, "--lr", "0.01", "--report", "--prompt", "The cat"]) == 0
    shown = capsys.readouterr()
    ended = json.loads(shown.out)
    assert ended["loss"] < ended["loss_before"] and ended["gained"] is True
    order = [
        "held out: its last",
        "of memory",
        "from here",
        "step 0: held-out loss",
        "step 0 wrote: The cat",
        "MB of training state; you can delete it",
        f"try it: gpt2 generate --model '{out}'\n",
    ]
    places = [shown.err.index(text) for text in order]
    assert places == sorted(places)
    assert (out / "run" / "report.html").is_file()
    assert frame.run(["generate", "--model", str(out), "The cat", "--max-tokens", "3", "--quiet"]) == 0


def test_of_several_processes_the_first_alone_speaks(
    novel: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.is_first()
    monkeypatch.setattr(training, "is_first", lambda: False)
    out = tmp_path / "mine"
    arguments = ["finetune", str(novel), "--out", str(out), "--model", str(tiny_folder), *SPEED, "--json"]
    assert frame.run(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "try it" not in shown.err
    monkeypatch.undo()
    for rank, speaks in (("0", True), ("1", False)):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        assert training.is_first() is speaks


@pytest.mark.parametrize(
    ("option", "ours"), [("--steps", "--epochs"), ("--num_train_epochs", "--epochs"), ("--learning_rate", "--lr")]
)
def test_options_by_other_names(novel: Path, capsys: pytest.CaptureFixture[str], option: str, ours: str) -> None:
    assert frame.run(["finetune", str(novel), "--out", "mine", option, "1"]) == 2
    assert f"Did you mean {ours}?" in capsys.readouterr().err


def test_adapters_can_be_merged_and_used(
    novel: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    adapters = ["--lora", "--lora-rank", "2", "--lora-target", "c_attn", "--set", "run.sample_every_steps=0"]
    assert frame.run(["finetune", str(novel), "--out", str(out), "--model", str(tiny_folder), *SPEED, *adapters]) == 0
    assert json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"] == ["c_attn"]
    capsys.readouterr()
    assert frame.run(["finetune", str(novel), "--out", str(out), "--model", str(tiny_folder), *SPEED]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot go on with lora.rank = 0: it began with 2. Keep that (--lora --lora-rank 2), or" in said
    assert frame.run(["convert", str(out), str(tmp_path / "merged"), "--to", "hf"]) == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    texts = []
    for folder in (out, tmp_path / "merged"):
        capsys.readouterr()
        arguments = ["generate", "--model", str(folder), "The cat", "--max-tokens", "5", "--temperature", "0"]
        assert frame.run([*arguments, "--weights", "fp32", "--quiet"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_stopped_by_a_signal_ends_with_75_and_goes_on(
    novel: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Learner.step

    def interrupted(self: Learner, *args: Any, **named: Any) -> Any:
        if named["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **named)

    quiet = ["--set", "run.sample_every_steps=0", "--set", "run.validate_every_steps=1", "--lr", "5"]
    arguments = ["finetune", str(novel), "--out", str(tmp_path / "mine"), "--model", str(tiny_folder), *SPEED, *quiet]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        assert frame.run(arguments) == 75
    assert "holds no gain so far, held-out loss" in (said := capsys.readouterr().err)
    assert "the same command resumes" in said
    assert frame.run([*arguments, "--validation", "0.2"]) == 1  # it has learned from the other part
    assert "it began with another text" in capsys.readouterr().err
    assert frame.run([*arguments, "--context", "16"]) == 1
    assert "Give the options that it began with (" in (said := capsys.readouterr().err)
    assert f"{tmp_path / 'mine' / 'run' / 'config.toml'} holds its settings), or choose a new folder." in said
    assert frame.run(arguments) == 0
    assert "resuming from step 2" in capsys.readouterr().err


def test_stopped_before_its_first_step_it_says_that_the_same_command_goes_on(
    novel: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = ["--set", "run.sample_every_steps=0"]
    out = tmp_path / "mine"
    arguments = ["finetune", str(novel), "--out", str(out), "--model", str(tiny_folder), *SPEED, *quiet]
    kept = f"{out} keeps what is done; the same command resumes from there."
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
        with monkeypatch.context() as patch:
            patch.setattr(plan, "check_room", lambda *_, number=number: signal.raise_signal(number))
            assert frame.run(arguments) == code
        assert kept in capsys.readouterr().err
    assert frame.run(arguments) == 0
    with monkeypatch.context() as patch:  # where the text was not read to its end there is nothing
        patch.setattr(finetune_data, "read_examples", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        assert frame.run([*arguments, "--out", str(tmp_path / "other")]) == 130
    assert "keeps" not in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_text_that_was_not_learned_is_told_loudly_and_is_no_failure(
    novel: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is there all the same, and says so on its card; the same command says it again."""
    quiet = ["--set", "run.sample_every_steps=0", "--lr", "9", "--json"]
    arguments = ["finetune", str(novel), "--out", str(tmp_path / "mine"), "--model", str(tiny_folder), *SPEED, *quiet]
    for _ in range(2):
        assert frame.run([*arguments, "--quiet"]) == 0
        shown = capsys.readouterr()
        ended = json.loads(shown.out)
        assert ended["finished"] and ended["loss"] > ended["loss_before"] and ended["gained"] is False
        assert shown.err.count("nothing was gained") == 1 and "learning rate 9 is too high" in shown.err
        assert "or --lora" in shown.err
    assert "no better than" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def test_after_a_try_that_learned_nothing_any_other_may_follow(
    novel: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that failed on a setting, and one that was stopped before its first step."""
    old = tmp_path / "old.txt"
    old.write_bytes(novel.read_bytes() + b"caf\xe9")
    given = ["--out", str(tmp_path / "mine"), "--model", str(tiny_folder), *SPEED]
    assert frame.run(["finetune", str(old), *given]) == 1
    assert frame.run(["finetune", str(novel), *given, "--context", "4096"]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Samples, "at_start", lambda self, run: signal.raise_signal(signal.SIGINT))
        assert frame.run(["finetune", str(old), *given, "--errors", "replace", "--lora"]) == 75
    assert (tmp_path / "mine" / "adapter_config.json").is_file()
    quiet = ["--validation", "0.2", "--set", "run.sample_every_steps=0"]
    assert frame.run(["finetune", str(old), *given, "--errors", "replace", *quiet]) == 0
    assert not (tmp_path / "mine" / "adapter_config.json").exists()
    assert frame.run(["generate", "--model", str(tmp_path / "mine"), "The cat", "--max-tokens", "3", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["nowhere.txt"], "there is no such file or folder", 1),
        (["EMPTY"], "nothing to learn", 1),
        (["NOVEL", "--set", "optim.lrr=1"], "Did you mean optim.lr?", 2),
        (["NOVEL", "--set", "optim.lr=nan"], "optim.lr must lie between", 2),
        (["NOVEL", "--set", "optim.lr"], "write section.name=value", 2),
        (["NOVEL", "--set", "model.n_head=7"], "model.n_embd must be a multiple of n_head", 2),
        (["NOVEL", "--model", "gtp2"], "There is no model 'gtp2'", 1),
        (["NOVEL", "--context", "4096"], "the model's context is 64", 2),
        (["NOVEL", "--lora", "--lora-target", "c_atn"], "LoRA cannot change 'c_atn'", 2),
        (["NOVEL", "--device", "tpu"], "there is no device 'tpu'", 2),
        (["NOVEL", "--set", "run.device=tpu"], "there is no device 'tpu'", 2),
        (["NOVEL", "--set", "lora.rank=4", "--set", "lora.targets=['c_atn']"], "LoRA cannot change 'c_atn'", 2),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str],
    message: str,
    code: int,
    novel: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    place = {"NOVEL": str(novel), "EMPTY": str(tmp_path / "empty.txt")}
    given = [place.get(argument, argument) for argument in arguments]
    model = [] if "--model" in given else ["--model", str(tiny_folder)]
    assert frame.run(["finetune", *given, *model, "--out", str(tmp_path / "mine")]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert code == 1 or not (tmp_path / "mine").exists(), "found only when the text had been read"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        *([f"--{name}={value}", "not a finite number"] for name in ("epochs", "lr") for value in ("nan", "inf")),
        *([f"--{name}=nan", "not a finite number"] for name in ("validation", "lora-alpha", "lora-dropout")),
        *([f"--{name}={value}", "is not in the range"] for name in ("epochs", "lr") for value in ("0", "-1")),
        ("--lora-rank=8", "--lora-rank is of adapters, and without --lora the whole model learns"),
        ("--lora-alpha=16", "--lora-alpha is of adapters"),
        ("--lora-dropout=0.1", "--lora-dropout is of adapters"),
        ("--lora-target=c_attn", "--lora-target is of adapters"),
        ("-", "TEXT must be a file or a folder"),
    ],
)
def test_wrong_usage_is_answered_before_anything_is_made(
    argument: str, message: str, novel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = [] if argument == "-" else [str(novel)]
    assert frame.run(["finetune", *text, "--out", str(tmp_path / "mine"), argument]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "mine").exists()
