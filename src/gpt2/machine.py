"""What this machine offers this process: cores, memory, instruction sets, peak rates of known GPUs.

A container shows the host's cores and memory, but grants only its own. So every answer is the minimum of what the
machine has, what the scheduler allows (affinity), what the control groups (versions 1 and 2) grant and the process's
own limits (`ulimit -v`, which batch queues set). Nothing here calls a shell or raises: unknown is 0, empty or None.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

# The x86 and Arm extensions that kernels here may use, spelled as in /proc/cpuinfo, weakest first, with the name
# shown for each.
_INSTRUCTION_SETS = {
    "sse4_2": "sse4.2",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "avx_vnni": "avx-vnni",
    "avx512f": "avx512",
    "avx512_vnni": "avx512-vnni",
    "avx512_bf16": "avx512-bf16",
    "avx512_fp16": "avx512-fp16",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "asimd": "neon",
    "asimdhp": "neon-fp16",
    "asimddp": "neon-dotprod",
    "i8mm": "neon-i8mm",
    "bf16": "neon-bf16",
    "sve": "sve",
}

# Dense tensor operations per second in bf16 (fp16 if a card has no bf16) with fp32 sums, from the vendors'
# data sheets; marketing figures with structured sparsity are halved. The longest matching name wins.
_DEVICE_PEAKS = {
    "V100": 125e12,
    "T4": 65e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "RTX A6000": 154.8e12,
    "A100": 312e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "H100": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H200": 989.4e12,
    "GH200": 989.4e12,
    "B200": 2250e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165.2e12,
    "RTX 5090": 209.5e12,
    "MI250X": 383e12,
    "MI300X": 1307.4e12,
}

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Logical cores that this process may use, within affinity and control-group quota; at least 1.

    Args:
        root: the folder of `proc` and `sys`; tests pass another.
    """
    cores = len(_allowed_cores())
    for quota_file in _cgroup_files("cpu", v1="cpu.cfs_quota_us", v2="cpu.max", root=root):
        quota = _read(quota_file).split()
        if quota_file.name == "cpu.max":
            limit, period = (*quota, "100000")[:2] if quota else ("max", "100000")
        else:
            limit, period = (quota or ["-1"])[0], _read(quota_file.with_name("cpu.cfs_period_us")).strip()
        if limit.isdigit() and period.isdigit() and int(period):
            cores = min(cores, max(1, round(int(limit) / int(period))))
    return max(1, cores)


def physical_cores(root: Path = _ROOT) -> int:
    """Physical cores among the usable ones: hyper-threads count once. At least 1.

    On Windows the pairing is not looked up, so this counts logical cores.
    """
    if sys.platform == "darwin":
        return max(1, min(usable_cores(root), _sysctl("hw.physicalcpu") or 1))
    siblings = {
        _read(root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").strip() or f"core {core}"
        for core in _allowed_cores()
    }
    return max(1, min(len(siblings), usable_cores(root)))


def memory_bytes(root: Path = _ROOT) -> int:
    """The most memory this process may have: the machine's, its control group's or its own limit. 0 if unknown."""
    total = _machine_memory(root)[0]
    if (address_space := _address_space(root)) is not None:
        total = min(total, address_space[0])
    for limit_file in _cgroup_files("memory", v1="memory.limit_in_bytes", v2="memory.max", root=root):
        limit = _read(limit_file).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def available_memory_bytes(root: Path = _ROOT) -> int:
    """Memory available now without swapping; reclaimable caches count as free. 0 if unknown."""
    available = _machine_memory(root)[1]
    if (address_space := _address_space(root)) is not None:
        available = min(available, address_space[1])
    for limit_file in _cgroup_files("memory", v1="memory.limit_in_bytes", v2="memory.max", root=root):
        limit = _read(limit_file).strip()
        version_2 = limit_file.name == "memory.max"
        used = _read(limit_file.with_name("memory.current" if version_2 else "memory.usage_in_bytes")).strip()
        if limit.isdigit() and used.isdigit():
            stat = dict(line.split()[:2] for line in _read(limit_file.with_name("memory.stat")).splitlines())
            names = (f"{'' if version_2 else 'total_'}{kind}_file" for kind in ("inactive", "active"))
            cached = sum(int(stat.get(name, "0")) for name in names)
            available = min(available, max(0, int(limit) - int(used) + cached))
    return available


def instruction_sets(root: Path = _ROOT) -> tuple[str, ...]:
    """The processor's extensions that kernels may use, weakest first: ("avx2", "avx512", ...)."""
    if sys.platform == "darwin":
        return _instruction_sets_of_macos()
    if sys.platform == "win32":
        return _instruction_sets_of_windows()
    flags: set[str] = set()
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            flags = set(value.split())
            break
    return tuple(name for flag, name in _INSTRUCTION_SETS.items() if flag in flags)


def cpu_name(root: Path = _ROOT) -> str:
    """The processor's own name, for reports."""
    if sys.platform == "darwin":
        return _sysctl_text("machdep.cpu.brand_string") or platform.machine()
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def device_peaks(name: str) -> float | None:
    """A GPU's peak operations per second, dense bf16 tensor products. None for a device not in the table.

    Args:
        name: as the driver reports it, such as "NVIDIA H100 80GB HBM3".
    """
    words = name.replace("-", " ").split()
    fitting = [known for known in _DEVICE_PEAKS if _contains(words, known.split())]
    return _DEVICE_PEAKS[max(fitting, key=len)] if fitting else None


def _contains(words: list[str], part: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _allowed_cores() -> list[int]:
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cgroup_files(controller: str, *, v1: str, v2: str, root: Path) -> Iterator[Path]:
    """The existing limit files of this process's group and of every group above it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            base, name = root / "sys/fs/cgroup", v2
        elif controller in controllers.split(","):
            base, name = root / "sys/fs/cgroup" / controller, v1
        else:
            continue
        folder = base / group.lstrip("/")
        for above in (folder, *folder.parents):
            if (above / name).is_file():
                yield above / name
            if above == base:
                break


def _machine_memory(root: Path) -> tuple[int, int]:
    """Total bytes, and bytes available now."""
    if sys.platform == "win32":
        return _memory_of_windows()
    if sys.platform == "darwin":
        total = _sysctl("hw.memsize") or 0
        # file pages stay cached until their memory is needed: most of a Mac's free memory
        kinds = ("vm.page_free_count", "vm.page_purgeable_count", "vm.page_pageable_external_count")
        free_bytes = sum(_sysctl(kind) or 0 for kind in kinds) * os.sysconf("SC_PAGE_SIZE")
        return total, min(total, free_bytes)
    facts: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        kibibytes = value.split()
        if kibibytes and kibibytes[0].isdigit():
            facts[key] = int(kibibytes[0]) * 1024
    total = facts.get("MemTotal", 0)
    return total, facts.get("MemAvailable", total)


def _address_space(root: Path) -> tuple[int, int] | None:
    """Bytes of address space: this process's limit, and what is left of it; None without a limit (Linux)."""
    for line in _read(root / "proc/self/limits").splitlines():
        name, _, values = line.partition("  ")
        limit, pages = values.split()[:1], _read(root / "proc/self/statm").split()[:1]
        if name == "Max address space" and limit[0].isdigit() and pages:
            return int(limit[0]), max(0, int(limit[0]) - int(pages[0]) * os.sysconf("SC_PAGE_SIZE"))
    return None


# ---- macOS ---------------------------------------------------------------------------------------------------


def _sysctl(name: str) -> int | None:
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return None
    # a 4-byte answer fills the low half of the zeroed 8 bytes on every (little-endian) Mac
    return None if failed else value.value


def _sysctl_text(name: str) -> str:
    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return ""
    return "" if failed else value.value.decode("utf-8", "replace")


def _instruction_sets_of_macos() -> tuple[str, ...]:
    asked = {
        "hw.optional.avx2_0": "avx2",
        "hw.optional.fma": "fma",
        "hw.optional.avx512f": "avx512",
        "hw.optional.avx512vnni": "avx512-vnni",
        "hw.optional.AdvSIMD": "neon",
        "hw.optional.arm.FEAT_FP16": "neon-fp16",
        "hw.optional.arm.FEAT_DotProd": "neon-dotprod",
        "hw.optional.arm.FEAT_I8MM": "neon-i8mm",
        "hw.optional.arm.FEAT_BF16": "neon-bf16",
    }
    return tuple(name for key, name in asked.items() if _sysctl(key))


# ---- Windows -------------------------------------------------------------------------------------------------


def _memory_of_windows() -> tuple[int, int]:
    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            ("total", ctypes.c_uint64),
            ("available", ctypes.c_uint64),
            ("others", ctypes.c_uint64 * 5),
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    if not _kernel32().GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0, 0
    return int(status.total), int(status.available)


def _instruction_sets_of_windows() -> tuple[str, ...]:
    # the numbers are the PF_* constants of winnt.h
    asked = {38: "sse4.2", 39: "avx", 40: "avx2", 41: "avx512", 19: "neon", 43: "neon-dotprod"}
    present = _kernel32().IsProcessorFeaturePresent
    return tuple(name for number, name in asked.items() if present(number))


def _kernel32() -> ctypes.CDLL:
    return ctypes.CDLL("kernel32")
