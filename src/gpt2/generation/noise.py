"""Keys for the noise of a draw: the position in the text, or a secret and the preceding tokens.

A draw takes its noise from a 64-bit key (see `draws`), so the choice of key decides what reproduces the draw.
`POSITION` is the default: (seed, sample, position). `ContextNoise` is a watermark: a reader with the secret computes
the same noise from the tokens alone, and finds suspiciously large noise at the chosen tokens.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2.generation import draws
from gpt2.generation.filters import Row


class Noise(Protocol):
    """A key for each position: a pure function of its arguments, so that drafts are verified with the same noise.

    Only a mark that changes the distribution itself (`greenlist.GreenList`) `tilts`.
    """

    @property
    def tilts(self) -> bool:
        """Whether `tilt` changes anything."""
        ...

    def tilt(self, row: Row, seen: Sequence[int], vocab_size: int) -> Row:
        """The changed row to draw from, after all filters; called only if `tilts`."""
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
    """Keyed by seed, sample and position, so that a seed reproduces its text."""

    def key(self, *, seed: int, sample: int, seen: Sequence[int], n_prompt: int) -> int:
        """See `Noise`."""
        return draws.key(seed, sample, len(seen))


POSITION = PositionNoise()


class ContextNoise(_Untilted):
    """Keyed by a secret and the last `width` tokens: a mark that the secret's owner can read.

    Over secrets, each token has the model's distribution. The first `width` tokens of a continuation use the noise of
    their position, so that another seed or sample gives another text. So does a token whose context already preceded
    a draw in this continuation: reusing the noise would cause repetition and distort the distribution of the text,
    and a reader counts repeated contexts once anyway.

    Aaronson's construction (lecture of 2022) in the form of Gumbel noise; skipping repeated contexts: Hu et al. 2023,
    "Unbiased watermark for large language models", and Dathathri et al. 2024, "Scalable watermarking", Nature.

    Args:
        secret: 16 to 64 bytes. It never appears in a message or a `repr`.
        width: tokens that the key depends on. Fewer survive more editing, but repeat more often.
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
        """The key of a draw after exactly these `width` tokens; a reader needs nothing else."""
        assert len(context) == self.width
        digest = blake2b(np.array(context, "<u4").tobytes(), key=self._secret, digest_size=8, person=b"gpt2-mark")
        return int.from_bytes(digest.digest(), "little")

    def _is_new(self, continuation: NDArray[np.int64]) -> bool:
        """Whether it has `width` tokens, and its last `width` precede a draw for the first time."""
        if len(continuation) < self.width:
            return False
        contexts = np.lib.stride_tricks.sliding_window_view(continuation, self.width)
        return not (contexts[:-1] == contexts[-1]).all(axis=1).any()
