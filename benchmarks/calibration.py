"""Make gpt2-mini's calibration, which ships beside its weights: what `gpt2 detect` compares with out of the box.

    python benchmarks/calibration.py CORPUS/validation.jsonl.zst [--model gpt2-mini] [--out FILE]

The texts are held-out documents of the sources that gpt2-mini was trained on, one passage of each, without the
stories that another model wrote. To be run again whenever the weights change: a calibration of others is refused.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import zstandard

import gpt2
from gpt2.cli.calibrating import table_of
from gpt2.detect import CALIBRATION

MODEL_MADE = (  # TinyStories, by the repositories that carry it
    "czhou578/train-gpt2",
    "mines-opt-ml/decoding-gpt",
    "s-ajaykumar/smallGPT",
    "Aditya584cloud/small-scale-gpt2-type-from-scratch",
)


def owner_of(source: str) -> str:
    """`github.com/standardebooks/a-book` -> `standardebooks`, since some sources are a repository a book."""
    name = source.removeprefix("github.com/")
    return name.partition("/")[0] if name.startswith(("standardebooks/", "GITenberg/")) else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="JSON Lines with `text`, `source` and `licence`")
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--limit", type=int, default=None, help="documents; all")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="the model's folder")
    chosen = parser.parse_args()

    with zstandard.open(chosen.texts, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    documents = [
        document for document in found if not document["source"].removeprefix("github.com/").startswith(MODEL_MADE)
    ][: chosen.limit]
    sources = Counter(owner_of(document["source"]) for document in documents)
    licences = Counter(document["licence"] for document in documents)
    began = time.monotonic()
    with gpt2.load(chosen.model, threads=chosen.threads) as model:
        made = model.calibrate(
            (document["text"] for document in documents),
            source=f"{len(documents)} held-out documents of openly licensed sources: books, encyclopedia, "
            "documentation, dialogue; no text that a model wrote",
            samples=chosen.samples,
            progress=lambda done, of: (
                print(f"{time.monotonic() - began:.0f} s: {done} {of}", flush=True) if done % 20 == 0 else None
            ),
        )
        made = replace(made, made_from={**made.made_from, "sources": dict(sources), "licences": dict(licences)})
        out = chosen.out or model.checkpoint.folder / CALIBRATION
    made.write(out)
    for row in table_of(made):
        print(*row, sep="\t")


if __name__ == "__main__":
    main()
