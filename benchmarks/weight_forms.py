"""What the smaller weight forms cost in quality: perplexity of each on a fixed text. Writes results/weight_forms.json.

    python benchmarks/weight_forms.py [--model gpt2-mini] [--text FILE] [--tokens 4000]

Without --text the text is this package's own documentation, which is at hand everywhere and which no model here was
made for: compare the forms, not the perplexity.
"""

import argparse
from pathlib import Path

import numpy as np

from gpt2 import checkpoint, hub
from gpt2.backends import Want, Work
from gpt2.backends.native import NativeBackend
from gpt2.bench import facts
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "weight_forms.json"
DOCS = Path(__file__).parents[1] / "docs"


def perplexity(backend: NativeBackend, ids: list[int]) -> float:
    """Over windows of a whole context each, without overlap."""
    width, total, count = backend.config.n_positions, 0.0, 0
    for start in range(0, len(ids) - 1, width):
        inputs, targets = ids[start : start + width], ids[start + 1 : start + width + 1]
        inputs = inputs[: len(targets)]
        slot = backend.new()
        [result] = backend.step([Work(slot=slot, tokens=inputs, want=Want(rows=len(inputs), targets=targets))])
        backend.free(slot)
        assert result.target_logprobs_R is not None
        total += float(result.target_logprobs_R.sum(dtype=np.float64))
        count += len(inputs)
    return float(np.exp(-total / count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=4000)
    chosen = parser.parse_args()

    found = checkpoint.read(hub.locate(chosen.model))
    files = [chosen.text] if chosen.text else sorted(DOCS.glob("*.md"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    ids = found.tokenizer().encode(text)[: chosen.tokens]
    forms: dict[str, float] = {}
    for form in ("fp32", "bf16", "int8", "int4"):
        backend = NativeBackend(found.weights, form=form)
        forms[form] = perplexity(backend, ids)
        print(f"{form}: perplexity {forms[form]:.3f}, {100 * (forms[form] / forms['fp32'] - 1):+.2f} % of fp32's")
        level = backend.level
        backend.close()
    write_json(RESULT, {**facts(), "model": chosen.model, "tokens": len(ids), "level": level, "perplexity": forms})


if __name__ == "__main__":
    main()
