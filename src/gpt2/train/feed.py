"""What a run reads: batches of its mixture at any point of the run, the held-out tokens, the tokens' frequencies."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2.data import Batch, Cursor, Loader, Source, TokenStream, batches_in_order, verify
from gpt2.data.shards import read_manifest
from gpt2.errors import ConfigError, DataError, SettingError, ShardError
from gpt2.optim import stage
from gpt2.tokenizer import Tokenizer
from gpt2.train.config import TrainConfig

# A folder of shards may mark which tokens of a split are to be learned (1) and which are only read (0), such as those
# of a prompt. The marks are a split of their own, of the same length.
MARKS = "-wanted"
Wanted = NDArray[np.bool_] | None
"""Which targets of a batch are to be learned, bool [B, T]; None: all."""

_COUNTED_TOKENS = 20_000_000  # of each source: enough to know how frequent a token is


class Ahead:
    """Reads the next batch during the present step; returns the same batches as the feed."""

    def __init__(self, feed: "Feed") -> None:
        self._feed = feed
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[Cursor, float, Future[tuple[Batch, Wanted]]] | None = None

    def read(self, cursor: Cursor, progress: float) -> None:
        """Begin to read the batch at `cursor`, unless the run ends there."""
        self._next = None
        if progress < 1.0:
            self._next = cursor, progress, self._reader.submit(self._feed.batch, cursor, progress)

    def batch(self, cursor: Cursor, progress: float) -> "tuple[Batch, Wanted]":
        """The batch at `cursor`, read ahead if possible."""
        if self._next is not None and self._next[:2] == (cursor, progress):
            return self._next[2].result()
        return self._feed.batch(cursor, progress)


class Feed:
    """The data of a run; holds no position of its own.

    Attributes:
        tokenizer: the vocabulary that wrote the shards.
        validation: the held-out tokens, if there are any.
        data_hash: of all that is read, wherever the folders are.

    Raises:
        SettingError: no folder was named.
        ConfigError: the vocabularies of data, tokenizer and model do not agree.
        DataError: a source cannot be mixed or is too short.
        ShardError: a folder is unfinished or broken.
    """

    def __init__(self, config: TrainConfig) -> None:
        if not config.data.folder:
            raise SettingError("The run has no data: data.folder is empty. Say --data DIR, what `gpt2 prepare` wrote.")
        folder = Path(config.data.folder)
        mixture = config.data.mixture or {"": 1.0}
        sources = [Source(folder=folder / name, weight=weight, name=name or "all") for name, weight in mixture.items()]
        lengths = {length for _, length in config.schedule.sequence}
        self._config = config
        self._chunk_tokens = math.lcm(*lengths)  # the unit of shuffling: every length must divide it
        self._loaders = self._open(sources)
        self._first = self._loaders[min(self._loaders)]  # for what all have in common
        streams = self._first.streams
        self._wanted = self._open_wanted(sources) if any(has_marks(one.folder) for one in streams) else {}
        self.tokenizer = (
            Tokenizer.from_folder(Path(config.data.tokenizer)) if config.data.tokenizer else Tokenizer.published()
        )
        if self.tokenizer.hash != streams[0].tokenizer_hash:
            raise ConfigError(
                f"{folder} was not written with the vocabulary of {config.data.tokenizer or 'the published GPT-2'}. "
                f"Set data.tokenizer to the folder of the one that `gpt2 prepare` was given."
            )
        if (vocab_size := streams[0].vocab_size) > config.model.vocab_size:
            raise ConfigError(
                f"The model cannot read {folder}: its vocabulary has {config.model.vocab_size:,} tokens and that of "
                f"the data {vocab_size:,}. Set model.vocab_size={vocab_size}."
            )
        self.validation = self._open_validation(folder)
        self._validation_wanted: TokenStream | None = None
        if self._wanted and self.validation is not None:
            self._validation_wanted = TokenStream.open(self.validation.folder, f"{self.validation.split}{MARKS}")
        if self.validation is not None and self.validation.tokenizer_hash != self.tokenizer.hash:
            raise DataError(
                f"{self.validation.folder} was written with another vocabulary. Prepare it with the same one."
            )
        self.data_hash = self._hash()

    def _hash(self) -> str:
        """A hash of every shard that is read, wherever the folders are."""
        parts = [*zip(self._first.names, self._first.streams, strict=True)]
        if self.validation is not None:
            parts.append(("", self.validation))
        told = [
            [name, stream.split, facts["sha256"]]
            for name, stream in parts
            for _, facts in sorted(read_manifest(stream.folder)["files"].items())
            if facts["split"] == stream.split
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def broken(self) -> Iterator[str]:
        """Read every byte of the shards; yield what is wrong with them."""
        for folder in dict.fromkeys(stream.folder for stream in (*self._first.streams, self.validation) if stream):
            yield from (f"{folder}: {problem}" for problem in verify(folder))

    def start(self) -> Cursor:
        """The cursor of a run that has read nothing."""
        return Cursor()

    def sequence_tokens(self, progress: float) -> int:
        """Length of a sequence at this point of the run."""
        return stage(progress, self._config.schedule.sequence)

    def batch(self, cursor: Cursor, progress: float) -> tuple[Batch, Wanted]:
        """The next batch and which of its targets are to be learned; pass the batch's cursor to the next call."""
        shape = self.sequence_tokens(progress), stage(progress, self._config.schedule.batches)
        wanted = self._wanted[shape].batch(cursor).targets.astype(bool) if self._wanted else None
        return self._loaders[shape].batch(cursor), wanted

    def validation_batches(
        self, *, seq_tokens: int, n_tokens: int, batch_tokens: int
    ) -> Iterator[tuple[Batch, Wanted]]:
        """About the first `n_tokens` of the held-out tokens, each once, in order; 0 means all."""
        assert self.validation is not None
        seen = 0
        sizes = {"seq_tokens": seq_tokens, "batch_sequences": max(1, batch_tokens // seq_tokens)}
        marks = self._validation_wanted
        for batch, mark in itertools.zip_longest(
            batches_in_order(self.validation, **sizes), [] if marks is None else batches_in_order(marks, **sizes)
        ):
            assert batch is not None, "marks are as many as tokens"
            yield batch, None if mark is None else mark.targets.astype(bool)
            seen += batch.inputs.size
            if n_tokens and seen >= n_tokens:
                return

    def frequencies(self) -> NDArray[np.float64]:
        """The share of each token in the mixture, float64 [V], from up to 20 million tokens of each source."""
        weights = list(self._config.data.mixture.values()) or [1.0]
        total = np.zeros(self._config.model.vocab_size)
        for weight, stream in zip(weights, self._first.streams, strict=True):
            count = np.zeros(total.size)
            pieces = 64  # spread over the source, so that its kinds are all there
            for piece in range(pieces):
                ids = stream.read(
                    piece * stream.n_tokens // pieces, min(_COUNTED_TOKENS, stream.n_tokens) // pieces or 1
                )
                count += np.bincount(ids, minlength=total.size)
            total += weight * count / count.sum()
        return total / total.sum()

    def _open(self, sources: list[Source]) -> dict[tuple[int, int], Loader]:
        """A loader for every pair of (tokens of a sequence, tokens of a step) in the schedule."""
        schedule = self._config.schedule
        begins = {begin for begin, _ in (*schedule.sequence, *schedule.batches)}
        shapes = {(stage(begin, schedule.sequence), stage(begin, schedule.batches)) for begin in begins}
        return {
            (length, batch_tokens): Loader(
                sources,
                seq_tokens=length,
                batch_sequences=batch_tokens // length,
                seed=self._config.run.seed,
                chunk_tokens=self._chunk_tokens,
            )
            for length, batch_tokens in sorted(shapes)
        }

    def _open_wanted(self, sources: list[Source]) -> dict[tuple[int, int], Loader]:
        """Loaders of the marks, in the same places and order as the tokens."""
        if len(sources) > 1:
            raise DataError("Data with prompts cannot be mixed with others. Prepare them as one.")
        return self._open([dataclasses.replace(source, split=f"train{MARKS}") for source in sources])

    def _open_validation(self, folder: Path) -> TokenStream | None:
        inside = self._config.data.validation
        for split in ("validation", "train"):  # a folder may be held out as a whole
            with contextlib.suppress(ShardError):
                stream = TokenStream.open(folder / inside, split)
                if stream.n_tokens > 1:  # a single token has no target
                    return stream
            if not inside:
                return None
        raise DataError(
            f"There is nothing to validate with: {folder / inside} holds no token shards of two tokens or more."
        )


def has_marks(folder: Path) -> bool:
    """Whether a folder of shards says which tokens are to be learned."""
    return any(facts["split"] == f"train{MARKS}" for facts in read_manifest(folder)["files"].values())
