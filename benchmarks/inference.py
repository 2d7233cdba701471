"""Decoding, prefill and memory beside other software on the same weights. Writes results/inference.json.

    python benchmarks/inference.py [--shape gpt2] [--rounds 5] [--backend native] [--weights fp32 int8]
        [--device cuda] [--add] [--out FILE]

The weights are random, in the published shapes: speed does not depend on their values, and nothing is downloaded.
All engines read one folder and take turns; see `gpt2.bench`. Ratios hold within a run: --add keeps the runs that the
result has already, and --work the folder with what each peer made of it, so that several short runs say as much as a
long one. Beside our figures stands their share of the machine's limit (`gpt2.bench.limits`).
"""

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from gpt2 import checkpoint
from gpt2.bench import PEERS, Figures, Workload, compare, facts
from gpt2.checkpoint import Weights, shapes
from gpt2.config import PUBLISHED, ModelConfig
from gpt2.files import write_json
from gpt2.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "inference.json"


def random_folder(folder: Path, config: ModelConfig) -> None:
    """A model folder of weights drawn as GPT-2's are initialised."""
    draw = np.random.default_rng(0)
    arrays = {
        name: np.full(shape, name.endswith(".g"), np.float32)
        if len(shape) == 1
        else 0.02 * draw.standard_normal(shape, np.float32)
        for name, shape in shapes(config).items()
    }
    checkpoint.write_folder(folder, Weights.from_arrays(config, arrays), config, Tokenizer.published())


def line(figures: Figures, baseline: Figures) -> str:
    cells = [f"{figures.engine:<26}"]
    for name, speed in figures.tokens_per_second.items():
        theirs = baseline.tokens_per_second.get(name)
        ratio = f"{speed / theirs:5.2f}x" if theirs else "alone"
        share = f", {100 * speed / figures.limits[name]:3.0f} % of the limit" if name in figures.limits else ""
        cells.append(f"{name} {speed:8,.0f} ({ratio}{share})")
    start = "" if figures.start_seconds is None else f"   start {figures.start_seconds:5.2f} s"
    return "   ".join(cells) + f"   peak {figures.peak_bytes / 1e6:6,.0f} MB" + start


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=PUBLISHED, default="gpt2")
    parser.add_argument("--backend", default="auto")
    parser.add_argument(
        "--weights", nargs="+", default=["fp32"], help="forms of ours to measure; the first takes turns"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--device", default="auto", help="of ours and of transformers: cuda, for example")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep the model folder, and what peers made of it, here")
    parser.add_argument("--add", action="store_true", help="beside the runs that the result has")
    parser.add_argument("--out", type=Path, default=RESULT, help="the result, that of another machine for example")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=4,
        metavar=("PROMPT", "DECODE", "PREFILL", "BATCH"),
        help="of what is timed, for a large shape; and no figures by length of context",
    )
    chosen = parser.parse_args()

    workload = Workload(contexts=(64, 512, 1000))
    if chosen.sizes:
        prompt, decode, prefill, batch = chosen.sizes
        workload = Workload(prompt_tokens=prompt, decode_tokens=decode, prefill_tokens=prefill, batch=batch)
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = (chosen.work or Path(scratch)) / chosen.shape
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            random_folder(folder, PUBLISHED[chosen.shape])
        for number, form in enumerate(chosen.weights):
            found += compare(
                folder,
                peers=chosen.peers if number == 0 else (),
                backend=chosen.backend,
                weights=form,
                device=chosen.device,
                threads=chosen.threads,
                workload=workload,
                rounds=chosen.rounds,
                starts=chosen.starts,
            )
    baseline = next((each for each in found if not each.engine.startswith("gpt2")), found[0])
    for figures in found:
        print(line(figures, baseline))
    engines = [dataclasses.asdict(figures) for figures in found]
    level = os.environ.get("GPT2_ISA", "the fastest here")
    run = {
        **facts(),
        **({"device": gpu_name()} if chosen.device.startswith("cuda") else {"level": level}),
        "shape": chosen.shape,
        "workload": dataclasses.asdict(workload),
        "engines": engines,
    }
    before = json.loads(chosen.out.read_text(encoding="utf-8"))["runs"] if chosen.add and chosen.out.exists() else []
    write_json(chosen.out, {"runs": [*before, run]})


if __name__ == "__main__":
    main()
