"""A prompt that fits the context, and the stated rules by which a longer input is made to fit.

Two rules, in this order: examples (or earlier questions) are left out, the first ones first; then, where a
task allows it, the end of the text is cut at a word. What was left out is said. A sentence to be translated
or a question is never cut: if it does not fit alone, it is refused.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from gpt2.errors import ContextError
from gpt2.generation import Sampling

Example = TypeVar("Example")
Write: TypeAlias = "Callable[[str, Sampling], str]"  # continues a prompt

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How long a prompt may be.

    Attributes:
        n_positions: the model's context, in tokens.
        count: the tokens of a text.
    """

    n_positions: int
    count: Callable[[str], int]

    def prompt_tokens(self, max_tokens: int) -> int:
        """Those left beside `max_tokens` of answer; but half the context is always the prompt's."""
        return self.n_positions - min(max_tokens, self.n_positions // 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the model is really asked.

    Attributes:
        prompt: its text.
        sampling: how it is continued.
        left_out: a sentence that says what did not fit; empty where all did.
    """

    prompt: str
    sampling: Sampling
    left_out: str = ""

    def continued(self, write: Write) -> str:
        """What is written after it; a warning says what did not fit."""
        if self.left_out:
            log.warning("%s", self.left_out)
        return write(self.prompt, self.sampling)


def fit_examples(
    build: Callable[[Sequence[Example]], str], examples: Sequence[Example], limit_tokens: int, room: Room
) -> tuple[str, int]:
    """The prompt with as many of the last examples as fit, and how many of the first were left out.

    Raises:
        ContextError: it does not fit without any.
    """
    alone = build(())
    if (n_tokens := room.count(alone)) > limit_tokens:
        raise ContextError(
            f"The text cannot be given to the model: with nothing around it, it takes {n_tokens:,} tokens, and of the "
            f"context of {room.n_positions:,} there are {limit_tokens:,} for it. Give a shorter one."
        )
    for dropped in range(len(examples)):
        prompt = build(examples[dropped:])
        if room.count(prompt) <= limit_tokens:
            return prompt, dropped
    return alone, len(examples)


def fit_text(build: Callable[[str], str], text: str, limit_tokens: int, room: Room) -> tuple[str, int, int]:
    """The prompt with as many of the first words of `text` as fit, the number kept, and that of all.

    Raises:
        ContextError: it does not fit with one of them.
    """
    prompt = build(text)
    # a text of a thousand contexts is not counted whole: no token of this vocabulary is longer than 128 characters
    if len(prompt) <= 128 * limit_tokens and room.count(prompt) <= limit_tokens:
        n_words = len(text.split())
        return prompt, n_words, n_words
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    fits, fails = 0, min(len(ends), limit_tokens + 1)  # a word is at least one token
    if fails == len(ends):
        fails += 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if room.count(build(text[: ends[middle - 1]])) <= limit_tokens:
            fits = middle
        else:
            fails = middle
    if not fits:
        raise ContextError(
            f"The text cannot be given to the model: not even its first word fits. Without it the prompt takes "
            f"{room.count(build('')):,} tokens, and of the context of {room.n_positions:,} there are {limit_tokens:,} "
            f"for it. Words are what white space separates: cut a text without any, or what stands around it."
        )
    return build(text[: ends[fits - 1]]), fits, len(ends)


def the_first(n: int, noun: str) -> str:
    """`the first example is`, `the first 2 examples are`."""
    return f"the first {noun} is" if n == 1 else f"the first {n:,} {noun}s are"
