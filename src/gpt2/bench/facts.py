"""The facts without which a figure means nothing: the machine, the software, the command."""

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
    # names only, without the paths of the program and its files
    program = Path(sys.argv[0]).name.replace("__main__.py", "gpt2")
    named = [_without_place(argument) for argument in sys.argv[1:]]
    return {
        "command": shlex.join([program, *named]),
        "cpu": machine.cpu_name(),
        "physical_cores": machine.physical_cores(),
        "usable_cores": machine.usable_cores(),
        # above 0, something else was running too, and figures of two machines or hours are not comparable
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_bytes": machine.memory_bytes(),
        "instruction_sets": list(machine.instruction_sets()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def _without_place(argument: str) -> str:
    """An argument in which an absolute path, also one after a "=", is replaced by its last part."""
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
