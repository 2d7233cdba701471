"""What finding duplicates needs of each document, as a task leaves it on the disk: facts, and keys in sorted runs.

facts.npy              for each document: hashes of address and text, words, bytes, place (part), order
bands.npy, rows.npy    for each band the MinHash numbers, ascending, and which documents they are of
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2.data.corpus.minhash import MinHash, Signer
from gpt2.data.ngrams import Hashes

FACTS = np.dtype([("address", "u8"), ("text", "u8"), ("words", "u4"), ("bytes", "u4"), ("part", "u4"), ("order", "u8")])


_BATCH = 256  # signatures that become bands at once: for one, NumPy's calls cost more than their work


class RunWriter:
    """Collects the documents of one task: 36 bytes for each, and 8 a band."""

    def __init__(self, settings: MinHash | None) -> None:
        self._signer = Signer(settings) if settings else None
        self._facts: list[tuple[int, ...]] = []
        self._signatures: list[NDArray[np.uint32]] = []
        self._bands: list[Hashes] = []

    def add(self, words: list[str], *, address: int, text: int, size: int, part: int, order: int) -> None:
        """One document: its words, hashes of its address and text, its bytes, its part and its place in the shuffle."""
        self._facts.append((address, text, len(words), min(size, 0xFFFFFFFF), part, order))
        if self._signer:
            signature = self._signer.sign_words(words)
            if signature is None:  # no words: like nothing but itself
                count = self._signer.settings.bands * self._signer.settings.rows
                signature = np.full(count, text & 0xFFFFFFFF).astype(np.uint32)
            self._signatures.append(signature)
            if len(self._signatures) == _BATCH:
                self._join()

    def _join(self) -> None:
        if self._signer and self._signatures:
            self._bands.append(self._signer.bands(np.array(self._signatures)))
            self._signatures.clear()

    def save(self, folder: Path) -> None:
        """Write the files named above."""
        np.save(folder / "facts.npy", np.array(self._facts, FACTS))
        if self._signer:
            self._join()
            none = np.empty((0, self._signer.settings.bands), np.uint64)
            bands = np.concatenate([none, *self._bands]).T
            rows = np.argsort(bands, axis=1, kind="stable").astype(np.uint32)
            np.save(folder / "bands.npy", np.take_along_axis(bands, rows.astype(np.int64), axis=1))
            np.save(folder / "rows.npy", rows)
