"""Making a calibration: passages of human texts, and what the model writes after the beginnings of such."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Protocol

from gpt2.detect.calibration import LENGTHS, Calibration, calibrate
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import Reading
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """The model whose texts are to be told.

    Attributes:
        name: for people.
        fingerprint: of its weights.
        tokenizer: of both.
        read: what it makes of a text, in fp32.
        write: how it continues prompts.
    """

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    read: Callable[[Sequence[int]], Reading]
    write: Write

    def own_texts(self, beginnings: Sequence[Sequence[int]], *, seed: int) -> Iterator[tuple[str, Reading]]:
        """Setting and reading of a continuation of each beginning, the settings taking turns."""
        prompts = iter([self.tokenizer.decode(ids) for ids in beginnings])
        length, blank = max(LENGTHS), self.tokenizer.encode(" ")
        at_once = min(_AT_ONCE, -(-len(beginnings) // len(SETTINGS)))  # few texts are of every setting too
        for n_batch, (setting, values) in enumerate(cycle(SETTINGS.items())):
            batch = list(islice(prompts, at_once))
            if not batch:
                return
            for text in self.write(batch, max_tokens=length, min_tokens=length, seed=seed + n_batch, **values):
                yield setting, self.read(self.tokenizer.encode(text)[:length] or blank)


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
    author: Author,
    *,
    source: str,
    samples: int,
    seed: int = 0,
    progress: Callable[[int, str], None] = lambda done, of: None,
) -> Calibration:
    """Make a calibration by the curvature.

    Args:
        human: one passage of each human text, as `passages` gives them.
        author: reads them, and writes.
        source: what the human texts are, for people.
        samples: how many texts the author writes, after the beginnings of the first of them.
        seed: of these.
        progress: told how many texts of which sort are done.

    Raises:
        DataError: too few texts.
    """
    beginnings: list[Sequence[int]] = []
    of_humans: list[Reading] = []
    for done, ids in enumerate(human, start=1):
        if len(beginnings) < samples:
            beginnings.append(ids[:PROMPT_TOKENS])
        of_humans.append(author.read(ids))
        progress(done, "human texts")
    own: dict[str, list[Reading]] = {setting: [] for setting in SETTINGS}
    for done, (setting, reading) in enumerate(author.own_texts(beginnings, seed=seed), start=1):
        own[setting].append(reading)
        progress(done, "texts of the model")
    made_from = facts_of(source, n_human=len(of_humans), n_own=len(beginnings), seed=seed)
    return calibrate(
        of_humans,
        own,
        model=author.name,
        fingerprint=author.fingerprint,
        made_from=made_from | {"statistic": "curvature"},
    )


def facts_of(source: str, *, n_human: int, n_own: int, seed: int) -> dict[str, Any]:
    """What a calibration says of its texts."""
    return {
        "human": source,
        "human_texts": n_human,
        "generated_texts": n_own,
        "generated_settings": SETTINGS,
        "generated_prompt_tokens": PROMPT_TOKENS,
        "seed": seed,
    }
