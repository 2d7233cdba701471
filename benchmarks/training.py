"""Training speed beside nanoGPT and Hugging Face's model, on the same shape. Writes results/training-DEVICE-SHAPE.json.

    python benchmarks/training.py --shape 30m --steps 5 [--device cpu] [--nanogpt CHECKOUT] [--engines ours hf]
        [--tokens SHARD] [--set loss.rows=6144] [--label NAME] [--fp32]

Each engine runs in a process of its own, and takes optimizer steps on the same tokens in the same order: forward,
backward, clipping where its recipe has it, update. `nanogpt` is the model and the loop of github.com/karpathy/nanoGPT,
from a checkout; `hf` is transformers' GPT2LMHeadModel with autocast. Tokens are those of a shard that `gpt2 prepare`
wrote, its last ones held out, or else random. A row replaces the one of the same label, and the others stay, so that
engines can be measured one by one on a machine that is quiet for a minute at a time.
"""

import argparse
import itertools
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2 import machine
from gpt2.bench import facts
from gpt2.config import ModelConfig
from gpt2.files import read_json, write_json
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.train.config_files import load_config
from gpt2.train.memory import kept_memory
from gpt2.train.plan import flops_per_token, measured_peak_flops
from gpt2.train.precision import choose_precision
from gpt2.train.step import Learner

RESULTS = Path(__file__).parent / "results"
SHAPES = {"30m": (6, 6, 384), "51m": (8, 8, 512), "124m": (12, 12, 768)}
SEQUENCE = 1024
SHARD_HEADER_BYTES = 1024
Ids = np.ndarray
Step = Callable[[Ids, Ids], float]


@dataclass(frozen=True)
class Engine:
    """One that trains: `step` learns from inputs and targets [B, T], `held_out` gives their mean loss."""

    step: Step
    held_out: Step
    rows: int = 50257  # of the head that a step's loss runs over


def ours(arguments: argparse.Namespace) -> Engine:
    """The fast recipe's step."""
    n_layer, n_head, n_embd = SHAPES[arguments.shape]
    config = load_config(
        arguments.recipe,
        [
            f"model.n_layer={n_layer}",
            f"model.n_head={n_head}",
            f"model.n_embd={n_embd}",
            f"schedule.batch_tokens={arguments.batch_tokens}",
            f"schedule.sequence=[[0.0, {SEQUENCE}]]",
            f"run.micro_batch_tokens={arguments.micro_batch_tokens}",
            "schedule.warmup_fraction=0",  # few steps are taken, and all at the full rate
            f"run.device={arguments.device}",
            f"run.compile={str(arguments.compile).lower()}",
            *arguments.overrides,
        ],
    )
    model = GPT(config.model)
    initialize(model, torch.Generator().manual_seed(1), zero_projections=config.optim.zero_projections)
    precision = choose_precision(config.run)
    ids = tokens(arguments)
    counts_V = sum(np.bincount(part, minlength=50257) for part in np.array_split(ids, 64))
    frequency_V = counts_V / ids.size
    learner = Learner(model.to(precision.device), config, precision, frequency_V)
    n_done = 0

    def step(x: Ids, y: Ids) -> float:
        nonlocal n_done
        n_done += 1
        return learner.step(x, y, step=n_done, tokens=(n_done - 1) * arguments.batch_tokens).loss

    return Engine(
        step=step,
        held_out=lambda x, y: learner.summed_loss(x, y) / x.size,
        rows=config.loss.rows or 50257,
    )


def nanogpt(arguments: argparse.Namespace) -> Engine:
    """The loop of nanoGPT's train.py, with its settings for this machine."""
    sys.path.insert(0, str(arguments.nanogpt))
    theirs: Any = __import__("model")
    n_layer, n_head, n_embd = SHAPES[arguments.shape]
    torch.set_float32_matmul_precision("high")
    model = theirs.GPT(
        theirs.GPTConfig(
            block_size=SEQUENCE, vocab_size=50304, n_layer=n_layer, n_head=n_head, n_embd=n_embd, dropout=0.0, bias=True
        )
    ).to(arguments.device)
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), arguments.device)
    call = torch.compile(model) if arguments.compile else model
    return loop(arguments, model, lambda x, y: call(x, y)[1], optimizer)


def hf(arguments: argparse.Namespace) -> Engine:
    """transformers' model in a loop like nanoGPT's."""
    from transformers import GPT2Config, GPT2LMHeadModel

    n_layer, n_head, n_embd = SHAPES[arguments.shape]
    sizes = GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model: Any = GPT2LMHeadModel(sizes).to(arguments.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return loop(arguments, model, lambda x, y: model(x, labels=x).loss, optimizer)


def loop(arguments: argparse.Namespace, model: Any, loss_of: Any, optimizer: Any) -> Engine:
    """Accumulate micro-batches under autocast, clip to 1, update."""
    rows = arguments.micro_batch_tokens // SEQUENCE

    def mean_loss(inputs: Ids, targets: Ids, *, learn: bool) -> Any:
        total = 0.0
        for at in range(0, len(inputs), rows):
            x, y = (torch.from_numpy(ids[at : at + rows]).to(arguments.device) for ids in (inputs, targets))
            with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=not arguments.fp32):
                loss = loss_of(x, y) * len(x) / len(inputs)
            if learn:
                loss.backward()
            total = total + loss.detach()
        return total

    def step(inputs: Ids, targets: Ids) -> float:
        total = mean_loss(inputs, targets, learn=True)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    @torch.no_grad()
    def held_out(inputs: Ids, targets: Ids) -> float:
        return float(mean_loss(inputs, targets, learn=False))

    return Engine(step=step, held_out=held_out)


def tokens(arguments: argparse.Namespace) -> Ids:
    """The tokens of the shard, or random ones: enough for every step and what is held out."""
    n = (arguments.steps + arguments.warmup) * arguments.batch_tokens + arguments.held_out * SEQUENCE + 1
    if arguments.tokens is None:
        return np.random.default_rng(0).integers(50257, size=n).astype(np.uint16)
    ids = np.memmap(arguments.tokens, np.uint16, "r", offset=SHARD_HEADER_BYTES)
    assert ids.size >= n, f"{arguments.tokens} has {ids.size:,} tokens, and {n:,} are needed"
    return ids


def sequences(ids: Ids, at: int, n: int) -> tuple[Ids, Ids]:
    """`n` tokens from `at` on, and those that follow each, in sequences."""
    return tuple(ids[at + i : at + i + n].reshape(-1, SEQUENCE).astype(np.int64) for i in (0, 1))


def measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step after the first ones, which compile and warm up; then the loss of what was held out."""
    cuda = arguments.device.startswith("cuda")
    ids, n = tokens(arguments), arguments.batch_tokens
    sizes = [arguments.warmup_tokens or n] * arguments.warmup + [n] * arguments.steps
    begins = list(itertools.accumulate(sizes, initial=0))
    began = time.perf_counter()
    losses = [engine.step(*sequences(ids, begins[i], sizes[i])) for i in range(arguments.warmup)]
    compiling = time.perf_counter() - began
    print(f"first steps: {compiling:.1f} s", file=sys.stderr, flush=True)
    seconds: list[float] = []
    faults: list[int] = []
    user_seconds: list[float] = []
    system_seconds: list[float] = []
    for i in range(arguments.warmup, len(sizes)):
        inputs, targets = sequences(ids, begins[i], n)
        if cuda:
            torch.cuda.synchronize()
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        losses.append(engine.step(inputs, targets))
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_SELF)
        faults.append(after.ru_minflt - before.ru_minflt)
        user_seconds.append(after.ru_utime - before.ru_utime)
        system_seconds.append(after.ru_stime - before.ru_stime)
        print(
            f"step of {n:,} tokens: {seconds[-1]:.1f} s (user {user_seconds[-1]:.1f}, system {system_seconds[-1]:.1f}, "
            f"{faults[-1]:,} page faults)",
            file=sys.stderr,
            flush=True,
        )
    n_layer, n_head, n_embd = SHAPES[arguments.shape]
    shape = ModelConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    rate = arguments.batch_tokens / statistics.median(seconds)
    load = flops_per_token(shape, seq_tokens=SEQUENCE, rows=engine.rows)
    if cuda:
        peak = machine.device_peaks(torch.cuda.get_device_name())
        memory = torch.cuda.max_memory_allocated()
    else:
        run = load_config(arguments.recipe, ["run.dtype=" + ("fp32" if arguments.fp32 else "auto")]).run
        peak = measured_peak_flops(choose_precision(run))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    share = round(rate * load / peak, 4) if peak else None
    kept = arguments.held_out * SEQUENCE
    held_out = engine.held_out(*sequences(ids, ids.size - kept - 1, kept))
    return {
        "engine": arguments.label or arguments.engine,
        "tokens_per_second": round(rate, 1),
        "mfu": share if share is not None and share <= 1.0 else None,  # above, other work ran beside the peak's trial
        "peak_bytes": memory,
        "first_steps": arguments.warmup,
        "first_steps_seconds": round(compiling, 1),
        "seconds": [round(s, 4) for s in seconds],
        "user_seconds": [round(s, 2) for s in user_seconds],
        "system_seconds": [round(s, 2) for s in system_seconds],
        "page_faults": faults,
        "losses": [round(x, 4) for x in losses],
        "rows_of_the_loss": engine.rows,
        "tokens_seen": begins[-1],
        "held_out_loss": round(held_out, 4),
        "peak_flops": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="30m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", default="gpt2-124m-fast", help="of ours")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="steps before those that are measured")
    parser.add_argument("--warmup-tokens", type=int, default=0, help="of each of these; 0: as of the others")
    parser.add_argument("--held-out", type=int, default=15, help="sequences at the end of the tokens")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--fp32", action="store_true", help="the peers without autocast")
    parser.add_argument("--nanogpt", type=Path, help="a checkout")
    parser.add_argument("--engines", nargs="+", default=["ours", "nanogpt", "hf"])
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a setting of ours")
    parser.add_argument("--tokens", type=Path, help="a shard of tokens")
    parser.add_argument("--label", default="")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        logging.basicConfig(level=logging.INFO, format="%(message)s")  # which attention kernel, and why
        with kept_memory() if arguments.engine == "ours" else nullcontext():
            engine = {"ours": ours, "nanogpt": nanogpt, "hf": hf}[arguments.engine](arguments)
            print(json.dumps(measure(engine, arguments)))
        return
    rows = []
    places = {str(arguments.tokens): "SHARD", str(arguments.nanogpt): "CHECKOUT"}  # of this machine alone
    said = " ".join(["python benchmarks/training.py", *(places.get(word, word) for word in sys.argv[1:])])
    for engine in arguments.engines:
        if engine == "nanogpt" and not arguments.nanogpt:
            print("nanogpt: left out, no --nanogpt CHECKOUT", file=sys.stderr)
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--engine", engine]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{engine}: failed", file=sys.stderr)
            continue
        rows.append({**json.loads(done.stdout.splitlines()[-1]), "command": said})
        print(json.dumps(rows[-1]), flush=True)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else None
    short = device.split()[1].lower() if device else arguments.device  # "NVIDIA H200": h200
    path = RESULTS / f"training-{short}-{arguments.shape}.json"
    measured = {row["engine"] for row in rows}
    before = read_json(path)["rows"] if path.exists() else []
    rows = [row for row in before if row["engine"] not in measured] + rows
    write_json(path, {"device": device, "rows": rows, "facts": facts() | {"command": said}})


if __name__ == "__main__":
    main()
