"""The letters that stand for bytes in vocabulary files.

GPT-2's files hold tokens as text, so each byte needs a printable letter: a byte that is printable in Latin-1 is its
own letter, and the n-th of the others is U+0100 + n. A space is `Ġ`, a newline `Ċ`. The order of the letters is the
published order of the 256 byte tokens.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from gpt2.errors import TokenizerError

_PRINTED = bytes([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])
BYTE_ORDER = _PRINTED + bytes(byte for byte in range(256) if byte not in _PRINTED)

_LETTERS = _PRINTED.decode("latin-1") + "".join(map(chr, range(0x100, 0x100 + 256 - len(_PRINTED))))
_LETTER_OF_BYTE = dict(zip(BYTE_ORDER, _LETTERS, strict=True))
_NO_BYTE = "\uffff"  # anything that Latin-1 cannot encode
_BYTE_OF_LETTER = dict.fromkeys(range(256), _NO_BYTE) | {
    ord(letter): chr(byte) for byte, letter in _LETTER_OF_BYTE.items()
}


def letters(token: bytes) -> str:
    """A token's bytes as letters."""
    return token.decode("latin-1").translate(_LETTER_OF_BYTE)


def bytes_of(names: Iterable[str]) -> list[bytes]:
    """The bytes that names, written in these letters, stand for.

    Raises:
        TokenizerError: a name has a character that is not one of the letters.
    """
    names = list(names)
    edges = list(accumulate(map(len, names), initial=0))
    try:  # translate all at once: a letter is one byte, so the boundaries stay
        joined = "".join(names).translate(_BYTE_OF_LETTER).encode("latin-1")
    except UnicodeEncodeError as error:
        name = _name_at(names, edges, error.start)
        raise TokenizerError(
            f"The vocabulary cannot be read: the token {name!r} is not written in GPT-2's letters for bytes. "
            f"It may belong to another kind of tokenizer."
        ) from None
    return [joined[start:end] for start, end in pairwise(edges)]


def _name_at(names: Sequence[str], edges: Sequence[int], position: int) -> str:
    return next(name for name, end in zip(names, edges[1:], strict=True) if position < end)
