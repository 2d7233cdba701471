"""Batches from a weighted mixture of shard folders, each a pure function of (seed, cursor).

A source is cut into chunks of `chunk_tokens`. Every epoch visits each chunk once, in the order of a keyed permutation
that is computed and never stored; where the first chunk begins moves with the epoch (the stream is a ring). A sequence
is the next `seq_tokens` tokens of that order, and its targets are the same tokens one place on. A low-discrepancy
sequence chooses the source of each sequence, so that every stretch of a run has very nearly the mixture's proportions.

Documents are packed one after another, each beginning with <|endoftext|>; a sequence may begin inside one.
Axes: B sequences of the batch, T tokens of a sequence.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.data.shards import TokenStream
from gpt2.errors import DataError

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio
_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One folder of shards and its part in the mixture.

    Attributes:
        folder: what `prepare` wrote.
        weight: share of the tokens of a batch, relative to the other sources' weights.
        split: which split of the folder.
        name: under which the cursor counts it; the folder's name if empty.
    """

    folder: Path | str
    weight: float = 1.0
    split: str = "train"
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """How far a run has read: all that an exact resume needs.

    Attributes:
        sequences: drawn so far, from all sources together.
        tokens: read in each source, by its name.
    """

    sequences: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict[str, int])

    def to_json(self) -> dict[str, Any]:
        """A plain object for a checkpoint."""
        return {"sequences": self.sequences, "tokens": dict(self.tokens)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Cursor":
        """What `to_json` gave.

        Raises:
            DataError: the object is not a cursor.
        """
        try:
            tokens = {str(name): int(count) for name, count in value["tokens"].items()}
            sequences = int(value["sequences"])
            if min(sequences, *tokens.values(), 0) < 0:
                raise ValueError("no run has read less than nothing")
            return cls(sequences=sequences, tokens=tokens)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"The data cursor cannot be read: {value!r} is not one.") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One batch and the cursor after it.

    Attributes:
        inputs: int64 [B, T].
        targets: int64 [B, T], the token that follows each input.
        cursor: give it to the next call.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    cursor: Cursor


class Loader:
    """Draws batches from a mixture; holds no position of its own.

    One cursor serves any `batch_sequences` and any `seq_tokens` that divides `chunk_tokens`, in any order. After a
    change to longer sequences, a source continues at its next multiple of the new length; the tokens between (fewer
    than one sequence a source) are skipped in that epoch.

    Raises:
        DataError: no source, a weight that is not positive, two sources of one name, lengths that do not
            divide, vocabularies that differ, or a source shorter than one chunk.
        ShardError: a folder is unfinished or broken.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seq_tokens: int,
        batch_sequences: int,
        seed: int = 0,
        chunk_tokens: int = 1024,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not sources:
            raise DataError("No batches can be drawn: no source was named.")
        if not 0 < seq_tokens <= chunk_tokens or chunk_tokens % seq_tokens:
            raise DataError(
                f"Sequences of {seq_tokens} tokens cannot be drawn: the length must divide a chunk of {chunk_tokens}. "
                f"Choose such a length, or set chunk_tokens to a multiple of it."
            )
        if batch_sequences < 1 or not 0 <= rank < world or batch_sequences % world:
            raise DataError(
                f"A batch of {batch_sequences} sequences cannot be shared: rank {rank} of {world}. "
                f"Choose a number of sequences that the number of ranks divides."
            )
        self.seq_tokens = seq_tokens
        self.batch_sequences = batch_sequences
        self.seed = seed
        self.chunk_tokens = chunk_tokens
        self.rank = rank
        self.world = world
        self.names = [source.name or Path(source.folder).resolve().name for source in sources]
        if len(set(self.names)) < len(self.names):
            raise DataError(f"Two sources have one name: {', '.join(self.names)}. Name them apart.")
        for source in sources:
            if not 0 < source.weight < float("inf"):
                raise DataError(f"The weight of {source.folder} must be above 0 and finite: got {source.weight}.")
        self.streams = [TokenStream.open(source.folder, source.split) for source in sources]
        for stream in self.streams:
            if stream.tokenizer_hash != self.streams[0].tokenizer_hash:
                raise DataError(
                    f"{stream.folder} and {self.streams[0].folder} cannot be mixed: their vocabularies differ. "
                    f"Prepare both with one tokenizer."
                )
            if stream.n_tokens < chunk_tokens:
                raise DataError(
                    f"{stream.folder} is too short: it has {stream.n_tokens:,} tokens, a chunk {chunk_tokens:,}. "
                    f"Add text, or choose shorter sequences."
                )
        total = sum(source.weight for source in sources)
        shares = np.cumsum([source.weight / total for source in sources])[:-1]
        self._thresholds = [int(share * 2.0**64) for share in shares]
        self._keys = [_key(seed, name) for name in self.names]

    def start(self) -> Cursor:
        """The cursor of a run that has read nothing."""
        return Cursor()

    def batch(self, cursor: Cursor) -> Batch:
        """The batch at `cursor`: this rank's rows of the global batch, which is cut in the order of ranks."""
        tokens = dict(cursor.tokens)
        local = self.batch_sequences // self.world
        first, last = self.rank * local, (self.rank + 1) * local
        rows: list[NDArray[np.int64]] = []
        for row in range(self.batch_sequences):
            source = self._source_of(cursor.sequences + row)
            name = self.names[source]
            position = -(-tokens.get(name, 0) // self.seq_tokens) * self.seq_tokens
            if first <= row < last:
                rows.append(self._sequence(source, position))
            tokens[name] = position + self.seq_tokens
        ids = np.stack(rows)
        after = Cursor(sequences=cursor.sequences + self.batch_sequences, tokens=tokens)
        return Batch(inputs=ids[:, :-1], targets=ids[:, 1:], cursor=after)

    def epochs(self, cursor: Cursor) -> dict[str, float]:
        """How many times each source has been read, by its name."""
        return {
            name: cursor.tokens.get(name, 0) / (stream.n_tokens // self.chunk_tokens * self.chunk_tokens)
            for name, stream in zip(self.names, self.streams, strict=True)
        }

    def _source_of(self, sequence: int) -> int:
        point = (sequence * _GOLDEN + _key(self.seed, "mixture")) & _MASK
        return sum(point >= threshold for threshold in self._thresholds)

    def _sequence(self, source: int, position: int) -> NDArray[np.int64]:
        """The tokens and the one after them, [T + 1], at a position of the source's shuffled order."""
        stream = self.streams[source]
        n_chunks = stream.n_tokens // self.chunk_tokens
        epoch, index = divmod(position // self.chunk_tokens, n_chunks)
        key = _mix(self._keys[source] + epoch)
        chunk = permuted(index, n_chunks, key)
        start = _mix(key) % stream.n_tokens + chunk * self.chunk_tokens + position % self.chunk_tokens
        return stream.read(start, self.seq_tokens + 1)


def batches_in_order(stream: TokenStream, *, seq_tokens: int, batch_sequences: int) -> Iterator[Batch]:
    """Batches for validation: every token of a stream but the first is a target once, in order.

    Full batches come first, then one of fewer rows, then one row of fewer tokens; none is padded.
    """
    at, end = 0, stream.n_tokens - 1
    while at < end:
        rows = min(batch_sequences, (end - at) // seq_tokens)
        width = seq_tokens if rows else end - at
        n_tokens = max(rows, 1) * width
        ids = stream.read(at, n_tokens + 1)
        at += n_tokens
        yield Batch(
            inputs=ids[:-1].reshape(-1, width),
            targets=ids[1:].reshape(-1, width),
            cursor=Cursor(tokens={stream.split: at}),
        )


def permuted(index: int, count: int, key: int) -> int:
    """The image of `index` under a keyed permutation of range(count): four Feistel rounds, with cycle walking.

    Each image is computed alone, so no order is stored; it is the same on every machine and library version.
    """
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(key ^ (right << 8 | turn)) & mask)
        index = left << half_bits | right
        if index < count:
            return index


def _mix(value: int) -> int:
    """Mix 64 bits (the finaliser of splitmix64; Steele, Lea and Flood 2014)."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "little")
