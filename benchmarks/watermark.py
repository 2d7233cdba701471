"""How often the watermark is told, by length, setting and damage, and what it costs. Writes results/watermark.json.

    python benchmarks/watermark.py [--model gpt2-mini] [--samples 2] [--human CORPUS/validation.jsonl.zst]

Each setting writes the same prompts with one key and, for comparison, with none. A text of 1,000 tokens gives windows
of every length, each read alone; whole and damaged ones are read with that key, and whole ones with fifteen others.
Words are replaced by words of the other texts. Marked and unmarked texts are compared by the model's own surprise and
by how many of their n-grams are distinct. With `--human`, human text is pasted around marked passages, and read for
itself. Texts are kept in `--work`, so that it goes on where it stopped; `--seconds` stops it after a while (exit 75).
"""

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from curves import write_svg

import gpt2
from gpt2.bench import facts
from gpt2.detect import normalise, read_mark, read_marks
from gpt2.files import write_json
from gpt2.generation import ContextNoise
from gpt2.generation.noise import POSITION
from gpt2.report import Line, LineChart

FOLDER = Path(__file__).parent
PROMPTS = (
    "The harbour", "In the year", "My brother said", "Once upon a time",
    "The council", "It was raining", "A letter from", "The old house",
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.8, top-k 40": {"temperature": 0.8, "top_k": 40},
    "temperature 1, top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "temperature 0.3": {"temperature": 0.3},
}
LENGTHS = (15, 25, 35, 50, 100, 200, 500, 1000)
LEVEL = 0.001
KEY = ContextNoise(bytes(range(32)))
OTHERS = [ContextNoise(bytes([i]) * 32) for i in range(1, 16)]
LOOK_ALIKES = str.maketrans("aeocpxy", "аеосрху")
Damage = Callable[[str], str]


def replaced(share: float, words: list[str]) -> Damage:
    """A share of the words of a text, replaced by any of `words`."""
    draw = np.random.default_rng(0)
    return lambda text: " ".join(str(draw.choice(words)) if draw.random() < share else w for w in text.split(" "))


def shuffled(text: str) -> str:
    sentences = re.split(r"(?<=[.!?])\s+", text)
    random.Random(0).shuffle(sentences)
    return " ".join(sentences)


def written(
    model: gpt2.LanguageModel, path: Path, samples: int, over: Callable[[], bool]
) -> dict[str, list[str]] | None:
    """Texts of 1,000 tokens by setting, with the key and without."""
    kept: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, setting in SETTINGS.items():
        for marked in (True, False):
            key = f"{name}|{marked}"
            if key in kept:
                continue
            if over():
                return None
            model.noise = KEY if marked else POSITION
            began = time.process_time()
            done = model.generate(list(PROMPTS), n=samples, seed=5, max_tokens=max(LENGTHS), ignore_eot=True, **setting)
            kept[key] = [sample.text for completion in done for sample in completion.samples]
            kept[f"{key}|seconds"] = [str(time.process_time() - began)]
            path.write_text(json.dumps(kept), encoding="utf-8")
    return kept


def windows(ids: list[list[int]], n: int) -> list[list[int]]:
    return [each[i : i + n] for each in ids for i in range(0, len(each) - n + 1, n)]


def distinct(ids: list[list[int]], n: int) -> float:
    """Of the n-grams of all texts together, the share that is distinct."""
    found = [tuple(each[i : i + n]) for each in ids for i in range(len(each) - n + 1)]
    return len(set(found)) / len(found)


def cost(model: gpt2.LanguageModel, ids: list[list[int]]) -> dict[str, float]:
    """The model's surprise at the first 200 tokens of each text, and how varied the texts are."""
    logprobs = [model.score(model.tokenizer.decode(each[:200])).logprob / 200 for each in ids]
    return {
        "perplexity": float(np.exp(-np.mean(logprobs))),
        "standard_error_of_its_logarithm": float(np.std(logprobs) / np.sqrt(len(logprobs))),
        **{f"distinct_{n}_grams": distinct([each[:200] for each in ids], n) for n in (1, 2, 4)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--samples", type=int, default=2, help="texts of each of the eight prompts")
    parser.add_argument("--human", type=Path, default=None, help="JSON Lines of human text, compressed with zstd")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--work", type=Path, default=FOLDER / "results" / "watermark-work")
    chosen = parser.parse_args()
    until = time.monotonic() + chosen.seconds

    human: list[str] = []
    if chosen.human:
        with zstandard.open(chosen.human, "rt", encoding="utf-8") as lines:
            human = [text for text in (json.loads(line)["text"] for line in lines) if len(text) > 3000]
    with gpt2.load(chosen.model, threads=chosen.threads) as model:
        tokenizer = model.tokenizer
        chosen.work /= model.fingerprint()[:12]
        chosen.work.mkdir(parents=True, exist_ok=True)
        texts = written(model, chosen.work / "texts.json", chosen.samples, lambda: time.monotonic() > until)
        if texts is None:
            print("run again to go on")
            sys.exit(75)
        rows = [row_of(model, name, texts, human) for name in SETTINGS]
    result = {"facts": facts(), "model": chosen.model, "level": LEVEL, "rows": rows}
    if human:
        p_values = [read_mark(tokenizer.encode(text[:1200])[:200], KEY).p_value for text in human]
        shares = {str(level): float(np.mean(np.array(p_values) <= level)) for level in (0.001, 0.01, 0.05, 0.5)}
        result["human"] = {"texts": len(human), "tokens": 200, "share_at_or_below": shares}
    write_json(FOLDER / "results" / "watermark.json", result)
    lines = [Line(name=row["setting"], x=list(LENGTHS), y=[row["told"][str(n)] for n in LENGTHS]) for row in rows]
    title = f"Share of {chosen.model}'s marked text that is told at p ≤ {LEVEL}"
    chart = LineChart(title=title, x_label="tokens", y_label="told", lines=lines, log_x=True)
    write_svg(chart, FOLDER.parent / "docs" / "pictures" / "watermark-length.svg")


def row_of(model: gpt2.LanguageModel, name: str, texts: dict[str, list[str]], human: list[str]) -> dict[str, Any]:
    tokenizer = model.tokenizer
    marked, plain = ([tokenizer.encode(text) for text in texts[f"{name}|{each}"]] for each in (True, False))
    words = " ".join(texts[f"{name}|True"]).split()
    whole = [tokenizer.decode(each) for each in windows(marked, 200)]

    def told(damage: Damage) -> float:
        ids = [tokenizer.encode(normalise(damage(text))[0]) for text in whole]
        return float(np.mean([read_mark(each, KEY).p_value <= LEVEL for each in ids]))

    row: dict[str, Any] = {
        "setting": name,
        "texts": len(marked),
        "distinct_texts": len({tuple(each) for each in marked}),
        "told": {
            str(n): float(np.mean([read_mark(each, KEY).p_value <= LEVEL for each in windows(marked, n)]))
            for n in LENGTHS
        },
        "windows": {str(n): len(windows(marked, n)) for n in LENGTHS},
        "told_of_200_tokens": {
            "10 % of words replaced": told(replaced(0.1, words)),
            "30 % of words replaced": told(replaced(0.3, words)),
            "50 % of words replaced": told(replaced(0.5, words)),
            "sentences shuffled": told(shuffled),
            "a third alone": told(lambda text: text[len(text) * 2 // 3 :]),
            "lower case": told(str.lower),
            "look-alike letters": told(lambda text: text.translate(LOOK_ALIKES)),
        },
        "told_by_other_keys": {
            "readings": len(OTHERS) * len(windows(marked, 200)),
            "told": sum(read_mark(each, key).p_value <= LEVEL for key in OTHERS for each in windows(marked, 200)),
        },
        "processor_seconds": {
            each: float(texts[f"{name}|{is_marked}|seconds"][0])
            for each, is_marked in (("marked", True), ("unmarked", False))
        },
        "marked": cost(model, marked),
        "unmarked": cost(model, plain),
    }
    if human:
        pasted = [
            tokenizer.decode(tokenizer.encode(human[i % len(human)])[:400])
            + text
            + tokenizer.decode(tokenizer.encode(human[(i + 7) % len(human)])[:400])
            for i, text in enumerate(whole)
        ]
        found = [
            read_marks(text, tokenizer=tokenizer, read=lambda ids: read_mark(ids, KEY), rate=LEVEL) for text in pasted
        ]
        row["told_within_800_tokens_of_human_text"] = float(np.mean([each.is_marked for each in found]))
    print(json.dumps(row))
    return row


if __name__ == "__main__":
    main()
