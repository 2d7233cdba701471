"""A whole run: what it leaves behind, and that nothing that interrupts it changes what it learns."""

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt2 import checkpoint, files
from gpt2.data import PrepareConfig, ReadOptions, prepare
from gpt2.errors import CheckpointError, ConfigError, FolderInUseError, ShardError, TrainingError
from gpt2.model.gpt import GPT
from gpt2.tokenizer import Tokenizer
from gpt2.train import Outcome, TrainConfig, WeightsAndBiases, journal, pretrain, to_toml, weights
from gpt2.train import state as states
from gpt2.train.callbacks import Validation
from gpt2.train.loop import Run
from gpt2.train.scaling import LossScale
from gpt2.train.step import Learner

Make = Callable[..., TrainConfig]
STATE_FILES = ("model.safetensors", "training_state.safetensors")


def elsewhere(config: TrainConfig, folder: Path) -> TrainConfig:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, folder=str(folder)))


def metrics(config: TrainConfig) -> list[dict[str, Any]]:
    text = (Path(config.run.folder) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def learned(config: TrainConfig) -> list[dict[str, Any]]:
    """The metrics without what a clock decides."""
    timed = {"seconds", "tokens_per_second", "mfu"}
    return [{key: value for key, value in line.items() if key not in timed} for line in metrics(config)]


def assert_equal_states(a: Path, b: Path) -> None:
    for name in STATE_FILES:
        ours, theirs = load_file(a / name), load_file(b / name)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), f"{name}: {key}"
    one, other = states.load(a).progress, states.load(b).progress
    assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[[], None]) -> None:
    """Have something happen while the step of this number is computed, once."""
    original, done = Learner.step, []

    def interrupted(self: Learner, *args: Any, **named: Any) -> Any:
        if named["step"] == step and not done:
            done.append(step)
            how()
        return original(self, *args, **named)

    monkeypatch.setattr(Learner, "step", interrupted)


def test_a_tracker_that_cannot_begin_ends_the_run_before_its_first_step(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(project: str, dir: str) -> None:
        raise PermissionError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=begin))
    config = make_config()
    with pytest.raises(PermissionError, match="not logged in"):
        pretrain(config, trackers=[WeightsAndBiases("mine", tmp_path / "w")])
    assert not (Path(config.run.folder) / "metrics.jsonl").exists()


class KilledError(Exception):
    pass


def kill() -> None:
    raise KilledError


def test_what_a_run_leaves_behind(make_config: Make) -> None:
    config = make_config()
    said: list[str] = []
    outcome = pretrain(config, say=said.append)
    assert (outcome.finished, outcome.step, outcome.tokens) == (True, 12, 12 * 128)
    folder = Path(config.run.folder)
    assert (folder / "latest").read_text(encoding="utf-8") == "step-00000012\n"
    assert (folder / "config.toml").read_text(encoding="utf-8") == to_toml(config)
    steps = [line for line in metrics(config) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert {"step", "tokens", "seconds", "loss", "lr", "grad_norm", "tokens_per_second", "mfu"} <= steps[0].keys()
    assert [line["step"] for line in metrics(config) if "validation_loss" in line] == [4, 8, 12]
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert any("held-out loss" in line for line in said)


def test_a_checkpoint_is_a_model_folder_with_a_manifest(make_config: Make, data: Path) -> None:
    outcome = pretrain(make_config())
    assert files.broken_files(outcome.checkpoint) == []
    found = checkpoint.read(outcome.checkpoint)
    assert found.tokenizer().hash == states.load(outcome.checkpoint).tokenizer_hash
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(outcome.checkpoint)
    ours = GPT(found.config)
    ours.load_arrays({name: found.weights.float32(name) for name in found.weights.names})
    ids = torch.arange(20)[None]
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_only_the_newest_checkpoints_and_the_best_stay(make_config: Make) -> None:
    config = make_config(run={"keep": 2, "checkpoint_every_steps": 1, "validate_every_steps": 5})
    pretrain(config)
    folders = [folder.name for folder in states.checkpoints(Path(config.run.folder))]
    best = states.load(Path(config.run.folder) / "checkpoints" / folders[-1]).progress.best_step
    assert folders[-2:] == ["step-00000011", "step-00000012"]
    assert len(folders) <= 3
    assert f"step-{best:08d}" in folders


@pytest.mark.parametrize(("step", "n_rows"), [(2, 300), (7, 300), (11, 300), (7, 384)])
def test_killed_and_resumed_equals_uninterrupted(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, n_rows: int
) -> None:
    """KilledError between checkpoints, so that steps are done again; before the first one, so that all are.

    With 384 rows the vocabulary of 300 is filled up: rows that are cut where the checkpoint is opened as a model.
    """
    shape = {"model": {"vocab_size": n_rows}}
    straight = elsewhere(make_config(**shape), tmp_path / "straight")
    whole = pretrain(straight)
    config = make_config(**shape)
    stop_after(monkeypatch, step, kill)
    with pytest.raises(KilledError):
        pretrain(config)
    resumed = pretrain(config)
    assert_equal_states(resumed.checkpoint, whole.checkpoint)
    assert learned(config) == learned(straight)


def test_killed_while_weights_are_averaged_and_batches_grow_equals_uninterrupted(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"optim": {"average_fraction": 0.5}, "schedule": {"batch_stages": [[0.0, 64], [0.4, 128]]}}
    straight = elsewhere(make_config(**changes), tmp_path / "straight")
    whole = pretrain(straight)
    config = make_config(**changes)
    assert (whole.step, config.total_steps) == (17, 17), "ten steps of 64 tokens, seven of 128"
    stop_after(monkeypatch, 15, kill)
    with pytest.raises(KilledError):
        pretrain(config)
    saved = load_file(Path(config.run.folder) / "checkpoints" / "step-00000012" / "training_state.safetensors")
    assert "wte.weight/mean" in saved
    resumed = pretrain(config)
    assert_equal_states(resumed.checkpoint, whole.checkpoint)
    assert learned(config) == learned(straight)
    ended = load_file(resumed.checkpoint / "training_state.safetensors")
    assert "wte.weight/mean" not in ended, "the average is the weights now"


def test_the_average_of_the_last_steps_is_what_is_left(make_config: Make, tmp_path: Path) -> None:
    often = {"checkpoint_every_steps": 1, "keep": 20}
    plain = pretrain(elsewhere(make_config(run=often), tmp_path / "plain"))
    averaged = pretrain(make_config(optim={"average_fraction": 0.25}, run=often))
    last = [load_file(f / "model.safetensors") for f in states.checkpoints(tmp_path / "plain")[-3:]]
    for name, value in load_file(averaged.checkpoint / "model.safetensors").items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in last]).mean(0), rtol=1e-5, atol=1e-6)
    assert averaged.best_loss != plain.best_loss


def test_a_signal_saves_within_a_step_and_the_run_goes_on(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = elsewhere(make_config(), tmp_path / "straight")
    whole = pretrain(straight)
    config = make_config()
    handler = signal.getsignal(signal.SIGTERM)
    stop_after(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGTERM))
    stopped = pretrain(config)
    assert (stopped.finished, stopped.step) == (False, 5)
    assert signal.getsignal(signal.SIGTERM) is handler
    resumed = pretrain(config)
    assert resumed.finished
    assert_equal_states(resumed.checkpoint, whole.checkpoint)
    assert learned(config) == learned(straight)


def test_a_signal_before_the_first_step_saves_too(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validation, "at_start", lambda self, run: signal.raise_signal(signal.SIGTERM))
    stopped = pretrain(make_config())
    assert (stopped.finished, stopped.step, stopped.checkpoint.name) == (False, 0, "step-00000000")
    monkeypatch.undo()
    monkeypatch.setattr(Validation, "after_step", lambda self, run, report: None)  # so that no step is the best
    ended = pretrain(make_config())
    assert ended.finished and ended.best_checkpoint == ended.checkpoint


def test_a_second_ctrl_c_stops_at_once(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stop_after(monkeypatch, 5, twice)
    with pytest.raises(KeyboardInterrupt):
        pretrain(make_config())


def test_pytorch_is_left_as_it_was(make_config: Make) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(3)
    try:
        pretrain(make_config(optim={"dropout": 0.1}, run={"threads": 1}))
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def test_the_seconds_of_a_run_add_up_over_a_resume(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Learner.step

    def in_two_seconds(self: Learner, *args: Any, **named: Any) -> Any:
        return dataclasses.replace(original(self, *args, **named), seconds=2.0)

    monkeypatch.setattr(Learner, "step", in_two_seconds)
    stop_after(monkeypatch, 5, kill)
    config = make_config()
    with pytest.raises(KilledError):
        pretrain(config)
    pretrain(config)
    steps = [line for line in metrics(config) if "loss" in line]
    assert [line["seconds"] for line in steps] == [2.0 * step for step in range(1, 13)]
    assert {line["tokens_per_second"] for line in steps} == {64.0}


def test_a_finished_run_is_left_as_it_is(make_config: Make) -> None:
    config = make_config()
    first = pretrain(config)
    before = metrics(config)
    assert pretrain(config) == first
    assert metrics(config) == before


def test_a_run_may_be_made_longer(make_config: Make) -> None:
    pretrain(make_config())
    longer = pretrain(make_config(schedule={"tokens": 15 * 128}))
    assert (longer.finished, longer.step) == (True, 15)


def test_a_run_that_goes_on_in_other_data_says_so(
    make_config: Make, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(data / "shards", moved)
    pretrain(make_config())
    pretrain(make_config(schedule={"tokens": 13 * 128}, data={"folder": str(moved)}))  # the same, elsewhere
    assert "not those that this run was trained on" not in caplog.text
    other = tmp_path / "other"
    config = PrepareConfig(validation=0.2, read=ReadOptions(split_on="\n\n"))
    prepare([data / "text.txt"], other, config=config, tokenizer=Tokenizer.from_folder(data / "vocabulary"))
    longer = make_config(schedule={"tokens": 14 * 128}, data={"folder": str(other)})
    pretrain(longer)
    assert f"the data in {other} are not those that this run was trained on" in caplog.text
    caplog.clear()
    pretrain(make_config(schedule={"tokens": 15 * 128}, data={"folder": str(other)}))
    assert "not those that" not in caplog.text


def test_another_run_in_the_same_folder_is_refused(make_config: Make) -> None:
    pretrain(make_config())
    with pytest.raises(
        ConfigError,
        match=r"cannot go on with optim\.lr = 0\.02: it began with 0\.01.*`gpt2 train (\S+)/config\.toml --out \1`",
    ):
        pretrain(make_config(optim={"lr": 0.02}))


def test_a_second_trainer_is_refused(make_config: Make) -> None:
    config = make_config()
    with files.lock(Path(config.run.folder)), pytest.raises(FolderInUseError):
        pretrain(config)


@pytest.mark.parametrize("name", ["folder", "run"])
def test_what_is_not_named_is_asked_for(make_config: Make, name: str) -> None:
    config = make_config(**({"data": {"folder": ""}} if name == "folder" else {"run": {"folder": ""}}))
    with pytest.raises(ConfigError, match="--data DIR" if name == "folder" else "--out DIR"):
        pretrain(config)


def test_another_vocabulary_is_refused(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"Set data\.tokenizer"):
        pretrain(make_config(data={"tokenizer": ""}))
    with pytest.raises(ConfigError, match=r"Set model\.vocab_size="):
        pretrain(make_config(model={"vocab_size": 200}))


def test_a_shard_that_is_not_what_it_was_is_named_before_the_first_step(
    make_config: Make, data: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(data / "shards", tmp_path / "shards")
    shard = tmp_path / "shards" / "train-00000.bin"
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    config = make_config(data={"folder": str(tmp_path / "shards")})
    with pytest.raises(ShardError, match=r"train-00000\.bin"):
        pretrain(config)
    assert not (Path(config.run.folder) / "metrics.jsonl").exists()


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Have the loss of these steps be infinite."""
    original = Learner._backward

    def spoiled(self: Learner, *args: Any) -> Any:
        loss = original(self, *args)
        return loss * math.inf if step_of[0] in steps else loss

    step_of = [0]
    original_step = Learner.step

    def counted(self: Learner, *args: Any, **named: Any) -> Any:
        step_of[0] = named["step"]
        return original_step(self, *args, **named)

    monkeypatch.setattr(Learner, "_backward", spoiled)
    monkeypatch.setattr(Learner, "step", counted)


def test_a_bad_step_is_skipped_counted_and_named(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(monkeypatch, {5, 7, 9})
    config = make_config()
    outcome = pretrain(config)
    assert outcome.finished
    progress = states.load(outcome.checkpoint).progress
    assert (progress.skipped, progress.returns) == (3, 0), "three, but not in a row"
    line = next(line for line in metrics(config) if line["step"] == 5)
    assert line["loss"] is line["grad_norm"] is None
    assert "step 5 skipped: loss inf" in caplog.text
    assert "'sequences': 40" in caplog.text, "where in the data it was"


def test_three_bad_steps_return_to_the_last_good_state(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(monkeypatch, {5, 6, 7})
    outcome = pretrain(make_config())
    progress = states.load(outcome.checkpoint).progress
    assert outcome.finished
    assert (progress.skipped, progress.returns, progress.step) == (3, 1, 12)
    assert "back to the weights of step-00000006" in caplog.text


def test_a_return_forgets_the_average_of_the_steps_it_takes_back(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 7 is averaged and taken back: what is left is the average of steps 11 and 12, as if that had begun there."""
    spoil(monkeypatch, {8, 9, 10})
    early, late = (
        pretrain(make_config(optim={"average_fraction": share}, run=run | {"folder": str(tmp_path / str(share))}))
        for run in [{"checkpoint_every_steps": 6, "validate_every_steps": 0}]
        for share in (0.5, 0.2)
    )
    assert states.load(early.checkpoint).progress.returns == 1
    assert_equal_states(early.checkpoint, late.checkpoint)


def test_a_run_that_keeps_failing_ends_with_advice(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, set(range(2, 100)))
    with pytest.raises(TrainingError, match=r"Lower optim\.lr"):
        pretrain(make_config(schedule={"tokens": 100 * 128}))


def test_three_bad_steps_before_any_checkpoint_end_the_run(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {1, 2, 3})
    with pytest.raises(TrainingError, match="there is no earlier state"):
        pretrain(make_config(run={"checkpoint_every_steps": 0}))


def test_weights_that_are_not_finite_are_never_saved(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def poison(run: Run) -> Any:
        state = original(run)
        if run.progress.step == 6:
            return dataclasses.replace(state, weights={**state.weights, "wpe": state.weights["wpe"] * math.nan})
        return state

    original = Run.capture
    monkeypatch.setattr(Run, "capture", poison)
    config = make_config(run={"validate_every_steps": 0, "keep": 20})
    pretrain(config)
    names = [folder.name for folder in states.checkpoints(Path(config.run.folder))]
    assert names == ["step-00000003", "step-00000009", "step-00000012"]
    assert "wpe is not finite" in caplog.text


def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    straight = elsewhere(make_config(), tmp_path / "straight")
    whole = pretrain(straight)
    original = weights.write_arrays

    def save(path: Path, arrays: dict[str, torch.Tensor]) -> None:
        if "step-00000006" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, arrays)

    monkeypatch.setattr(weights, "write_arrays", save)
    config = make_config(run={"validate_every_steps": 0})
    stop_after(monkeypatch, 8, kill)
    with pytest.raises(KilledError):
        pretrain(config)
    assert "step 6 was not saved: the disk is full" in caplog.text
    folder = Path(config.run.folder)
    assert states.latest(folder) == folder / "checkpoints" / "step-00000003"
    assert not list((folder / "checkpoints").glob(".partial-*"))
    resumed = pretrain(config)
    for name in STATE_FILES:
        ours, theirs = load_file(resumed.checkpoint / name), load_file(whole.checkpoint / name)
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_full_disk_at_the_end_is_an_error(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(path: Path, arrays: dict[str, torch.Tensor]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "write_arrays", save)
    with pytest.raises(TrainingError, match=r"cannot be saved: the disk is full\. Nothing of this run is saved yet"):
        pretrain(make_config())


def test_a_disk_without_room_for_one_state_is_named_before_the_first_step(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    pretrain(config)
    usage = shutil.disk_usage(config.run.folder)
    longer = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, tokens=16 * 128))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10_000))
    assert pretrain(config).finished, "nothing is left to save"
    n_lines = len(metrics(config))
    with pytest.raises(TrainingError, match=r"at least 0\.1 MB, and 0\.0 MB are free in .*run\. Make room"):
        pretrain(longer)
    assert len(metrics(config)) == n_lines
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(total=0, free=0))
    assert pretrain(longer).step == 16


def test_a_full_disk_costs_the_journal_lines_and_not_the_run(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def append(path: Path, line: bytes) -> None:
        if 4 <= json.loads(line)["step"] <= 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, line)

    original = journal.append
    monkeypatch.setattr(journal, "append", append)
    config = make_config()
    outcome = pretrain(config)
    assert outcome.finished and outcome.checkpoint.name == "step-00000012"
    assert [line["step"] for line in metrics(config) if "loss" in line] == [1, 2, 3, 9, 10, 11, 12]
    assert caplog.text.count("metrics.jsonl misses lines from here on: the disk is full") == 1


def test_a_line_of_the_journal_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits of a file's size on this system")
    path = tmp_path / "lines"
    journal.append(path, b"first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room in (0, 3):
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
            with pytest.raises(OSError, match="too large"):  # though of the second a part was written
                journal.append(path, b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(path, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_a_broken_newest_checkpoint_is_passed_over(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config()
    outcome = pretrain(config)
    model = outcome.checkpoint / "model.safetensors"
    damaged = bytearray(model.read_bytes())
    damaged[-1] ^= 1
    model.write_bytes(damaged)
    found = states.latest(Path(config.run.folder))
    assert found is not None
    assert found.name == "step-00000009"
    assert "step-00000012 is broken (model.safetensors has another SHA-256" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"\0" * 14, b"\xff\n", b"../x\n", None])
def test_where_latest_is_damaged_or_lost_the_newest_whole_checkpoint_is_gone_on_from(
    make_config: Make, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    config = make_config()
    outcome = pretrain(config)
    assert outcome.checkpoint is not None
    (outcome.checkpoint / "model.safetensors").unlink()
    marker = Path(config.run.folder) / "latest"
    marker.unlink() if damage is None else marker.write_bytes(damage)
    found = states.latest(Path(config.run.folder))
    assert found is not None
    assert found.name == "step-00000009"
    assert "step-00000012 is broken" in caplog.text


def rewrite(folder: Path, version: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Make a checkpoint one of another version of the state."""
    facts = files.read_json(folder / "training_state.json")
    change(facts)
    files.write_json(folder / "training_state.json", facts)
    files.write_manifest(folder, {"format": "training state", "version": version})


def test_a_run_goes_on_from_a_state_of_the_version_before(make_config: Make, tmp_path: Path) -> None:
    """Whose scale of the loss lay nowhere, in `progress` or beside it; and from one that did not say `fixed` yet."""
    whole = pretrain(elsewhere(make_config(), tmp_path / "whole"))
    half = make_config(run={"keep": 20})
    pretrain(half)
    run_folder = Path(half.run.folder)
    (run_folder / "latest").write_text("step-00000006\n", encoding="utf-8")
    saved = run_folder / "checkpoints" / "step-00000006"
    assert files.read_json(saved / "manifest.json")["version"] == 2
    assert states.load(saved).loss_scale == LossScale()
    in_use = LossScale(factor=1024.0, good_steps=7, fixed=False)
    beside: list[tuple[int, dict[str, Any], LossScale]] = [
        (2, {"factor": 1.0, "good_steps": 0}, LossScale()),
        (2, {"factor": 1.0, "good_steps": 0, "fixed": False}, LossScale(fixed=False)),
        (2, {"factor": 1024.0, "good_steps": 7}, in_use),
        (1, {"factor": 1024.0, "good_steps": 7}, in_use),
        (1, {"factor": 1.0, "good_steps": 0}, LossScale()),
    ]
    for version, scale, expected in beside:
        rewrite(saved, version, lambda facts, scale=scale: facts.update(loss_scale=scale))
        assert states.load(saved).loss_scale == expected
    rewrite(saved, 1, lambda facts: facts.pop("loss_scale"))
    assert states.load(saved).loss_scale == LossScale()
    rewrite(saved, 1, lambda facts: facts["progress"].update(loss_scale=1024.0, loss_scale_steps=7))
    assert states.load(saved).loss_scale == in_use
    resumed = pretrain(half)
    assert_equal_states(resumed.checkpoint, whole.checkpoint)


def test_a_state_of_a_later_version_is_an_error_that_says_so(make_config: Make) -> None:
    config = make_config()
    ended = pretrain(config)
    rewrite(ended.checkpoint, 3, lambda facts: None)
    with pytest.raises(CheckpointError, match=r"step-00000012 cannot be gone on from.*version 3, and versions 1 and 2"):
        pretrain(make_config(schedule={"tokens": 15 * 128}))


def test_no_whole_checkpoint_is_an_error_not_a_new_run(make_config: Make) -> None:
    config = make_config()
    pretrain(config)
    for folder in states.checkpoints(Path(config.run.folder)):
        (folder / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="no whole checkpoint left"):
        pretrain(config)


def test_samples_are_asked_for_when_due(make_config: Make) -> None:
    seen: list[int] = []
    pretrain(make_config(run={"sample_every_steps": 5}), on_sample=lambda model, step: seen.append(step))
    assert seen == [5, 10, 12]


def test_the_plan_is_told_before_the_first_step(make_config: Make) -> None:
    seen: list[str] = []

    def told(plan: Any) -> None:
        seen.extend(plan.lines())
        assert not metrics(config)

    config = make_config()
    pretrain(config, on_plan=told)
    assert any("12 steps" in line for line in seen)
    assert any("float32 (as asked)" in line for line in seen)


def test_without_held_out_text_it_trains_and_says_so(
    make_config: Make, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from gpt2.data import prepare, write_shard
    from gpt2.tokenizer import Tokenizer

    prepare([data / "text.txt"], tmp_path / "all", tokenizer=Tokenizer.from_folder(data / "vocabulary"))
    shutil.copytree(data / "shards", tmp_path / "one token")
    (shard,) = (tmp_path / "one token").glob("validation*.bin")
    write_shard(shard, [7], vocab_size=300)
    manifest = files.read_json(shard.parent / files.MANIFEST_NAME)
    manifest["files"][shard.name] |= {"tokens": 1, "bytes": shard.stat().st_size, "sha256": files.sha256_file(shard)}
    files.write_json(shard.parent / files.MANIFEST_NAME, manifest)
    for name in ("all", "one token"):
        caplog.clear()
        run = {"folder": str(tmp_path / f"run of {name}")}
        outcome = pretrain(make_config(data={"folder": str(tmp_path / name)}, run=run))
        assert (outcome.finished, outcome.best_loss) == (True, None)
        assert "nothing is held out, so no validation loss will be measured: prepare with" in caplog.text


@pytest.mark.parametrize(
    ("n_rows", "loss_rows", "advice"),
    [
        (1000, 500, "the vocabulary has 300 ids, but the model has rows for 1,000: the rest waste time and memory. "
            "Leave them out: --set model.vocab_size=300 --set loss.rows=0"),
        (1000, 100, "Leave them out: --set model.vocab_size=300"),
        (384, 100, ""),  # filled up to a multiple of 128
    ],
)  # fmt: skip
def test_rows_that_no_id_uses_are_said(
    make_config: Make, caplog: pytest.LogCaptureFixture, n_rows: int, loss_rows: int, advice: str
) -> None:
    sizes = {"model": {"vocab_size": n_rows}, "loss": {"rows": loss_rows}}
    pretrain(make_config(**sizes, schedule={"tokens": 2 * 128}))
    said = [line for line in caplog.messages if "rows for" in line]
    assert len(said) == bool(advice)
    assert not said or said[0].endswith(advice)
    caplog.clear()
    pretrain(make_config(**sizes, schedule={"tokens": 4 * 128}))  # goes on, and its shape stays
    assert not any("rows for" in line for line in caplog.messages)


@pytest.mark.long
def test_killed_at_twenty_random_moments_equals_uninterrupted(make_config: Make, tmp_path: Path) -> None:
    """SIGKILL, wherever it falls: in a step, in a save, between a rename and `latest`. It saves after every step."""
    often = {"checkpoint_every_steps": 1, "validate_every_steps": 0, "keep": 1}
    straight = elsewhere(make_config(run=often, schedule={"tokens": 60 * 128}), tmp_path / "straight")
    begin = time.monotonic()
    whole = pretrain(straight)
    step_seconds = (time.monotonic() - begin) / 60  # so that a fast machine has not ended before it was killed often
    recipe = tmp_path / "run.toml"
    code = f"from gpt2.train import load_config, pretrain; pretrain(load_config({str(recipe)!r}))"
    draw, kills = random.Random(0), 0
    for number in range(20):  # one that ended before it was killed often enough is followed by another
        config = elsewhere(straight, tmp_path / f"killed {number}")
        recipe.write_text(to_toml(config), encoding="utf-8")
        has_ended = False
        while kills < 20 and not has_ended:
            with running(code) as process:
                before = newest_step(config)
                while process.poll() is None and newest_step(config) == before:
                    time.sleep(0.01)
                time.sleep(draw.random() * min(0.2, 2 * step_seconds))
                process.kill()
                has_ended = process.wait() == 0
                assert has_ended or process.returncode == -signal.SIGKILL
                kills += not has_ended
        resumed = pretrain(config)
        assert_equal_states(resumed.checkpoint, whole.checkpoint)
        assert learned(config) == learned(straight)
        if kills == 20:
            break
    assert kills == 20


@contextlib.contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def newest_step(config: TrainConfig) -> str:
    marker = Path(config.run.folder) / "latest"
    return marker.read_text(encoding="utf-8") if marker.exists() else ""


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gpt2")


def test_outcome_can_be_told_as_json(make_config: Make) -> None:
    outcome = pretrain(make_config())
    assert isinstance(outcome, Outcome)
    assert json.loads(json.dumps(dataclasses.asdict(outcome), default=str))["step"] == 12


def test_a_write_that_really_fails_is_answered_the_same_way(make_config: Make) -> None:
    """The system refuses files above 16 KB, so the weights cannot be written whole, by whatever library."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, hard))
    try:
        with pytest.raises(
            TrainingError, match=r"cannot be saved: File too large\. Nothing of this run is saved"
        ) as failed:
            pretrain(make_config())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no file here may grow so large" in str(failed.value) and "make room" not in str(failed.value)
