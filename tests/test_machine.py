"""What a container grants is believed over what the host shows."""

import os
import sys
from pathlib import Path

import pytest

from gpt2 import machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the made-up folders imitate Linux")


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"
GIB = 1 << 30


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "250000 100000"}, 2),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "20000 100000"}, 1),
        # the group above grants less than the group itself
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "600000 100000",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000",
            },
            3,
        ),
        # a container that sees only its own group at the top
        ({"proc/self/cgroup": "0::/gone/box\n", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/box\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "500000",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
        ({"proc/self/cgroup": "nonsense\n0::/box\n", "sys/fs/cgroup/box/cpu.max": "many few"}, 8),
    ],
)
def test_usable_cores_are_the_least_of_all_limits(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert machine.usable_cores(make(tmp_path, files)) == expected


@pytest.mark.usefixtures("eight_cores")
def test_hyper_threads_count_once(tmp_path: Path) -> None:
    pairs = {
        f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list": f"{core % 4},{core % 4 + 4}"
        for core in range(8)
    }
    assert machine.physical_cores(make(tmp_path, pairs)) == 4


@pytest.mark.usefixtures("eight_cores")
def test_physical_cores_stay_within_the_quota(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000"}
    assert machine.physical_cores(make(tmp_path, files)) == 2


def test_memory_of_the_machine(tmp_path: Path) -> None:
    root = make(tmp_path, {"proc/meminfo": MEMINFO})
    assert machine.memory_bytes(root) == 16 * GIB
    assert machine.available_memory_bytes(root) == 8 * GIB


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/box\n",
            "sys/fs/cgroup/box/memory.max": str(4 * GIB),
            "sys/fs/cgroup/box/memory.current": str(3 * GIB),
            "sys/fs/cgroup/box/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        },
        {
            "proc/self/cgroup": "4:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {GIB}\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_memory_of_a_container(tmp_path: Path, files: dict[str, str]) -> None:
    root = make(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert machine.memory_bytes(root) == 4 * GIB
    assert machine.available_memory_bytes(root) == 2 * GIB  # what caches hold can be had


LIMITS = "Limit                     Soft Limit           Hard Limit           Units     \n"


@pytest.mark.parametrize(("soft", "total", "available"), [(str(4 * GIB), 4, 3), ("unlimited", 16, 8)])
def test_memory_of_a_process_with_a_limit_of_its_own(tmp_path: Path, soft: str, total: int, available: int) -> None:
    limits = f"{LIMITS}Max address space         {soft:<20} unlimited            bytes     \n"
    statm = f"{GIB // os.sysconf('SC_PAGE_SIZE')} 1 1 1 0 1 0\n"
    root = make(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/limits": limits, "proc/self/statm": statm})
    assert machine.memory_bytes(root) == total * GIB
    assert machine.available_memory_bytes(root) == available * GIB


def test_on_a_mac_what_files_are_cached_in_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"vm.page_free_count": 10, "vm.page_purgeable_count": 5, "vm.page_pageable_external_count": 1000}
    monkeypatch.setattr(machine, "_sysctl", {"hw.memsize": 16 * GIB, **pages}.get)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.memory_bytes(tmp_path) == 16 * GIB
    assert machine.available_memory_bytes(tmp_path) == 1015 * os.sysconf("SC_PAGE_SIZE")


def test_a_machine_that_says_nothing_is_not_an_error(tmp_path: Path) -> None:
    assert machine.memory_bytes(tmp_path) == 0
    assert machine.available_memory_bytes(tmp_path) == 0
    assert machine.instruction_sets(tmp_path) == ()
    assert machine.usable_cores(tmp_path) >= 1
    assert machine.physical_cores(tmp_path) >= 1


def test_instruction_sets_weakest_first(tmp_path: Path) -> None:
    x86 = make(tmp_path / "x86", {"proc/cpuinfo": "processor: 0\nflags\t: avx512f fpu avx2 sse4_2 amx_int8\n"})
    arm = make(tmp_path / "arm", {"proc/cpuinfo": "processor: 0\nFeatures\t: fp asimd asimddp bf16\n"})
    assert machine.instruction_sets(x86) == ("sse4.2", "avx2", "avx512", "amx-int8")
    assert machine.instruction_sets(arm) == ("neon", "neon-dotprod", "neon-bf16")


def test_this_machine() -> None:
    assert 1 <= machine.physical_cores() <= machine.usable_cores()
    assert 0 < machine.available_memory_bytes() <= machine.memory_bytes()
    assert machine.cpu_name()


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", 65e12),
        ("NVIDIA T400", None),
        ("", None),
    ],
)
def test_peaks_go_by_whole_words(name: str, flops: float | None) -> None:
    assert machine.device_peaks(name) == flops
