"""Two processes in two network namespaces, joined by nothing but a virtual cable: a cluster's network."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.train.test_parallel import PROGRAM as DYING
from tests.train.test_parallel import end_together

from gpt2.files import read_journal
from gpt2.train import TrainConfig, pretrain, to_toml

PROGRAM = "import sys; from gpt2.train import load_config, pretrain; pretrain(load_config(sys.argv[1]))"
ADDRESSES = ("10.213.7.1", "10.213.7.2")  # seen by the two namespaces alone


@pytest.fixture
def machines() -> Iterator[list[tuple[str, str]]]:
    """Names of two namespaces, and of the end of the cable in each."""
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux, root and the program ip")
    made = [(f"gpt2-{os.getpid()}-{end}", f"g{os.getpid()}{end}") for end in "ab"]
    (one, one_end), (other, other_end) = made
    try:
        for name, _ in made:
            if ip("netns", "add", name).returncode:
                pytest.skip("this system allows no new network namespace")
        if ip("link", "add", one_end, "netns", one, "type", "veth", "peer", other_end, "netns", other).returncode:
            pytest.skip("this system has no virtual cables")
        for (name, end), address in zip(made, ADDRESSES, strict=True):
            assert not ip("-n", name, "addr", "add", f"{address}/24", "dev", end).returncode
            assert not ip("-n", name, "link", "set", end, "up").returncode
            assert not ip("-n", name, "link", "set", "lo", "up").returncode
        yield made
    finally:
        for name, _ in made:
            for pid in ip("netns", "pids", name).stdout.split():  # what a launcher that was ended has left
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name)


def ip(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False)


def losses(config: TrainConfig) -> list[float]:
    """Of every step and every validation, in order."""
    rows = read_journal(Path(config.run.folder) / "metrics.jsonl")
    found = itertools.chain.from_iterable((row.get("loss"), row.get("validation_loss")) for row in rows)
    return [loss for loss in found if loss is not None]


def both(
    machines: list[tuple[str, str]], commands: list[list[str]], variables: list[dict[str, str]], folder: Path
) -> None:
    """Run a command on each machine and wait until both have ended well; when one fails, say what both said."""
    on_machine = [
        ["ip", "netns", "exec", name, *command] for (name, _), command in zip(machines, commands, strict=True)
    ]
    environments = [
        {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": end} | of_its_own
        for (_, end), of_its_own in zip(machines, variables, strict=True)
    ]
    end_together(on_machine, environments, folder)


@pytest.mark.long
def test_two_machines_take_the_steps_of_one(
    make_config: Callable[..., TrainConfig], tmp_path: Path, machines: list[tuple[str, str]]
) -> None:
    alone, together = (
        make_config(run={"folder": str(tmp_path / name), "parallel": "ddp"}, optim={"clip_norm": 0.1})
        for name in ("alone", "together")
    )
    pretrain(alone)
    recipe = tmp_path / "run.toml"
    recipe.write_text(to_toml(together), encoding="utf-8")
    launched = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    launched |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500"}
    command = [sys.executable, "-c", PROGRAM, str(recipe)]
    both(machines, [command] * 2, [launched | {"RANK": rank} for rank in "01"], tmp_path)
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    assert len(losses(alone)) == 15


@pytest.mark.long
def test_a_machine_that_fails_is_heard_while_the_other_waits(tmp_path: Path, machines: list[tuple[str, str]]) -> None:
    waits, fails = "import threading; threading.Event().wait()", "import sys; sys.exit('the cause')"
    with pytest.raises(AssertionError, match=r"\[None, 1\].*\s+process 0:\s+process 1:\s+the cause"):
        both(machines, [[sys.executable, "-c", program] for program in (waits, fails)], [{}] * 2, tmp_path)


@pytest.mark.long
def test_a_machine_whose_process_dies_joins_again_with_the_model_in_parts(
    make_config: Callable[..., TrainConfig], tmp_path: Path, machines: list[tuple[str, str]]
) -> None:
    """torchrun on both; at the eighth step one process is killed, and all go on from the sixth."""
    alone, together = (
        make_config(run={"folder": str(tmp_path / name), "parallel": "fsdp"}) for name in ("alone", "together")
    )
    pretrain(alone)
    recipe, program = tmp_path / "run.toml", tmp_path / "program.py"
    recipe.write_text(to_toml(together), encoding="utf-8")
    program.write_text(DYING, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--max-restarts", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29501"]
    program_and_run = [str(program), str(recipe), "8", "1", str(tmp_path / "died")]
    commands = [  # the first is told that it is: its address is in no table of names
        [*launcher, "--rdzv-conf", f"is_host={is_host}", "--local-addr", address, *program_and_run]
        for is_host, address in zip((1, 0), ADDRESSES, strict=True)
    ]
    both(machines, commands, [{"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}] * 2, tmp_path)
    assert (tmp_path / "died").exists()
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
