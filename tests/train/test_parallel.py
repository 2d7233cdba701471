"""Several processes on this machine, talking by gloo: the same losses, whoever holds what."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.errors import BackendError, ConfigError, TrainingError
from gpt2.train import TrainConfig, parallel, pretrain, to_toml
from gpt2.train.parallel import Processes, choose, joined

Make = Callable[..., TrainConfig]
LONG = 900  # seconds, longer than anything takes

PROGRAM = """
import os, signal, sys
from gpt2.train import load_config, pretrain
from gpt2.train.step import Learner
if sys.argv[2:]:  # step at which this rank dies, once
    step, rank, mark = int(sys.argv[2]), sys.argv[3], sys.argv[4]
    original = Learner.step
    def dying(self, *args, **named):
        if named["step"] == step and os.environ["RANK"] == rank and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **named)
    Learner.step = dying
pretrain(load_config(sys.argv[1]))
"""


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that the system gives in the meantime to those alone who ask for it by its number."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@contextlib.contextmanager
def meeting_place() -> Iterator[dict[str, str]]:
    """What tells two processes where they meet."""
    with free_port() as port:
        yield {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start(config: TrainConfig, folder: Path, n: int, *dying: str, restarts: int = 0) -> None:
    """Train with `n` processes under torchrun, and wait."""
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "--rdzv-backend", "c10d"]
    with free_port() as port:
        launcher += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
        launcher += ["--max-restarts", str(restarts)]
        done = subprocess.run(
            [*launcher, str(folder / "program.py"), str(folder / "config.toml"), *dying],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
    told = [line for line in done.stderr.splitlines() if "Error" in line or "gpt2" in line]
    assert done.returncode == 0, "\n".join(told)


def run_together(command: list[str], folder: Path) -> None:
    """Run two processes that wait for each other, and wait until both have ended well."""
    with meeting_place() as place:
        environment = {**os.environ, **place, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        end_together([command] * 2, [{**environment, "RANK": rank} for rank in "01"], folder)


def end_together(commands: list[list[str]], environments: list[dict[str, str]], folder: Path) -> None:
    """Run commands that wait for each other: when one fails the others are ended, and what all said is shown."""
    said = [folder / f"said {number}.txt" for number in range(len(commands))]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command, environment, path in zip(commands, environments, said, strict=True):
            with path.open("wb") as file:
                running.append(subprocess.Popen(command, env=environment, stderr=file))
        latest = time.monotonic() + LONG
        while None in [process.poll() for process in running] and time.monotonic() < latest:
            if any(process.returncode for process in running):
                break
            time.sleep(0.05)
    finally:
        ended = [process.poll() for process in running]
        for process in running:
            process.kill()
            process.wait()
    told = "\n".join(f"process {i}:\n{path.read_text(encoding='utf-8')}" for i, path in enumerate(said))
    assert ended == [0] * len(commands), f"{ended}, None for one that was still waiting\n{told}"


def journal(config: TrainConfig) -> list[dict[str, Any]]:
    path = Path(config.run.folder) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(config: TrainConfig) -> list[float]:
    return [line.get("loss", line.get("validation_loss")) for line in journal(config)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "optimizer", "recompute"), [("ddp", "muon", False), ("fsdp", "adamw", False), ("fsdp", "muon", True)]
)
def test_two_processes_take_the_steps_of_one(
    make_config: Make, tmp_path: Path, how: str, optimizer: str, recompute: bool
) -> None:
    def config(name: str, **run: Any) -> TrainConfig:
        optim = {"matrices": optimizer, "clip_norm": 0.1}
        return make_config(run={"folder": str(tmp_path / name), "parallel": how} | run, optim=optim)

    pretrain(config("alone"))
    start(config("together", recompute=recompute), tmp_path, 2)
    alone, together = losses(config("alone")), losses(config("together"))
    assert alone == pytest.approx(together, abs=1e-5)
    assert len(alone) == 15
    norms = [[line["grad_norm"] for line in journal(config(name)) if "loss" in line] for name in ("alone", "together")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_batch_that_processes_cannot_share_evenly(make_config: Make, tmp_path: Path, how: str) -> None:
    def config(name: str) -> TrainConfig:
        return make_config(
            schedule={"tokens": 6 * 96, "batch_tokens": 96, "sequence": [[0.0, 32]]},
            optim={"dropout": 0.1},
            run={"folder": str(tmp_path / name), "parallel": how, "micro_batch_tokens": 32},
        )

    pretrain(config("alone"))
    start(config("together"), tmp_path, 2)
    assert losses(config("alone")) == pytest.approx(losses(config("together")), abs=1e-5)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_processes(make_config: Make, tmp_path: Path) -> None:
    whole = make_config(run={"folder": str(tmp_path / "whole")}, optim={"matrices": "adamw"})
    pretrain(whole)
    for number, (first, then) in enumerate(((2, 1), (1, 2))):
        half, rest = (
            make_config(
                run={"folder": str(tmp_path / f"parts {number}"), "parallel": "fsdp"},
                optim={"matrices": "adamw"},
                schedule={"tokens": tokens, "shape": "cosine", "sequence": [[0.0, 32]]},
                loss={"rows": 0},
            )
            for tokens in (6 * 128, 12 * 128)
        )
        reference = make_config(
            run={"folder": str(tmp_path / f"reference {number}")},
            optim={"matrices": "adamw"},
            schedule={"tokens": 6 * 128, "shape": "cosine", "sequence": [[0.0, 32]]},
            loss={"rows": 0},
        )
        for config, n in ((half, first), (rest, then)):
            start(config, tmp_path, n) if n > 1 else pretrain(config)
        pretrain(reference)
        longer = make_config(
            run={"folder": str(tmp_path / f"reference {number}")},
            optim={"matrices": "adamw"},
            schedule={"tokens": 12 * 128, "shape": "cosine", "sequence": [[0.0, 32]]},
            loss={"rows": 0},
        )
        pretrain(longer)
        assert losses(rest) == pytest.approx(losses(longer), abs=1e-5)


@pytest.mark.long
def test_a_process_that_is_killed_is_started_again_from_the_last_checkpoint(make_config: Make, tmp_path: Path) -> None:
    """And those that start again do not wait for the dead, whose addresses the launcher still keeps."""
    alone, together = (make_config(run={"folder": str(tmp_path / name)}) for name in ("alone", "together"))
    pretrain(alone)
    start(together, tmp_path, 2, "8", "1", str(tmp_path / "died"), restarts=1)
    assert (tmp_path / "died").exists()
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    assert [line["step"] for line in journal(together) if "loss" in line] == list(range(1, 13))


def test_when_one_of_two_fails_both_are_ended_and_heard(tmp_path: Path) -> None:
    program = "import os, sys, time; sys.exit('the cause') if os.environ['RANK'] == '1' else time.sleep(200)"
    with pytest.raises(AssertionError, match=r"process 1:\s+the cause"):
        run_together([sys.executable, "-c", program], tmp_path)


@pytest.mark.long
def test_who_is_left_when_another_is_killed_says_so(tmp_path: Path) -> None:
    program = """
import os, signal
import torch
from gpt2.train.parallel import joined
with joined("cpu") as processes:
    processes.sum(torch.ones(1))  # both are there
    if processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(1000):
        processes.sum(torch.ones(1))
"""
    command = [sys.executable, "-c", program]
    with meeting_place() as place:
        environment = {**os.environ, **place, "GLOO_SOCKET_IFNAME": "lo"}
        both = [
            subprocess.Popen(command, env={**environment, "RANK": rank}, stderr=subprocess.PIPE) for rank in ("0", "1")
        ]
        told, _ = (process.communicate(timeout=LONG)[1].decode() for process in both)
    assert [process.returncode for process in both] == [1, -signal.SIGKILL]
    assert "TrainingError: Process 0 of 2 cannot go on: it has lost another" in told


@pytest.mark.parametrize("rank", ["0", "1"])
def test_who_meets_nobody_says_so(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE", timedelta(seconds=1))
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    monkeypatch.setenv("RANK", rank)
    with meeting_place() as place:
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(TrainingError, match=f"Process {rank} of 2 cannot begin: it has not met the others"),
            joined("cpu"),
        ):
            pass


@pytest.mark.long
def test_another_that_lives_but_never_answers_is_not_waited_for_without_end(tmp_path: Path) -> None:
    program = """
import datetime, sys
import torch
from gpt2.train import parallel
parallel._PATIENCE = datetime.timedelta(seconds=15)
print(flush=True)
sys.stdin.readline()  # till both have imported all this, which may take one longer than the patience of the other
with parallel.joined("cpu") as processes:
    processes.sum(torch.ones(1))  # both are there
    if processes.rank == 1:
        sys.stdin.read()  # till the test has heard the first
    processes.sum(torch.ones(1))
"""
    with meeting_place() as place:
        first, silent = (
            subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, **place, "GLOO_SOCKET_IFNAME": "lo", "RANK": rank},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank in ("0", "1")
        )
        try:
            for process in (first, silent):
                assert process.stdout and process.stdout.readline()
            for process in (first, silent):
                assert process.stdin
                process.stdin.write(b"\n")
                process.stdin.flush()
            told = first.communicate(timeout=LONG)[1].decode()
            assert silent.poll() is None
        finally:
            for process in (first, silent):
                process.kill()
                process.communicate()
    assert first.returncode == 1
    assert "TrainingError: Process 0 of 2 cannot go on: it has lost another" in told


def test_a_batch_is_shared_without_a_rest() -> None:
    for world in (1, 2, 3, 5):
        for n_rows in (5, 6, 7, 64):
            parts = [Processes(rank=rank, world=world).rows(n_rows) for rank in range(world)]
            assert [row for part in parts for row in range(n_rows)[part]] == list(range(n_rows))
            most = max(part.stop - part.start for part in parts)
            assert Processes(world=world).most_rows(n_rows) == most
    with pytest.raises(ConfigError, match="2 sequences cannot be shared by 3"):
        Processes(world=3).rows(2)


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as processes:
        assert processes == Processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK and WORLD_SIZE"), joined("cpu"):
        pass


@pytest.mark.parametrize(
    ("rank", "world", "place", "told"),
    [
        ("0", "0", {}, "they are 0 and 0"),
        ("2", "2", {}, "they are 2 and 2"),
        ("-1", "1", {}, "they are -1 and 1"),
        ("0", "x", {}, "RANK and WORLD_SIZE must both be set to numbers"),
        ("0", "2", {}, "cannot look for the others: MASTER_ADDR and MASTER_PORT"),
        ("0", "2", {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "cannot look for the others"),
    ],
)
def test_a_launcher_that_says_nonsense(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str, place: dict[str, str], told: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": rank, "WORLD_SIZE": world, **place}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told), joined("cpu"):
        pass


def test_a_gpu_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="'cuda' cannot be used: PyTorch sees none"), joined("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with (
        pytest.raises(BackendError, match="'cuda:1' cannot be used: each process has a GPU of its own"),
        joined("cuda:1"),
    ):
        pass
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BackendError, match="GPU 2 cannot be used: PyTorch sees 2 here"), joined("auto"):
        pass
    monkeypatch.setenv("LOCAL_RANK", "1")
    with joined("auto"):
        assert taken == [1]
    monkeypatch.delenv("WORLD_SIZE")
    with joined("cuda:0"):
        assert taken == [1, 0]
    with joined("cuda"), joined("cpu"):
        assert taken == [1, 0]


def test_a_model_that_fits_is_held_whole(make_config: Make) -> None:
    cpu = torch.device("cpu")
    assert choose(make_config(), Processes(), cpu) == "none"
    assert choose(make_config(), Processes(world=2), cpu) == "ddp"
    assert choose(make_config(run={"parallel": "fsdp"}), Processes(world=2), cpu) == "fsdp"
    vast = make_config(model={"n_layer": 400, "n_head": 64, "n_embd": 16384, "n_positions": 32}, loss={"rows": 0})
    assert choose(vast, Processes(world=2), cpu) == "fsdp"


MISHAPS = """
import errno, json, logging, os, pathlib, signal, sys
import torch.distributed as dist
from gpt2.errors import BackendError, ConfigError, TrainingError
from gpt2.train import journal, load_config, pretrain, weights
from gpt2.train.callbacks import Validation

rank = int(os.environ["RANK"])
told, seen = [], {}
handler = logging.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logging.getLogger("gpt2").addHandler(handler)
write, append, after_step = weights.write_arrays, journal.append, Validation.after_step
dist.init_process_group("gloo")


def full(only):
    def refuse(path, arrays):
        if only in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, arrays)
    return refuse


def no_line(path, line):
    raise OSError(errno.ENOSPC, "No space left on device")


def signalled(self, run, report):
    after_step(self, run, report)
    if report.step == 4 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def train(name):
    config = load_config(sys.argv[1], [f"run.folder={os.path.join(sys.argv[2], name)}"])
    outcome = pretrain(config, on_sample=lambda model, step: [])
    return [outcome.finished, outcome.step]


if rank == 0:
    weights.write_arrays = full("step-00000006")
seen["one save fails"] = train("filled")
if rank == 0:
    weights.write_arrays, journal.append = full("step"), no_line
try:
    train("never saved")
except TrainingError as error:
    seen["the last save fails"] = str(error)
weights.write_arrays, journal.append, Validation.after_step = write, append, signalled
seen["signalled"] = train("signalled")
Validation.after_step = after_step
seen["gone on with"] = train("signalled")


def refused(name):
    try:
        return train(name)
    except (OSError, ConfigError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"


def no_room(self, path, *, from_step):
    if rank == 0 and refuses in path.name:
        raise OSError(errno.ENOSPC, "No space left on device")
    begin(self, path, from_step=from_step)


begin, journal.Journal.__init__ = journal.Journal.__init__, no_room
for refuses in ("metrics", "samples"):
    seen[f"no {refuses}"] = refused(f"no {refuses}")
journal.Journal.__init__ = begin
if rank == 0:
    pathlib.Path(sys.argv[2], "a file").touch()
seen["no folder"] = refused("a file")
seen["after all that"] = train("after all that")
with open(os.path.join(sys.argv[2], f"seen {rank}.json"), "w") as file:
    json.dump({**seen, "told": told}, file)
dist.destroy_process_group()
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_what_happens_to_one_process_is_answered_by_both(make_config: Make, tmp_path: Path, how: str) -> None:
    """A save that fails, now and at the end, and a signal between two steps; neither changes what is learned."""
    config = make_config(run={"parallel": how, "validate_every_steps": 0}, optim={"matrices": "adamw"})
    alone = make_config(run={"folder": str(tmp_path / "alone"), "validate_every_steps": 0}, optim={"matrices": "adamw"})
    pretrain(alone)
    (tmp_path / "program.py").write_text(MISHAPS, encoding="utf-8")
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    run_together([sys.executable, str(tmp_path / "program.py"), str(tmp_path / "config.toml"), str(tmp_path)], tmp_path)
    first, second = (json.loads((tmp_path / f"seen {rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    for seen in (first, second):
        assert seen["one save fails"] == [True, 12]
        assert seen["signalled"] == [False, 5]
        assert seen["gone on with"] == seen["after all that"] == [True, 12]
    for what in ("no metrics", "no samples"):
        assert "No space left on device" in first[what]
        assert second[what] == "TrainingError: The first process could not begin, and says why; this one ends with it."
    assert first["no folder"].startswith("ConfigError")
    assert "could not hold the run's folder" in second["no folder"]
    assert any("metrics.jsonl misses lines from here on: the disk is full" in line for line in first["told"])
    assert any("step 6 was not saved: the disk is full" in line for line in first["told"])
    assert any("the first process could not save step 6" in line for line in second["told"])
    assert "step 12 cannot be saved: the disk is full" in first["the last save fails"]
    assert "could not save step 12" in second["the last save fails"]
    kept = sorted(folder.name for folder in (tmp_path / "filled" / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000009", "step-00000012"]
    for name in ("filled", "signalled"):
        together = make_config(run={"folder": str(tmp_path / name)})
        assert losses(together) == pytest.approx(losses(alone), abs=1e-5)


UNCOMPILED = """
import json, os, sys, tempfile
import torch
import torch.distributed as dist
tempfile.tempdir = sys.argv[2]
torch.compile = lambda function, **options: function  # what it would make matters less than that it fails
from gpt2.errors import TrainingError
from gpt2.train import load_config, pretrain, step as steps

rank, failing = int(os.environ["RANK"]), {"forward"}
steps.can_compile, steps.fused_softmax = lambda device: True, lambda: None
build = steps.Learner.__init__


def break_once(when):
    if rank == 1 and when in failing:
        failing.remove(when)
        raise RuntimeError("Failed to import /its/cache/ab/cab.py")


def built(self, model, *given):
    forward = model.h[0].forward
    def broken(x):
        break_once("forward")
        x = forward(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: break_once("backward"))
        return x
    model.h[0].forward = broken
    build(self, model, *given)


def train(name):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/its/cache"
    try:
        return pretrain(load_config(sys.argv[1], [f"run.folder={os.path.join(sys.argv[2], name)}"])).step
    except TrainingError as error:
        return str(error)


steps.Learner.__init__ = built
dist.init_process_group("gloo")
seen = [train("a forward pass")]
if seen == [12]:
    failing.add("backward")
    seen.append(train("a backward pass"))
with open(os.path.join(sys.argv[2], f"seen {rank}.json"), "w") as file:
    json.dump(seen, file)
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_compiler_that_fails_in_one_process_is_survived_or_ends_both(
    make_config: Make, tmp_path: Path, how: str
) -> None:
    """Before they talk the process begins again; once the other waits for it, it says what to do, and both end."""
    sizes = {"parallel": how, "compile": True, "micro_batch_tokens": 128}
    plain: dict[str, Any] = {"optim": {"matrices": "adamw"}, "loss": {"rows": 0}}
    config = make_config(run=sizes, **plain)
    (tmp_path / "program.py").write_text(UNCOMPILED, encoding="utf-8")
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    run_together([sys.executable, str(tmp_path / "program.py"), str(tmp_path / "config.toml"), str(tmp_path)], tmp_path)
    first, second = (json.loads((tmp_path / f"seen {rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    if how == "ddp":
        assert first.pop(0) == second.pop(0) == 12
        alone = make_config(run={**sizes, "compile": False, "folder": str(tmp_path / "alone")}, **plain)
        pretrain(alone)
        together = make_config(run={"folder": str(tmp_path / "a forward pass")})
        assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    assert len(first) == len(second) == 1
    assert "Remove /its/cache there" in second[0] and "run.compile=false" in second[0]
    assert "it has lost another" in first[0]
