"""Tokens as labels for people: a character of several tokens is shown whole by the last, those before show bytes."""

import codecs
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.tokenizer.tokenizer import Tokenizer


def labels(tokenizer: "Tokenizer", ids: Sequence[int]) -> tuple[str, ...]:
    """A label for each token of a text. Raises as `Tokenizer.pieces` does."""
    before = chain([b""], unfinished(tokenizer, ids))
    return tuple(label(tokenizer, token, after=rest) for token, rest in zip(ids, before, strict=False))


def label(tokenizer: "Tokenizer", token: int, *, after: bytes = b"") -> str:
    r"""The text of a token, with the character that it completes; its bytes, as in `\xe6\x97`, if it is a part of one.

    Args:
        tokenizer: of the model.
        token: its id.
        after: the character's bytes in the tokens before.
    """
    piece = tokenizer.token_bytes(token)
    for whole in (after + piece, piece):
        try:
            return whole.decode("utf-8")
        except UnicodeDecodeError:
            continue
    return "".join(f"\\x{byte:02x}" for byte in piece)


def unfinished(tokenizer: "Tokenizer", ids: Iterable[int]) -> list[bytes]:
    """After each id, the bytes of a character that it leaves unfinished; mostly none."""
    rests: list[bytes] = []
    rest = b""
    for piece in map(tokenizer.token_bytes, ids):
        read = rest + piece
        rest = read[codecs.utf_8_decode(read, "replace", False)[1] :]
        rests.append(rest)
    return rests
