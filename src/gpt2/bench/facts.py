"""What a figure needs beside it to mean something: the machine, the software, the command."""

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpt2 import machine

_PACKAGES = ("gpt2kit", "numpy", "safetensors", "tiktoken", "tokenizers", "torch", "transformers")


def facts() -> dict[str, Any]:
    """The processor, cores, load, memory, operating system and versions, and the command of this process."""
    # by their names: not where the program is installed, nor where its files lie
    program = Path(sys.argv[0]).name.replace("__main__.py", "gpt2")
    named = [_without_place(argument) for argument in sys.argv[1:]]
    return {
        "command": shlex.join([program, *named]),
        "cpu": machine.cpu_name(),
        "physical_cores": machine.physical_cores(),
        "usable_cores": machine.usable_cores(),
        # above 0 something else ran too, and figures of two machines or hours cannot be compared
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_bytes": machine.memory_bytes(),
        "instruction_sets": list(machine.instruction_sets()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def _without_place(argument: str) -> str:
    """An argument that is a whole path, or ends in one after a "=", by its last name."""
    before, is_set, value = argument.rpartition("=")
    return f"{before}{is_set}{Path(value).name}" if Path(value).is_absolute() else argument


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed ones of `packages` with their versions."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
