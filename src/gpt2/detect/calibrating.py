"""Making a calibration: passages of human texts, and what the model writes after the beginnings of such."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Protocol

from gpt2.backends.seam import Backend
from gpt2.detect.calibration import LENGTHS, Calibration, calibrate
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import Reading
from gpt2.detect.reading import read as read_tokens
from gpt2.tokenizer import Tokenizer

PROMPT_TOKENS = 16
_AT_ONCE = 16
_CHARACTERS = 1 << 20  # of a text: no passage needs more
SETTINGS = {
    "temperature 1": {"temperature": 1.0},
    "top-k 40": {"temperature": 1.0, "top_k": 40},
    "temperature 0.8, top-k 40": {"temperature": 0.8, "top_k": 40},
}


class Write(Protocol):
    """Continues prompts as `LanguageModel.generate` does, and gives the continuations alone."""

    def __call__(
        self, prompts: list[str], *, max_tokens: int, min_tokens: int, seed: int, **settings: float
    ) -> list[str]:
        """A continuation for each prompt."""
        ...


def passages(texts: Iterable[str], tokenizer: Tokenizer, *, seed: int) -> Iterator[list[int]]:
    """One passage of each text, from a place drawn evenly: texts of one author must not count twice."""
    draw = random.Random(seed)
    for text in texts:
        ids = tokenizer.encode(normalise(text[:_CHARACTERS])[0].strip())
        start = draw.randrange(max(1, len(ids) - max(LENGTHS) + 1))
        if len(ids) >= min(LENGTHS):
            yield ids[start : start + max(LENGTHS)]


def calibrate_model(
    human: Iterable[Sequence[int]],
    *,
    backend: Backend,
    tokenizer: Tokenizer,
    write: Write,
    name: str,
    fingerprint: str,
    source: str,
    samples: int,
    seed: int,
    progress: Callable[[int, str], None],
    read: Callable[[Backend, Tokenizer, Sequence[int]], Reading] = read_tokens,
) -> Calibration:
    """See `LanguageModel.calibrate`; `read` may remember what was read before."""
    beginnings: list[list[int]] = []

    def read_human() -> Iterator[Reading]:
        for done, ids in enumerate(human, start=1):
            if len(beginnings) < samples:
                beginnings.append(list(ids[:PROMPT_TOKENS]))
            yield read(backend, tokenizer, ids)
            progress(done, "human texts")

    def read_own() -> dict[str, list[Reading]]:
        own: dict[str, list[Reading]] = {setting: [] for setting in SETTINGS}
        for done, (setting, text) in enumerate(write_own(beginnings, tokenizer, write, seed=seed), start=1):
            ids = tokenizer.encode(text)[: max(LENGTHS)]
            if ids:
                own[setting].append(read(backend, tokenizer, ids))
            progress(done, "texts of the model")
        return own

    of_humans = list(read_human())  # first, for the beginnings
    return calibrate(
        of_humans,
        read_own(),
        model=name,
        fingerprint=fingerprint,
        made_from={
            "human": source,
            "human_texts": len(of_humans),
            "generated_texts": len(beginnings),
            "generated_settings": SETTINGS,
            "generated_prompt_tokens": PROMPT_TOKENS,
            "seed": seed,
            "statistic": "curvature",
        },
    )


def write_own(
    beginnings: Sequence[list[int]], tokenizer: Tokenizer, write: Write, *, seed: int
) -> Iterator[tuple[str, str]]:
    """Setting and text of a continuation of each beginning, the settings taking turns."""
    prompts = iter([tokenizer.decode(ids) for ids in beginnings])
    length = max(LENGTHS)
    for n_batch, (setting, values) in enumerate(cycle(SETTINGS.items())):
        batch = list(islice(prompts, _AT_ONCE))
        if not batch:
            return
        for text in write(batch, max_tokens=length, min_tokens=length, seed=seed + n_batch, **values):
            yield setting, text
