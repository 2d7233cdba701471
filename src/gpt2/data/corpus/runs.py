"""A task's files for finding duplicates: facts of each document, and keys in sorted runs.

facts.npy              for each document: hashes of address and text, words, bytes, place (part)
bands.npy, rows.npy    for each band the MinHash numbers, ascending, and the documents they belong to
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt2.data.corpus.minhash import MinHash, Signer
from gpt2.data.ngrams import Hashes

FACTS = np.dtype([("address", "u8"), ("text", "u8"), ("words", "u4"), ("bytes", "u4"), ("part", "u4")])
_BATCH_WORDS = 1 << 15  # of documents signed together: for a short one, NumPy's call overhead dominates


class RunWriter:
    """Collects the documents of one task: 28 bytes for each, and 8 a band."""

    def __init__(self, settings: MinHash | None) -> None:
        self._signer = Signer(settings) if settings else None
        self._facts: list[tuple[int, ...]] = []
        self._waiting: list[Sequence[str]] = []
        self._waiting_words = 0
        self._bands: list[Hashes] = []

    def add(self, words: Sequence[str], *, address: int, text: int, size: int, part: int) -> None:
        """Add one document: its words, hashes of its address and text, its bytes and its part."""
        self._facts.append((address, text, len(words), min(size, 0xFFFFFFFF), part))
        if self._signer:
            self._waiting.append(words or [f"no words, but {text}"])  # similar only to itself
            self._waiting_words += max(1, len(words))
            if self._waiting_words >= _BATCH_WORDS:
                self._sign(self._signer)

    def _sign(self, signer: Signer) -> None:
        self._bands.append(signer.bands(signer.sign_all(self._waiting)))
        self._waiting, self._waiting_words = [], 0

    def save(self, folder: Path) -> None:
        """Write the files named above."""
        np.save(folder / "facts.npy", np.array(self._facts, FACTS))
        if self._signer:
            self._sign(self._signer)
            bands = np.concatenate(self._bands).T
            rows = np.argsort(bands, axis=1, kind="stable").astype(np.uint32)
            np.save(folder / "bands.npy", np.take_along_axis(bands, rows.astype(np.int64), axis=1))
            np.save(folder / "rows.npy", rows)
