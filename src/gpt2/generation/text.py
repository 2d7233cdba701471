"""Decodes tokens to text as they come, ending before the first stop string.

Text that may turn out to be the beginning of a stop string is held back, so that no text is shown that a stop then
removes.
"""

from collections.abc import Sequence

from gpt2.tokenizer import IncrementalDecoder, Tokenizer


class TextStream:
    """The text of one continuation.

    The stop string that ends first counts; of several that end at one character, the longest. So the end of a text
    does not depend on its tokenization.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._held = ""

    def push(self, token: int) -> tuple[str, str | None]:
        """The text that this token makes certain, and the stop string it completes, if any."""
        return self._advance(self._decoder.push(token))

    def push_unstoppable(self, token: int) -> str:
        """The text of a token before the minimum length is reached: stop strings that begin up to here do not count."""
        return self._decoder.push(token)

    def finish(self) -> tuple[str, str | None]:
        """The text that was held back; call it after the last token."""
        text, stop = self._advance(self._decoder.finish())
        held, self._held = self._held, ""
        return (text, stop) if stop is not None else (text + held, None)

    def _advance(self, new: str) -> tuple[str, str | None]:
        if not self._stops:
            return new, None
        text = self._held + new
        stop = first_stop(text, self._stops)
        if stop is not None:
            self._held = ""
            return text[: text.index(stop)], stop
        certain = len(text) - longest_beginning(text, self._stops)
        self._held = text[certain:]
        return text[:certain], None


def first_stop(text: str, stops: Sequence[str]) -> str | None:
    """The stop string that ends first in `text`; of several that end there, the longest."""
    found = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    return min(found)[2] if found else None


def longest_beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a proper prefix of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[len(text) - length :]
        if any(len(stop) > length and stop.startswith(tail) for stop in stops):
            return length
    return 0
