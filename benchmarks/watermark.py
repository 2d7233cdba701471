"""How often the watermark is told, by length, setting and damage. Writes results/watermark.json.

    python benchmarks/watermark.py [--model gpt2-mini] [--samples 8] [--level 0.001]

Each setting writes the same number of texts with one key; they are read with that key, damaged and whole, and with
another key, which is what unmarked text looks like. Words are replaced by words of the other texts.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpt2
from gpt2.bench import facts
from gpt2.detect import read_mark
from gpt2.files import write_json
from gpt2.generation import ContextNoise

RESULT = Path(__file__).parent / "results" / "watermark.json"
PROMPTS = (
    "The harbour", "In the year", "My brother said", "Once upon a time",
    "The council", "It was raining", "A letter from", "The old house",
)  # fmt: skip
SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.3},
)
LENGTHS = (15, 25, 50, 100, 200)
KEY, OTHER = ContextNoise(bytes(range(32))), ContextNoise(bytes(range(1, 33)))


def replaced(share: float, words: list[str]) -> Callable[[str], str]:
    """A share of the words of a text, replaced by any of `words`."""
    draw = np.random.default_rng(0)

    def damage(text: str) -> str:
        return " ".join(str(draw.choice(words)) if draw.random() < share else word for word in text.split(" "))

    return damage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--samples", type=int, default=8, help="texts of each of the eight prompts")
    parser.add_argument("--level", type=float, default=0.001, help="the p-value from which a text counts as told")
    chosen = parser.parse_args()

    rows: list[dict[str, Any]] = []
    with gpt2.load(chosen.model) as model:
        model.noise = KEY
        for setting in SETTINGS:
            done = model.generate(
                list(PROMPTS), n=chosen.samples, seed=5, max_tokens=max(LENGTHS) + 10, ignore_eot=True, **setting
            )
            texts = [sample.text for completion in done for sample in completion.samples]
            words = " ".join(texts).split()

            def told(damage: Callable[[str], str], n: int, key: ContextNoise = KEY, texts: list[str] = texts) -> float:
                ids = [model.tokenizer.encode(damage(text))[:n] for text in texts]
                return float(np.mean([read_mark(each, key).p_value <= chosen.level for each in ids]))

            n_most = max(LENGTHS)
            row = {
                "setting": setting,
                "texts": len(texts),
                "distinct_texts": len(set(texts)),
                "told": {str(n): told(str, n) for n in LENGTHS},
                "told_by_another_key": told(str, n_most, OTHER),
                "told_of_200_tokens": {
                    "10 % of words replaced": told(replaced(0.1, words), n_most),
                    "30 % of words replaced": told(replaced(0.3, words), n_most),
                    "50 % of words replaced": told(replaced(0.5, words), n_most),
                    "last third alone": told(lambda text: text[len(text) * 2 // 3 :], n_most),
                    "lower case": told(str.lower, n_most),
                },
            }
            rows.append(row)
            print(row)
    write_json(RESULT, {"facts": facts(), "model": chosen.model, "level": chosen.level, "rows": rows})


if __name__ == "__main__":
    main()
