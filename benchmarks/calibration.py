"""Make gpt2-mini's calibration, which ships beside its weights: what `gpt2 detect` compares with out of the box.

    python benchmarks/calibration.py CORPUS/validation.jsonl.zst [--model gpt2-mini] [--out FILE]

The texts are held-out documents of the sources that gpt2-mini was trained on, without the stories that another model
wrote. To be run again whenever the weights change: a calibration of others is refused.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

import gpt2
from gpt2.backends import Backend
from gpt2.cli.calibrating import table_of
from gpt2.detect import CALIBRATION, Reading, beginnings_of, read
from gpt2.detect.calibrating import Author, calibrate_model

WORK = Path(__file__).parent / "results" / "calibration-work.jsonl"
MODEL_MADE = (  # TinyStories, by the repositories that carry it
    "czhou578/train-gpt2",
    "mines-opt-ml/decoding-gpt",
    "s-ajaykumar/smallGPT",
    "Aditya584cloud/small-scale-gpt2-type-from-scratch",
)


class Work:
    """What these weights wrote and read before, so that a run may stop after a while and the next goes on."""

    def __init__(self, path: Path, seconds: float, weights: str) -> None:
        self.path, self.until, self.weights = path, time.monotonic() + seconds, weights[:12]
        self.known: dict[str, Any] = {}
        if path.is_file():
            self.known = dict(map(json.loads, path.read_text(encoding="utf-8").splitlines()))

    def keep(self, key: str, value: Any) -> None:
        self.known[key] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps((key, value)) + "\n")
        if time.monotonic() > self.until:
            print(f"{len(self.known)} steps done; run again to go on")
            sys.exit(75)

    def written(self, settings: dict[str, Any], write: Callable[[], list[str]]) -> list[str]:
        key = f"{self.weights} wrote {settings['seed']}"
        if key not in self.known:
            self.keep(key, write())
        return self.known[key]

    def knows(self, ids: Sequence[int]) -> bool:
        return self._key(ids) in self.known

    def read(self, backend: Backend, tokenizer: gpt2.Tokenizer, ids: Sequence[int]) -> Reading:
        key = self._key(ids)
        if key not in self.known:
            found = read(backend, tokenizer, ids)
            self.keep(key, {field.name: getattr(found, field.name).tolist() for field in fields(found)})
        return Reading(**{name: np.array(values) for name, values in self.known[key].items()})

    def _key(self, ids: Sequence[int]) -> str:
        return f"{self.weights} read {' '.join(map(str, ids))}"


def human_documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a JSON Lines file that no model wrote."""
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [each for each in found if not each["source"].removeprefix("github.com/").startswith(MODEL_MADE)]


def owner_of(source: str) -> str:
    """`github.com/standardebooks/a-book` -> `standardebooks`, since some sources are a repository a book."""
    name = source.removeprefix("github.com/")
    return name.partition("/")[0] if name.startswith(("standardebooks/", "GITenberg/")) else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="JSON Lines with `text`, `source` and `licence`")
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--limit", type=int, default=None, help="documents; all")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after these (exit code 75)")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=None, help="the model's folder")
    chosen = parser.parse_args()

    documents = human_documents(chosen.texts)[: chosen.limit]
    sources = Counter(owner_of(document["source"]) for document in documents)
    licences = Counter(document["licence"] for document in documents)
    with gpt2.load(chosen.model, threads=chosen.threads) as model:
        work = Work(chosen.work, chosen.seconds, model.fingerprint())
        backend, tokenizer = model.exact_backend(), model.tokenizer
        made = calibrate_model(
            beginnings_of((document["text"] for document in documents), tokenizer),
            Author(
                name=model.name,
                fingerprint=model.fingerprint(),
                tokenizer=tokenizer,
                read=lambda ids: work.read(backend, tokenizer, ids),
                write=lambda prompts, **settings: work.written(
                    settings, lambda: [each.text for each in model.generate(prompts, **settings)]
                ),
            ),
            source=f"{len(documents)} held-out documents of openly licensed sources: books, encyclopedia, "
            "documentation, dialogue; no text that a model wrote",
            samples=chosen.samples,
            progress=lambda done, of: print(f"{done} {of}", flush=True) if done % 50 == 0 else None,
        )
        made = replace(made, made_from={**made.made_from, "sources": dict(sources), "licences": dict(licences)})
        out = chosen.out or model.checkpoint.folder / CALIBRATION
    made.write(out)
    for row in table_of(made):
        print(*row, sep="\t")


if __name__ == "__main__":
    main()
