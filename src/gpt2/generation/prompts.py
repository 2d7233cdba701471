"""Checks a request against a model: its prompt as ids, its end ids, its limits."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from operator import index

from gpt2.config import ModelConfig
from gpt2.errors import ContextError, GenerationError, TokenizerError
from gpt2.generation.requests import Request
from gpt2.generation.settings import Sampling
from gpt2.tokenizer import Tokenizer


def prompt_ids(request: Request, tokenizer: Tokenizer, config: ModelConfig) -> list[int]:
    """The prompt's ids: at least one, at most the context.

    Raises:
        ContextError: it is longer than the context, and `truncate_prompt` is off.
        GenerationError: an id is outside the vocabulary, more top log-probabilities are requested than it has tokens,
            or the prompt is empty and there is no end-of-text token.
    """
    ids = ids_of(request.prompt, tokenizer, config.vocab_size, done="continued", where="the prompt")
    check_ids(request.sampling.stop_ids, config.vocab_size, "stop_ids")
    check_ids(request.sampling.logit_bias, config.vocab_size, "logit_bias")
    check_logprobs(request.sampling, config)
    if not ids:
        if tokenizer.eot is None:
            raise GenerationError(
                "An empty prompt cannot be continued: this tokenizer has no end-of-text token to start from. "
                "Give a prompt of at least one token."
            )
        ids = [tokenizer.eot]
    limit = config.n_positions
    if len(ids) > limit and not request.sampling.truncate_prompt:
        raise ContextError(
            f"The prompt cannot be continued: it has {len(ids):,} tokens, and the model's context is {limit:,}. "
            f"Shorten it, or keep only its last tokens (--truncate-prompt, truncate_prompt=True); "
            f"to score a longer text, use score, which slides a window over it."
        )
    return ids[-limit:]


def end_ids(sampling: Sampling, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids at which a continuation ends."""
    if tokenizer.eot is None or sampling.ignore_eot:
        return frozenset(sampling.stop_ids)
    return frozenset({tokenizer.eot, *sampling.stop_ids})


def token_limit(sampling: Sampling, n_prompt: int, config: ModelConfig) -> int:
    """How many tokens may be generated after a prompt of `n_prompt`."""
    if sampling.overflow == "refuse":
        return min(sampling.max_tokens, config.n_positions - n_prompt)
    return sampling.max_tokens


def check_logprobs(sampling: Sampling, config: ModelConfig) -> None:
    """Refuse a request for more top log-probabilities than there are tokens.

    Raises:
        GenerationError: too many are requested.
    """
    for name, asked in (("logprobs", sampling.logprobs), ("prompt_logprobs", sampling.prompt_logprobs)):
        if (asked or 0) > config.vocab_size:
            raise GenerationError(
                f"{name} must be at most {config.vocab_size:,}, the tokens that the model knows: got {asked}."
            )


def check_text(given: object, done: str, *, or_ids: bool = False) -> None:
    """Refuse anything but a text or, with `or_ids`, ids; the public API passes unchecked values.

    Raises:
        GenerationError: it cannot be `done`.
    """
    if isinstance(given, bytes | bytearray):
        raise GenerationError(f"Bytes cannot be {done}: they are no text yet. Decode them, as by .decode('utf-8').")
    is_one = not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0  # a 0-d array is a number
    if not isinstance(given, str) and (is_one or not or_ids):
        advice = " Give one id as [id]." if or_ids and is_number(given) else ""
        raise GenerationError(f"A text{' or token ids' if or_ids else ''} can be {done}: got {given!r:.60}.{advice}")


def ids_of(given: str | Iterable[int], tokenizer: Tokenizer, vocab_size: int, *, done: str, where: str) -> list[int]:
    """The ids of a text, or the given ids, as Python integers whatever array they come from.

    Raises:
        GenerationError: it is neither, so it cannot be `done`; or an id is not in the vocabulary.
        TokenizerError: the text cannot be encoded.
    """
    check_text(given, done, or_ids=True)
    return check_ids(tokenizer.encode(given) if isinstance(given, str) else given, vocab_size, where)


@contextmanager
def said_of(which: str) -> Generator[None]:
    """Name `which` item an error is about, such as "prompt 2"; "" leaves the error unchanged.

    Raises:
        GenerationError, ContextError, TokenizerError: whichever was raised inside.
    """
    try:
        yield
    except (GenerationError, TokenizerError) as error:
        if not which:
            raise
        raise type(error)(f"{which}: {error}") from error


def is_number(given: object) -> bool:
    """Whether it is a Python or array number, and so may be an id; a later check refuses numbers that are not."""
    return hasattr(given, "__float__") and not getattr(given, "ndim", 0)


def check_ids(ids: Iterable[int], vocab_size: int, where: str) -> list[int]:
    """The ids as Python integers, all in a vocabulary of this size.

    Raises:
        GenerationError: an id is outside the vocabulary, or not a whole number.
    """
    return [_checked_id(token, vocab_size, where) for token in ids]


def _checked_id(token: object, vocab_size: int, where: str) -> int:
    try:
        number = -1 if isinstance(token, bool) else index(token)  # pyright: ignore[reportArgumentType] -- or TypeError
    except TypeError:
        number = -1
    if not 0 <= number < vocab_size:
        advice = " One text is given by itself, not in a list." if isinstance(token, str) else ""
        raise GenerationError(
            f"Token id {token!r:.60} of {where} is not in the vocabulary: ids are whole numbers from 0 to "
            f"{vocab_size - 1:,}.{advice}"
        )
    return number
