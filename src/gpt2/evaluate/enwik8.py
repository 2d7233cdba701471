"""enwik8 and text8: the start of a Wikipedia dump with all its markup, by byte; and its bare words, by character."""

import math
from collections.abc import Sequence

from gpt2.evaluate import language_modelling
from gpt2.evaluate.benchmark import Benchmark, DataFile, Figures, Known, Plan, Setting
from gpt2.generation.targets import TargetScore

_TEST_BYTES = 5_000_000


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """The whole text as one; `limit` counts thousands of characters."""
    text = texts[0] if setting.limit is None else texts[0][: 1000 * setting.limit]
    n_bytes = len(text.encode("utf-8"))
    whole = language_modelling.Texts(
        documents=[text], n_words=len(text.split()), n_bytes=n_bytes, n_examples=math.ceil(len(text) / 1000)
    )
    made = language_modelling.plan_texts(whole, setting)

    def measure(results: Sequence[TargetScore]) -> Figures:
        figures = made.measure(results)
        return {"bits_per_character": figures["bits_per_byte"] * n_bytes / len(text), **figures}

    def errors(results: Sequence[TargetScore]) -> Figures:
        found = made.errors(results) if made.errors else {}
        of_byte = found.get("bits_per_byte")
        return found if of_byte is None else {"bits_per_character": of_byte * n_bytes / len(text), **found}

    return Plan(requests=made.requests, measure=measure, n_examples=made.n_examples, errors=errors)


def _benchmark(
    name: str,
    figure: str,
    *,
    open_and_text: str,
    sha256: str,
    origin: str,
    paper: tuple[float, ...],
    known: tuple[Known, ...],
) -> Benchmark:
    return Benchmark(
        name=name,
        title=name,
        protocol=f"Section 3.1: {figure.replace('_', ' ')}. {open_and_text}",
        files=(
            DataFile(
                path=f"{name}/{name}",
                sha256=sha256,
                origin=f"{origin} (Mahoney; CC BY-SA), out of {name}.zip",
                url=f"https://mattmahoney.net/dc/{name}.zip",
                tail_bytes=_TEST_BYTES,
            ),
        ),
        choices=language_modelling.LAST_WINDOW,
        plan=plan,
        paper={figure: paper},
        made_up=(f"{name}.txt",),
        headline=figure,
        better="lower",
        known=known,
    )


ENWIK8 = _benchmark(
    "enwik8",
    "bits_per_byte",
    open_and_text="Open: which part (here the last 5,000,000 bytes, the usual test set), and the stride. The text is "
    "scored as it is.",
    sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
    origin="the first 100,000,000 bytes of a dump of the English Wikipedia",
    paper=(1.16, 1.01, 0.97, 0.93),
    known=(
        Known(
            "124M",
            "bits_per_byte",
            2.23,
            "per token or so, not per byte: the unit is wrong",
            "huggingface/transformers#13786",
        ),
    ),
)

TEXT8 = _benchmark(
    "text8",
    "bits_per_character",
    open_and_text="Open: which part (here the last 5,000,000 characters, the usual test set), and the stride. Lower "
    "case, no punctuation, digits spelled out: nothing of it can be written back.",
    sha256="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
    origin="the words of a part of the English Wikipedia, 100,000,000 characters",
    paper=(1.17, 1.06, 1.02, 0.98),
    known=(),
)
