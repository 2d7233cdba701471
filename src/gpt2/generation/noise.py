"""What the noise of a draw is keyed by: the place in the text, or a secret and the tokens before it.

A draw takes its noise from a 64-bit key (see `draws`), and whoever chooses the key for a place decides what repeats
the draw. `POSITION` is the default: (seed, sample, position). `ContextNoise` is a watermark: a reader who has the
secret computes the same noise from the tokens alone, and finds that the tokens chosen have suspiciously much of it.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2.generation import draws
from gpt2.generation.filters import Row


class Noise(Protocol):
    """A key for each place: a pure function of what it is given, so that a draft is judged by the same noise.

    A mark that changes the distribution itself (`greenlist.GreenList`) `tilts`, and the others do not.
    """

    @property
    def tilts(self) -> bool:
        """Whether `tilt` changes anything."""
        ...

    def tilt(self, row: Row, seen: Sequence[int], vocab_size: int) -> Row:
        """The row that is drawn from, after all filters, where `tilts`."""
        ...

    def key(self, *, seed: int, sample: int, seen: Sequence[int], n_prompt: int) -> int:
        """The key of the draw that follows `seen`: a prompt of `n_prompt` ids and the continuation so far."""
        ...


class _Untilted:
    @property
    def tilts(self) -> bool:
        """See `Noise`."""
        return False

    def tilt(self, row: Row, seen: Sequence[int], vocab_size: int) -> Row:
        """See `Noise`."""
        return row


class PositionNoise(_Untilted):
    """Keyed by seed, sample and position: what makes a seed repeat its text."""

    def key(self, *, seed: int, sample: int, seen: Sequence[int], n_prompt: int) -> int:
        """See `Noise`."""
        return draws.key(seed, sample, len(seen))


POSITION = PositionNoise()


class ContextNoise(_Untilted):
    """Keyed by a secret and the last `width` tokens, which leaves a mark that the secret's owner can read.

    The distribution of each token, over secrets, is that of the model. The first `width` tokens of a continuation take
    the noise of their position, so that another seed or sample is another text; so does a token whose context led to
    a draw before in this continuation, for the same noise twice would repeat itself and bend the distribution of the
    text, and a reader counts repeated contexts once anyway.

    Aaronson's construction (lecture of 2022) in the form of Gumbel noise; skipping repeated contexts: Hu et al. 2023,
    "Unbiased watermark for large language models", and Dathathri et al. 2024, "Scalable watermarking", Nature.

    Args:
        secret: 16 to 64 bytes. It is in no message and no representation.
        width: tokens that the key depends on. Fewer survive more editing, and repeat more often.
    """

    def __init__(self, secret: bytes, *, width: int = 4) -> None:
        assert 16 <= len(secret) <= 64, "a secret of 16 to 64 bytes"
        assert width > 0
        self._secret = secret
        self.width = width

    def key(self, *, seed: int, sample: int, seen: Sequence[int], n_prompt: int) -> int:
        """See `Noise`."""
        if self._is_new(np.array(seen[n_prompt:], np.int64)):
            return self.context_key(seen[len(seen) - self.width :])
        return POSITION.key(seed=seed, sample=sample, seen=seen, n_prompt=n_prompt)

    def context_key(self, context: Sequence[int]) -> int:
        """The key of a draw after exactly these `width` tokens: all that a reader needs."""
        assert len(context) == self.width
        digest = blake2b(np.array(context, "<u4").tobytes(), key=self._secret, digest_size=8, person=b"gpt2-mark")
        return int.from_bytes(digest.digest(), "little")

    def _is_new(self, continuation: NDArray[np.int64]) -> bool:
        """Whether its last `width` tokens are there, and stand before a draw for the first time."""
        if len(continuation) < self.width:
            return False
        contexts = np.lib.stride_tricks.sliding_window_view(continuation, self.width)
        return not (contexts[:-1] == contexts[-1]).all(axis=1).any()
