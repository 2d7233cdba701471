"""From the shell prompt to the first token, and what the steps on the way cost. Writes results/start.json.

    python benchmarks/start.py [--models gpt2-mini DIR] [--times 20] [--out FILE]

Each figure is the median over fresh processes, the whole of them: starting Python, importing, opening the model,
generating. The cost of one more thing is the difference of two lines. Bytecode is there, as where a package is
installed: each program runs once before, even where the environment says that none is written. Processor time, user
and system, hardly minds what else the machine is doing; time on the clock does. Beside it llama.cpp, where it is
installed, with the same model in Q8_0.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpt2 import checkpoint, hub
from gpt2.bench import facts
from gpt2.bench.comparison import start_program
from gpt2.bench.engines import missing_packages
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "start.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gpt2-mini"])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    found = {
        "": measure(
            {
                "python": ["-c", "pass"],
                "import gpt2": ["-c", "import gpt2"],
                "import numpy": ["-c", "import numpy"],
                "gpt2 --help": ["-m", "gpt2", "--help"],
                "gpt2 generate --help": ["-m", "gpt2", "generate", "--help"],
            },
            chosen.times,
        )
    }
    for model in chosen.models:
        with tempfile.TemporaryDirectory() as scratch:
            found[Path(model).name] = measure(programs(model, Path(scratch)), chosen.times)
    write_json(chosen.out, {**facts(), "times": chosen.times, "processes": found})


def programs(model: str, scratch: Path) -> dict[str, list[str]]:
    """What opens the model and writes."""
    generate = ["-m", "gpt2", "generate", "Once upon a time", "--model", model, "--seed", "1", "--max-tokens"]
    name = Path(model).name
    found = {f"{name}: {tokens} tokens": [*generate, tokens] for tokens in ("1", "65")}
    if not missing_packages("llama.cpp-q8_0"):
        read, file = checkpoint.read(hub.locate(model)), scratch / "model.gguf"
        checkpoint.write(file, read.weights, read.tokenizer(), format="gguf", form="q8_0")
        found[f"{name}: 1 token, llama.cpp"] = ["-c", start_program("llama.cpp"), str(file)]
    return found


def measure(programs: dict[str, list[str]], times: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each program."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        for turn in range(1 + times):  # in turns, so that a slow moment hits all alike
            for name, arguments in programs.items():
                before, begin = os.times(), time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, env=environment, capture_output=True)
                seconds, after = time.perf_counter() - begin, os.times()
                processor = after.children_user + after.children_system - before.children_user - before.children_system
                if turn > 0:
                    runs[name].append((seconds, processor))

    found: dict[str, dict[str, float]] = {}
    for name, each in runs.items():
        seconds, processor = zip(*each, strict=True)
        found[name] = {
            "median_ms": 1e3 * statistics.median(seconds),
            "least_ms": 1e3 * min(seconds),
            "processor_ms": 1e3 * statistics.median(processor),
        }
        print(f"{name:<40}" + "".join(f"{what[:-3]:>12} {ms:8.1f} ms" for what, ms in found[name].items()), flush=True)
    return found


if __name__ == "__main__":
    main()
