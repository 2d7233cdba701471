"""Two processes in two network namespaces, joined by nothing but a virtual cable: a cluster's network."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
            ip("netns", "del", name)


def ip(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False)


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
    launched |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as running:
        ranks: list[subprocess.Popen[str]] = []
        for rank, (name, end) in enumerate(machines):
            command = ["ip", "netns", "exec", name, sys.executable, "-c", PROGRAM, str(recipe)]
            here = {**os.environ, **launched, "RANK": str(rank), "GLOO_SOCKET_IFNAME": end}
            ranks.append(running.enter_context(subprocess.Popen(command, env=here, stderr=subprocess.PIPE, text=True)))
            running.callback(ranks[-1].kill)
        for rank in ranks:
            _, told = rank.communicate(timeout=300)
            assert rank.returncode == 0, told[-2000:]

    def losses(config: TrainConfig) -> list[Any]:
        rows = read_journal(Path(config.run.folder) / "metrics.jsonl")
        return list(itertools.chain.from_iterable((row.get("loss"), row.get("validation_loss")) for row in rows))

    ours, theirs = losses(alone), losses(together)
    assert [loss for loss in theirs if loss] == pytest.approx([loss for loss in ours if loss], abs=1e-5)
    assert len(ours) == 30
