"""What `gpt2 card --training` finds out from samples and from a pass over the model's training text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.cli.options import ModelChoice
from gpt2.cli.status_line import StatusLine
from gpt2.report import card_training as sections
from gpt2.report.card import Described

if TYPE_CHECKING:
    from gpt2.language_model import LanguageModel

_SAMPLE_TOKENS = 100
_GROUP_TOKENS = 30  # about 20 words
_AT_ONCE = 32


def with_training(
    known: Described, model: str, files: Sequence[Path], *, samples: int, workers: int, threads: int | None
) -> Described:
    """The same with the training text's sources, what the model repeats of it, and how both write of groups.

    Args:
        known: facts of the model.
        model: its name.
        files: the training text.
        samples: how many to draw, to look for repetition.
        workers: processes that read the text.
        threads: for drawing samples.
    """
    from gpt2.data.ngrams import words_of
    from gpt2.data.repeated import WINDOW_WORDS, count_near, find_repeated

    choice = ModelChoice(model=model, device="auto", backend="auto", weights="auto", threads=threads)
    with StatusLine() as line:
        with choice.load() as opened:
            tokens = min(_SAMPLE_TOKENS, known.config.n_positions // 2)
            texts = _drawn(opened, samples, tokens, line)
            prompts = sections.group_prompts()
            each = max(1, samples // 20)
            done = opened.generate(
                [prompt for _, prompt in prompts],
                n=each,
                max_tokens=min(_GROUP_TOKENS, known.config.n_positions // 2),
                temperature=1.0,
                seed=1,
            )
        found = find_repeated(
            texts,
            files,
            groups=sections.GROUPS,
            categories=sections.CATEGORIES,
            workers=workers,
            progress=lambda documents, n_bytes: line.show(lambda: f"{documents:,} documents, {n_bytes:,} bytes read"),
        )
    counts: dict[str, tuple[int, Counter[str]]] = {group: (0, Counter()) for group in sections.GROUPS}
    for (group, _), completion in zip(prompts, done, strict=True):
        for sample in completion.samples:
            n, near = counts[group]
            # count the words as following a mention of the group
            words = [group, *words_of(sample.text)]
            _, said = next(count_near(words, {group: frozenset([group])}, sections.CATEGORIES))
            near.update(said)
            counts[group] = (n + 1, near)
    base = {group: (near.mentions, near.near) for group, near in found.near.items()}
    return replace(
        known,
        data=known.data or sections.sources(found.documents, found.text_bytes, found.sources),
        repeated=sections.repeated(
            n=found.n,
            samples=samples,
            tokens=tokens,
            touched=found.touched,
            share=found.found / found.ngrams,
            longest=[(each.n_words, each.times, each.sample, each.text) for each in found.longest],
            frequent=[(each.samples, each.times, each.text) for each in found.frequent],
        ),
        groups=sections.groups(
            counts, base, window=WINDOW_WORDS, settings=f"{each} of each prompt, temperature 1, seed 1"
        ),
    )


def _drawn(model: "LanguageModel", samples: int, tokens: int, line: StatusLine) -> list[str]:
    texts: list[str] = []
    for first in range(0, samples, _AT_ONCE):
        count = min(_AT_ONCE, samples - first)
        done = model.generate("", n=count, max_tokens=tokens, min_tokens=tokens, temperature=1.0, seed=first)
        texts += [sample.text for sample in done.samples]
        line.show(lambda drawn=first + count: f"{drawn:,} of {samples:,} samples")
    return texts
