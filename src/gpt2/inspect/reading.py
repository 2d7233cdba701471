"""Shared first steps of every inspection: a text's tokens, and one backend step over them."""

from collections.abc import Iterable, Sequence
from numbers import Integral

from gpt2.backends.seam import Backend, Result, Want, Work
from gpt2.config import ModelConfig
from gpt2.errors import ContextError, GenerationError
from gpt2.generation.prompts import check_ids, ids_of
from gpt2.generation.settings import checked_number
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.labels import label, labels

Text = str | Sequence[int]
Tokens = tuple[tuple[int, ...], tuple[str, ...]]  # ids, and the label of each


def read_tokens(config: ModelConfig, tokenizer: Tokenizer, text: Text) -> Tokens:
    """The ids of a text and the label of each.

    Raises:
        GenerationError: no token, or neither a text nor ids.
        ContextError: the text is longer than the context.
    """
    ids = tuple(ids_of(text, tokenizer, config.vocab_size, done="looked into", where="the text"))
    if not ids:
        raise GenerationError("There is nothing to look at: the text is empty. Give at least one token.")
    if len(ids) > config.n_positions:
        raise ContextError(
            f"The model cannot be looked into as it reads this text: it has {len(ids):,} tokens, and the context is "
            f"{config.n_positions:,}. Give a part of it."
        )
    return ids, labels(tokenizer, ids)


def read_pair(config: ModelConfig, tokenizer: Tokenizer, text: Text, source: Text) -> tuple[Tokens, Tokens]:
    """Two texts with equally many tokens, so that activations of one can replace those of the other.

    Raises:
        GenerationError: the numbers differ; or as `read_tokens`.
        ContextError: a text is longer than the context.
    """
    read, of_source = read_tokens(config, tokenizer, text), read_tokens(config, tokenizer, source)
    if len(read[0]) != len(of_source[0]):
        raise GenerationError(
            f"Vectors cannot be exchanged between texts of {len(read[0])} and {len(of_source[0])} tokens: "
            f"{_joined(read[1])} and {_joined(of_source[1])}. Choose words of as many tokens."
        )
    return read, of_source


def one_token(tokenizer: Tokenizer, answer: str | int, vocab_size: int) -> int:
    """The id of an answer, which must be one token.

    Raises:
        GenerationError: its text is several tokens, or there is no such id.
    """
    if isinstance(answer, Integral):
        check_ids([int(answer)], vocab_size, "the answer")
        return int(answer)
    if not isinstance(answer, str):
        raise GenerationError(f"The answer is one token, given as its text or its id: got {answer!r:.60}.")
    ids = tokenizer.encode(answer)
    if not ids:
        raise GenerationError("The answer is empty: give one token, mostly a space and a word.")
    if len(ids) != 1:
        raise GenerationError(
            f"The answer {answer!r} is not one token but {len(ids)}: "
            f"{_joined([label(tokenizer, token) for token in ids])}. Give one of them, or an id."
        )
    return ids[0]


def run(backend: Backend, ids: Sequence[int], want: Want) -> Result:
    """Run one step over all of `ids` in a temporary slot."""
    slot = backend.new()
    try:
        [result] = backend.step([Work(slot=slot, tokens=ids, want=want)])
    finally:
        backend.free(slot)
    return result


def chosen(what: str, given: Sequence[int] | int | None, count: int) -> tuple[int, ...]:
    """The requested numbers in their order, or all `count` of them.

    Raises:
        GenerationError: a number is out of range, not a number or repeated, or none is given.
    """
    if given is None:
        return tuple(range(count))
    some = given if isinstance(given, Iterable) else (given,)
    numbers = tuple(checked_number(what, number, whole=True) for number in some)
    if not numbers:
        raise GenerationError(f"There is nothing to look at: no {what} is named. Leave it out for all, or name one.")
    for place, number in enumerate(numbers):
        if not 0 <= number < count:
            raise GenerationError(f"There is no {what} {number}: they are 0 to {count - 1}. Choose one of these.")
        if number in numbers[:place]:
            raise GenerationError(f"The {what} {number} cannot be had twice: got {numbers!s:.60}. Name each once.")
    return numbers


def place(what: str, number: int, among: Sequence[int]) -> int:
    """The index of a layer or head among the requested ones.

    Raises:
        GenerationError: it is not among them, or not a number.
    """
    number = checked_number(what, number, whole=True)
    if number not in among:
        raise GenerationError(
            f"There is no {what} {number} here: asked for {'was' if len(among) == 1 else 'were'} "
            f"{', '.join(map(str, among))}. Choose one of these, or ask for more."
        )
    return among.index(number)


def _joined(pieces: Sequence[str]) -> str:
    return "|".join(pieces)
