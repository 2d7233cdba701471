"""Makes a calibration from human texts and from the model's continuations of their beginnings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpt2.detect.calibration import LENGTHS, Calibration, calibrate
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import Reading
from gpt2.generation.prompts import check_text
from gpt2.tokenizer import Tokenizer

PROMPT_TOKENS = 16
_AT_ONCE = 16
_SPARE = 40  # tokens: encoded again, a generated text may have fewer tokens
_CHARACTERS = 1 << 16  # of a text: more than its beginning needs
SETTINGS = {
    "temperature 1": {"temperature": 1.0},
    "top-k 40": {"temperature": 1.0, "top_k": 40},
    "temperature 0.8, top-k 40": {"temperature": 0.8, "top_k": 40},
}


class Write(Protocol):
    """Continues prompts like `LanguageModel.generate`, and returns only the continuations."""

    def __call__(
        self, prompts: list[str], *, max_tokens: int, min_tokens: int, seed: int, **settings: float
    ) -> list[str]:
        """A continuation for each prompt."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """The model whose texts are to be detected.

    Attributes:
        name: for people.
        fingerprint: of its weights.
        tokenizer: used by `read` and `write`.
        read: its reading of a text, in fp32.
        write: continues prompts.
    """

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    read: Callable[[Sequence[int]], Reading]
    write: Write

    def own_texts(self, beginnings: Sequence[Sequence[int]], *, seed: int) -> Iterator[tuple[str, Reading]]:
        """The setting and reading of a continuation of each beginning, in order, equally many per setting."""
        prompts = [self.tokenizer.decode(ids) for ids in beginnings]
        length, blank = max(LENGTHS), self.tokenizer.encode(" ")
        written = length + _SPARE
        for start in range(0, len(prompts), _AT_ONCE * len(SETTINGS)):
            some = prompts[start : start + _AT_ONCE * len(SETTINGS)]
            share = -(-len(some) // len(SETTINGS))
            for n, (setting, values) in enumerate(SETTINGS.items()):
                batch = some[n * share : (n + 1) * share]
                if not batch:  # four prompts over three settings make two, two and none
                    continue
                texts = self.write(batch, max_tokens=written, min_tokens=written, seed=seed + start + n, **values)
                for text in texts:
                    yield setting, self.read(self.tokenizer.encode(text)[:length] or blank)


def beginnings_of(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The beginning of each text that is long enough, as `judge` compares it; each text counts once."""
    for text in texts:
        check_text(text, "compared with")
        ids = tokenizer.encode(normalise(text[:_CHARACTERS])[0].strip())
        if len(ids) >= min(LENGTHS):
            yield ids[: max(LENGTHS)]


def calibrate_model(
    human: Iterable[Sequence[int]],
    author: Author,
    *,
    source: str,
    samples: int,
    seed: int = 0,
    progress: Callable[[int, str], None] = lambda done, of: None,
) -> Calibration:
    """Make a calibration that scores by curvature.

    Args:
        human: the beginning of each human text, as `beginnings_of` gives them.
        author: reads them, and writes its own.
        source: what the human texts are, for people.
        samples: how many texts the author writes, continuing the first human texts.
        seed: of these samples.
        progress: called with the number of texts done and their kind.

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
    """A calibration's record of its texts."""
    return {
        "human": source,
        "human_texts": n_human,
        "generated_texts": n_own,
        "generated_settings": SETTINGS,
        "generated_prompt_tokens": PROMPT_TOKENS,
        "seed": seed,
    }
