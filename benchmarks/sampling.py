"""Several texts at once through the scheduler, by how their tokens are chosen. Writes results/sampling.json.

    python benchmarks/sampling.py [--model gpt2-mini] [--texts 16] [--tokens 100] [--rounds 5] [--out FILE]

The settings take turns. What they cost beside the greedy one is the price of filters and draws.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import gpt2
from gpt2.bench import facts
from gpt2.files import write_json
from gpt2.generation import Request, Sampling, Scheduler

RESULT = Path(__file__).parent / "results" / "sampling.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {"temperature": 1.0},
    "temperature 0.8": {"temperature": 0.8},
    "top-k 40": {"temperature": 0.8, "top_k": 40},
    "top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "frequency penalty": {"temperature": 0.8, "frequency_penalty": 0.5},
}


def tokens_per_second(model: gpt2.LanguageModel, texts: int, tokens: int, settings: dict[str, Any]) -> float:
    """Of all texts together, from the first step on."""
    scheduler = Scheduler(model.backend, model.tokenizer, max_slots=texts)
    for seed in range(texts):
        sampling = Sampling(max_tokens=tokens, seed=seed, ignore_eot=True, **settings)
        scheduler.submit(Request(prompt=f"The sea was calm on day {seed}", sampling=sampling))
    began = time.perf_counter()
    while scheduler.busy:
        scheduler.step()
    return texts * tokens / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with gpt2.load(asked.model) as model:
        reason = model.backend.reason
        for _ in range(asked.rounds):
            for name, settings in SETTINGS.items():
                found[name].append(tokens_per_second(model, asked.texts, asked.tokens, settings))
    medians = {name: statistics.median(rounds) for name, rounds in found.items()}
    for name, median in medians.items():
        print(f"{name:20} {median:8,.0f} tokens/s   {median / medians['greedy']:.2f} of greedy")
    result = {"command": " ".join(["sampling.py", *sys.argv[1:]]), **facts(), "backend": reason}
    write_json(asked.out, result | {"tokens_per_second": medians, "rounds": found})


if __name__ == "__main__":
    main()
