"""Makes a prompt fit the context by fixed rules.

There are two rules, in this order: leave out examples (or earlier questions), the first ones first; then, if the
task allows it, cut the end of the text at a word. What was left out is reported. A question or a sentence to
translate is never cut: if it does not fit alone, it is refused.
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
        count: counts the tokens of a text.
    """

    n_positions: int
    count: Callable[[str], int]

    def prompt_tokens(self, max_tokens: int) -> int:
        """Tokens left beside an answer of `max_tokens`; at least half the context."""
        return self.n_positions - min(max_tokens, self.n_positions // 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The final prompt.

    Attributes:
        prompt: its text.
        sampling: how to continue it.
        left_out: a sentence on what did not fit; empty if everything did.
    """

    prompt: str
    sampling: Sampling
    left_out: str = ""

    def continued(self, write: Write) -> str:
        """The continuation from `write`; logs a warning about what did not fit."""
        if self.left_out:
            log.warning("%s", self.left_out)
        return write(self.prompt, self.sampling)


def fit_examples(
    build: Callable[[Sequence[Example]], str], examples: Sequence[Example], limit_tokens: int, room: Room
) -> tuple[str, int]:
    """The prompt with as many of the last examples as fit, and how many of the first were left out.

    Raises:
        ContextError: it does not fit even without examples.
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
    """The prompt with as many of the first words of `text` as fit, the number kept, and the total.

    Raises:
        ContextError: it does not fit even with one word.
    """
    prompt = build(text)
    # avoids counting a huge text: no token of this vocabulary is longer than 128 characters
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
