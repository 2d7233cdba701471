"""`gpt2 doctor`: what this machine offers, what will be used, and why."""

import contextlib
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from gpt2.cli import output
from gpt2.cli.options import Sectioned, output_options
from gpt2.errors import BackendError

VERSIONS = (
    *("numpy", "safetensors", "tiktoken", "click", "rich"),
    *("torch", "triton", "tokenizers", "zstandard", "pyarrow", "matplotlib", "transformers"),
)


@click.command(cls=Sectioned)
@output_options
def doctor(*, as_json: bool) -> None:
    """Show what this machine offers and what will be used: cores, memory, backends, devices, models, versions."""
    found = _examine()
    if as_json:
        output.write_json(found, indent=2)
        return
    for section, facts in found.items():
        rows = [
            (f"  {name.removesuffix('_bytes').replace('_', ' ')}", _shown(name, value)) for name, value in facts.items()
        ]
        output.write(f"{section}\n{output.table(rows or [('  none', '')])}\n")


def _examine() -> dict[str, dict[str, Any]]:
    from gpt2 import __version__, hub, machine
    from gpt2.bench.facts import facts, versions

    here = facts()
    cache = hub.cache_folder()
    return {
        "gpt2": {"version": __version__, "folder": str(Path(__file__).parents[1]), "python": sys.version.split()[0]},
        "machine": {
            **{name: here[name] for name in ("cpu", "system", "physical_cores", "usable_cores", "instruction_sets")},
            "memory_bytes": machine.memory_bytes(),
            "available_memory_bytes": machine.available_memory_bytes(),
        },
        "backends": {"native": _native(), "torch": _torch(), "reference": f"NumPy, {_blas()}"},
        "devices": _devices(),
        "models": {model.name: f"{model.bytes / 1e6:.1f} MB, {model.origin}" for model in hub.local_models()},
        "caches": {
            "gpt2": str(cache),
            "used_bytes": bytes_below(cache),
            "hugging_face": str(hub.huggingface_cache()),
            "free_disk_bytes": _free_disk_bytes(cache),
        },
        "versions": versions(VERSIONS),
    }


def _native() -> str:
    from gpt2.machine import physical_cores
    from gpt2.native import Library, choose_level

    try:
        library = Library.load()
        chosen = choose_level(library)
    except BackendError as error:
        return f"not here: {error}"
    others = ", ".join(level for level in library.levels if level != chosen) or "none"
    threads = physical_cores()
    return f"{chosen} kernels on {threads} thread{'s' if threads > 1 else ''}; also {others}"


def _torch() -> str:
    if find_spec("torch") is None:
        return "not installed; gpt2kit[gpu] brings it"
    import torch

    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


def _devices() -> dict[str, str]:
    devices = {"cpu": "always"}
    if find_spec("torch") is None:
        return devices | {"cuda": "unknown without PyTorch"}
    import torch

    from gpt2.machine import device_peaks

    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        peak = device_peaks(about.name)
        speed = f", {peak / 1e12:.0f} TFLOP/s in bf16" if peak else ""
        devices[f"cuda:{number}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB{speed}; {_decoding()}"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    if len(devices) == 1:
        devices["cuda"] = "none seen by PyTorch"
    return devices


def _decoding() -> str:
    if find_spec("triton") is None:
        return "decodes slowly without Triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "decodes slowly without a C compiler, which Triton needs"
    return "decodes by kernels of gpt2"


def _blas() -> str:
    import numpy as np

    libraries: Any = np.show_config(mode="dicts")
    blas: dict[str, Any] = libraries.get("Build Dependencies", {}).get("blas", {})
    return f"matrix products by {blas.get('name', 'its own code')} {blas.get('version', '')}".strip()


def _free_disk_bytes(folder: Path) -> int:
    """Free bytes where the folder is or would be; 0 if that drive does not exist."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return shutil.disk_usage(existing).free if existing else 0


def bytes_below(folder: Path) -> int:
    """The size of all files of a folder, into which others may be writing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another process may have removed or renamed it since
                total += (Path(place) / name).stat().st_size
    return total


def _shown(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return f"{value / 2**30:.1f} GiB" if value >= 2**29 else f"{value / 2**20:.1f} MiB"
    return ", ".join(value) if isinstance(value, list) else str(value)
