"""The published recipe (AdamW) against the fast one (Muon) on one small network. Writes results/recipes.json.

    python benchmarks/recipes.py --work DIR [--tokens 1000000] [--seeds 1 2 3]
    python benchmarks/recipes.py --work DIR --options [--seeds 1 2]

With --options the fast recipe runs with each of the settings that no recipe has, and without: results/options.json.

Needs the corpus in $GPT2_CORPUS. Every arm trains the same network on the same tokens in the same order for a seed.
Learning rates are searched with the first seed, and the best of each recipe runs with the others. What is done stays
in --work, so that the same command goes on where it was. The network has 4,096 token ids of its own, so that the head
has about the share of the work that it has in GPT-2 small; the recipes differ in `optim` and `schedule` alone.
"""

import argparse
import itertools
import json
import os
import statistics
from pathlib import Path
from typing import Any

import gpt2
from gpt2.bench import facts
from gpt2.data import PrepareConfig, ReadOptions, prepare, read_documents
from gpt2.files import write_json, write_text
from gpt2.report import Block, Line, LineChart, Section, page
from gpt2.tokenizer import Tokenizer, learn
from gpt2.train.config_files import config_from

RESULTS = Path(__file__).parent / "results"
TEXT_CHARACTERS = 24_000_000
VOCAB_SIZE = 4096
SEQUENCE_TOKENS = 256
BATCH_TOKENS = 4096
MODEL = {"n_layer": 4, "n_head": 2, "n_embd": 128, "n_positions": SEQUENCE_TOKENS, "vocab_size": VOCAB_SIZE}
PUBLISHED = {
    "optim": {"matrices": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.1, "clip_norm": 1.0},
    "schedule": {"shape": "cosine", "warmup_fraction": 0.037, "sequence": [[0.0, SEQUENCE_TOKENS]]},
}
FAST = {
    "optim": {
        "matrices": "muon",
        "betas": [0.8, 0.95],
        "eps": 1e-10,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
        "zero_projections": True,
    },
    "schedule": {
        "shape": "trapezoid",
        "decay_fraction": 0.6,
        "momentum_warmup_steps": 50,
        "sequence": [[0.0, SEQUENCE_TOKENS]],
    },
}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "published lr 0.001": (PUBLISHED, {"lr": 0.001}),
    "published lr 0.002": (PUBLISHED, {"lr": 0.002}),
    "published lr 0.004": (PUBLISHED, {"lr": 0.004}),
    "fast lr 0.01": (FAST, {"muon_lr": 0.01, "lr": 0.003}),
    "fast lr 0.02": (FAST, {"muon_lr": 0.02, "lr": 0.003}),
}
BEST = {"muon_lr": 0.01, "lr": 0.003}


def fast_with(optim: dict[str, Any] | None = None, schedule: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"optim": FAST["optim"] | (optim or {}), "schedule": FAST["schedule"] | (schedule or {})}


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "without": (FAST, BEST),
    "mean of the last tenth": (fast_with({"average_fraction": 0.1}), BEST),
    "mean of the last third, decay to a fifth": (fast_with({"average_fraction": 0.33}, {"final_fraction": 0.2}), BEST),
    "batches of 2,048, then 4,096": (fast_with(None, {"batch_stages": [[0.0, 2048], [0.4, 4096]]}), BEST),
    "batches of 2,048": (fast_with(None, {"batch_stages": [[0.0, 2048]]}), BEST),
    "sequences of 64, 128, 256": (fast_with(None, {"sequence": [[0.0, 64], [0.3, 128], [0.6, 256]]}), BEST),
    "both schedules": (
        fast_with(
            None,
            {
                "batch_stages": [[0.0, 2048], [0.4, 4096]],
                "sequence": [[0.0, 64], [0.3, 128], [0.6, 256]],
            },
        ),
        BEST,
    ),
    "decay 0.1": (fast_with({"muon_weight_decay": 0.1}), BEST),
    "cautious decay 0.1": (fast_with({"muon_weight_decay": 0.1, "muon_cautious": True}), BEST),
}


def corpus(work: Path) -> Path:
    """Token shards and a vocabulary of the beginning of the plain part of the corpus."""
    out = work / "data"
    if not (out / "shards" / "manifest.json").exists():
        source = Path(os.environ["GPT2_CORPUS"]) / "train-004.jsonl.zst"
        texts: list[str] = []
        size = 0
        for document in read_documents(source, ReadOptions()):
            texts.append(document.text)
            size += len(document.text)
            if size > TEXT_CHARACTERS:
                break
        write_text(out / "text.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        learn(texts[:: max(1, len(texts) // 3000)], VOCAB_SIZE).save(out / "vocabulary")
        tokenizer = Tokenizer.from_folder(out / "vocabulary")
        prepare([out / "text.jsonl"], out / "shards", config=PrepareConfig(validation=0.02), tokenizer=tokenizer)
    return out


def run(arguments: argparse.Namespace, data: Path, name: str, seed: int) -> dict[str, Any]:
    recipe, rates = {**ARMS, **OPTIONS}[name]
    folder = arguments.work / f"{name} seed {seed}".replace(" ", "-")
    config = config_from(
        {
            "model": MODEL,
            "data": {"folder": str(data / "shards"), "tokenizer": str(data / "vocabulary")},
            "optim": recipe["optim"] | rates,
            "schedule": recipe["schedule"] | {"tokens": arguments.tokens, "batch_tokens": BATCH_TOKENS},
            "run": {
                "folder": str(folder),
                "seed": seed,
                "threads": arguments.threads,
                "compile": arguments.compile,
                "validate_every_steps": arguments.validate_every,
                "validation_tokens": 32_768,
                "checkpoint_every_steps": 100,
                "keep": 1,
            },
        }
    )
    gpt2.pretrain(config)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = [line for line in lines if "validation_loss" in line]
    steps = [line for line in lines if "loss" in line]
    return {
        "arm": name,
        "seed": seed,
        "final_loss": held_out[-1]["validation_loss"],
        "seconds": steps[-1]["seconds"],
        "tokens": [line["tokens"] for line in held_out],
        "held_out_loss": [round(line["validation_loss"], 4) for line in held_out],
        "at_seconds": [line["seconds"] for line in held_out],
    }


def tokens_to(of: dict[str, Any], loss: float) -> float:
    """Where a curve first comes down to a loss, between two measurements in a straight line."""
    points = list(zip(of["tokens"], of["held_out_loss"], strict=True))
    for (t0, l0), (t1, l1) in itertools.pairwise(points):
        if l1 <= loss:
            return t0 + (t1 - t0) * (l0 - loss) / (l0 - l1) if l0 > loss else t0
    return float("inf")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    best = {
        recipe: min((r for r in runs if r["arm"].startswith(recipe)), key=lambda r: r["final_loss"])["arm"]
        for recipe in ("published", "fast")
    }
    by_seed = {(r["arm"], r["seed"]): r for r in runs}
    seeds = sorted({r["seed"] for r in runs if (best["fast"], r["seed"]) in by_seed})
    pairs = [
        (by_seed[best["published"], s], by_seed[best["fast"], s]) for s in seeds if (best["published"], s) in by_seed
    ]
    saved = [slow["tokens"][-1] / tokens_to(fast, slow["final_loss"]) for slow, fast in pairs]
    times = [(slow["seconds"] / slow["tokens"][-1]) / (fast["seconds"] / fast["tokens"][-1]) for slow, fast in pairs]
    return {
        "best": best,
        "seeds": [p["seed"] for p, _ in pairs],
        "published_final_loss": [p["final_loss"] for p, _ in pairs],
        "fast_final_loss": [f["final_loss"] for _, f in pairs],
        "tokens_of_published_over_tokens_of_fast_to_its_loss": saved,
        "mean_saving": statistics.mean(saved),
        "speed_of_fast_over_published_per_token": times,
    }


def compare_options(arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Each option with every seed; what is gained is the loss without it, minus the loss with it."""
    runs: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for name in OPTIONS:
            runs.append(run(arguments, data, name, seed))
            print(f"{name}, seed {seed}: {runs[-1]['final_loss']:.4f}", flush=True)
    without = {r["seed"]: r for r in runs if r["arm"] == "without"}
    gains = {
        name: [round(without[r["seed"]]["final_loss"] - r["final_loss"], 4) for r in runs if r["arm"] == name]
        for name in OPTIONS
    }
    return {"seeds": arguments.seeds, "loss_without_minus_loss_with": gains, "runs": runs}


def curves(result: dict[str, Any]) -> str:
    """The held-out loss of the best arms, over tokens and over time, as a page."""
    charts: list[Block] = []
    for key, unit in (("tokens", "tokens"), ("at_seconds", "seconds")):
        lines = [
            Line(name=f"{r['arm']}, seed {r['seed']}", x=r[key], y=r["held_out_loss"], color=1 + (r["arm"] == best))
            for best in (result["summary"]["best"]["fast"],)
            for r in result["runs"]
            if r["arm"] in result["summary"]["best"].values()
        ]
        charts.append(LineChart(title=f"Held-out loss over {unit}", x_label=unit, y_label="nats a token", lines=lines))
    return page(
        "The published recipe and the fast one", [Section(title="Curves", blocks=charts)], lead=result["command"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validate-every", type=int, default=10, help="steps")
    parser.add_argument("--compile", action="store_true", help="have the blocks compiled")
    parser.add_argument("--options", action="store_true", help="try the settings that no recipe has")
    parser.add_argument("--page", type=Path, help="also write the curves as a page")
    parser.add_argument("--busy", action="store_true", help="note in the result that other work ran beside it")
    chosen = parser.parse_args()
    if chosen.work is None or "GPT2_CORPUS" not in os.environ:
        print("left out: it takes an hour and needs the corpus; say --work DIR, with GPT2_CORPUS set")
        return
    data = corpus(chosen.work)
    about = {
        "command": f"python benchmarks/recipes.py --tokens {chosen.tokens} --threads {chosen.threads}"
        + (" --options" if chosen.options else ""),
        "machine": facts(),
        "busy": chosen.busy,
        "model": MODEL,
    }
    if chosen.options:
        write_json(RESULTS / "options.json", about | compare_options(chosen, data))
        return
    first, *others = chosen.seeds
    runs = [run(chosen, data, name, first) for name in ARMS]
    for seed in others:
        for name in summary(runs)["best"].values():
            runs.append(run(chosen, data, name, seed))
            print(f"{name}, seed {seed}: {runs[-1]['final_loss']:.4f}")
    result = about | {"summary": summary(runs), "runs": runs}
    write_json(RESULTS / "recipes.json", result)
    if chosen.page:
        write_text(chosen.page, curves(result))
    print(json.dumps(result["summary"], indent=2))


if __name__ == "__main__":
    main()
