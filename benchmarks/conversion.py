"""What converting a model takes, in every direction: time and peak memory. Writes results/conversion.json.

    python benchmarks/conversion.py [--model gpt2-xl] [--folder build/conversion] [--ways openai llmc …]

The model has the shape of a published one and random weights. Each step is one `gpt2 convert` in a fresh process, whose
peak memory is what Linux says of it (VmHWM: Python itself and the pages of mapped files included). What comes back to
Hugging Face's form in fp32 must equal the source byte for byte, unless a step on the way rounds. Needs three times the
model's size on the disk of --folder, which is emptied.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2 import checkpoint
from gpt2.bench.facts import facts
from gpt2.config import PUBLISHED, ModelConfig
from gpt2.files import sha256_file, write_json

RESULT = Path(__file__).parent / "results" / "conversion.json"

# name -> (arguments of the way there, whether what comes back is the same)
WAYS = {
    "openai": (["--to", "openai"], True),
    "llmc fp32": (["--to", "llmc"], True),
    "llmc bf16": (["--to", "llmc", "--weights", "bf16"], False),
    "nanogpt": (["--to", "nanogpt"], True),
    "gguf fp32": (["--to", "gguf"], True),
    "gguf fp16": (["--to", "gguf", "--weights", "fp16"], False),
    "gguf q8_0": (["--to", "gguf", "--weights", "q8_0"], False),
    "gguf q4_0": (["--to", "gguf", "--weights", "q4_0"], False),
    "hf int8": (["--to", "hf", "--weights", "int8"], False),
    "hf int4": (["--to", "hf", "--weights", "int4"], False),
}


class RandomArrays(Mapping[str, NDArray[np.float32]]):
    """Arrays made when they are asked for, and not kept."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = checkpoint.shapes(config)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        draw = np.random.default_rng(list(self._shapes).index(name))
        return np.float32(0.02) * draw.standard_normal(self._shapes[name], np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


CONVERT = """
import re, resource, sys
from pathlib import Path
from gpt2.cli.main import run
code = run(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_SELF)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(usage.ru_utime + usage.ru_stime, peak)
sys.exit(code)
"""


def convert(source: Path, goal: Path, arguments: list[str]) -> dict[str, float]:
    """Run one conversion in a process of its own, and say what it took."""
    command = [sys.executable, "-c", CONVERT, "convert", str(source), str(goal), *arguments, "--quiet"]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    cpu_seconds, peak_kb = done.stdout.split()
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(float(cpu_seconds), 1),
        "peak_mb": round(int(peak_kb) / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=list(PUBLISHED), default="gpt2-xl")
    parser.add_argument("--folder", type=Path, default=Path("build/conversion"))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--busy", action="store_true", help="say in the result that other programs were running")
    options = parser.parse_args()
    config = PUBLISHED[options.model]
    shutil.rmtree(options.folder, ignore_errors=True)
    source, goal, back = (options.folder / name for name in ("source", "goal.gguf", "back"))
    checkpoint.write_folder(source, RandomArrays(config), config, None)
    hash = sha256_file(source / "model.safetensors")
    largest = 4e-6 * max(int(np.prod(shape)) for shape in checkpoint.shapes(config).values())
    steps: list[dict[str, Any]] = []
    for way in options.ways:
        arguments, is_lossless = WAYS[way]
        there = convert(source, goal, arguments)
        pickled = ["--allow-pickle"] if way == "nanogpt" else []
        again = convert(goal, back, ["--to", "hf", "--weights", "fp32", *pickled])
        same = sha256_file(back / "model.safetensors") == hash
        assert same or not is_lossless, f"{way}: what came back is not the same"
        steps += [
            {"from": "hf fp32", "to": way, **there},
            {"from": way, "to": "hf fp32", **again, "equal_to_the_source": same},
        ]
        print(steps[-2], steps[-1], sep="\n", flush=True)
        for path in (goal, back):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(
            RESULT,
            {
                "machine": facts(),
                "busy": options.busy,
                "model": options.model,
                "model_mb": round(4e-6 * config.parameters, 1),
                "largest_array_mb": round(largest, 1),
                "steps": steps,
            },
        )
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
