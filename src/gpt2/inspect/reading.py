"""What every look inside begins with: a text's tokens, and one step of the backend over them."""

from collections.abc import Iterable, Sequence

from gpt2.backends.seam import Backend, Result, Want, Work
from gpt2.errors import ContextError, GenerationError
from gpt2.generation.prompts import check_text
from gpt2.generation.settings import checked_number
from gpt2.tokenizer import Tokenizer

Text = str | Sequence[int]


def read_tokens(backend: Backend, tokenizer: Tokenizer, text: Text) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids of a text and the text of each by itself; part of a character is U+FFFD.

    Raises:
        GenerationError: no token, or neither a text nor ids.
        ContextError: more than the context.
    """
    check_text(text, "looked into", or_ids=True)
    ids = tuple(tokenizer.encode(text) if isinstance(text, str) else text)
    if not ids:
        raise GenerationError("There is nothing to look at: the text is empty. Give at least one token.")
    if len(ids) > backend.config.n_positions:
        raise ContextError(
            f"The model cannot be looked into as it reads this text: it has {len(ids):,} tokens, and the context is "
            f"{backend.config.n_positions:,}. Give a part of it."
        )
    return ids, tuple(tokenizer.decode([token]) for token in ids)


def run(backend: Backend, ids: Sequence[int], want: Want) -> Result:
    """One step over all of `ids` in a slot of its own, which is given back."""
    slot = backend.new()
    try:
        [result] = backend.step([Work(slot=slot, tokens=ids, want=want)])
    finally:
        backend.free(slot)
    return result


def chosen(what: str, given: Sequence[int] | int | None, count: int) -> tuple[int, ...]:
    """Those asked for, or all `count` of them.

    Raises:
        GenerationError: there is none of that number, or it is no number.
    """
    if given is None:
        return tuple(range(count))
    some = given if isinstance(given, Iterable) else (given,)
    numbers = tuple(checked_number(what, number, whole=True) for number in some)
    for number in numbers:
        if not 0 <= number < count:
            raise GenerationError(f"There is no {what} {number}: they are 0 to {count - 1}. Choose one of these.")
    return numbers


def place(what: str, number: int, among: Sequence[int]) -> int:
    """Where a layer or head stands among those that were asked for.

    Raises:
        GenerationError: it does not, or it is no number.
    """
    number = checked_number(what, number, whole=True)
    if number not in among:
        raise GenerationError(
            f"There is no {what} {number} here: asked for {'was' if len(among) == 1 else 'were'} "
            f"{', '.join(map(str, among))}. Choose one of these, or ask for more."
        )
    return among.index(number)
