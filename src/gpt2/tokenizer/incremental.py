"""Decodes a stream of ids: text as soon as it is complete, never half a character."""

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2.tokenizer.tokenizer import Tokenizer


class IncrementalDecoder:
    """Turns ids into text one at a time.

    The results of `push` and `finish`, joined, equal `Tokenizer.decode` of all ids at once: bytes that may still become
    a character wait; bytes that cannot become U+FFFD, exactly as in `bytes.decode(errors="replace")`.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._rest = b""  # start of an incomplete character

    def push(self, token_id: int) -> str:
        """The text that this id completes; often a word, sometimes nothing.

        Raises:
            TokenizerError: the vocabulary has no such id.
        """
        return self._decode(self._tokenizer.token_bytes(token_id), final=False)

    def finish(self) -> str:
        """The rest: nothing, or U+FFFD for a character that was never completed. Resets the decoder."""
        return self._decode(b"", final=True)

    def _decode(self, new: bytes, *, final: bool) -> str:
        read = self._rest + new
        text, n_read = codecs.utf_8_decode(read, "replace", final)
        self._rest = read[n_read:]
        return text
