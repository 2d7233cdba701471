"""What a run reads: batches of its mixture at any point of the run, the held-out tokens, the tokens' frequencies."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2.data import Batch, Cursor, Loader, Source, TokenStream, batches_in_order
from gpt2.errors import ConfigError, DataError, ShardError
from gpt2.optim import stage
from gpt2.train.config import TrainConfig

_COUNTED_TOKENS = 20_000_000  # of each source: enough to know how frequent a token is


class Feed:
    """The data of a run; holds no position of its own.

    Attributes:
        tokenizer_hash: of the vocabulary that wrote the shards.
        validation: the held-out tokens.

    Raises:
        ConfigError: no folder was named, or its vocabulary is not the model's.
        DataError: a source that cannot be mixed or is too short.
        ShardError: a folder that is unfinished or broken.
    """

    def __init__(self, config: TrainConfig) -> None:
        if not config.data.folder:
            raise ConfigError("The run has no data: data.folder is empty. Say --data DIR, what `gpt2 prepare` wrote.")
        folder = Path(config.data.folder)
        mixture = config.data.mixture or {"": 1.0}
        sources = [Source(folder=folder / name, weight=weight, name=name or "all") for name, weight in mixture.items()]
        lengths = sorted({length for _, length in config.schedule.sequence})
        self._config = config
        self._loaders = {
            length: Loader(
                sources,
                seq_tokens=length,
                batch_sequences=config.schedule.batch_tokens // length,
                seed=config.run.seed,
                chunk_tokens=_chunk(lengths),
            )
            for length in lengths
        }
        streams = self._loaders[lengths[0]].streams
        self.tokenizer_hash = streams[0].tokenizer_hash
        if (vocab_size := streams[0].vocab_size) > config.model.vocab_size:
            raise ConfigError(
                f"The model cannot read {folder}: its vocabulary has {config.model.vocab_size:,} tokens and that of "
                f"the data {vocab_size:,}. Set model.vocab_size={vocab_size}."
            )
        self.validation = self._open_validation(folder)
        if self.validation.tokenizer_hash != self.tokenizer_hash:
            raise DataError(
                f"{self.validation.folder} was written with another vocabulary. Prepare it with the same one."
            )

    def start(self) -> Cursor:
        """The cursor of a run that has read nothing."""
        return Cursor()

    def sequence_tokens(self, progress: float) -> int:
        """Length of a sequence at this point of the run."""
        return stage(progress, self._config.schedule.sequence)

    def batch(self, cursor: Cursor, progress: float) -> Batch:
        """The next batch; its cursor is the next call's."""
        return self._loaders[self.sequence_tokens(progress)].batch(cursor)

    def validation_batches(self, *, seq_tokens: int, n_tokens: int, batch_tokens: int) -> Iterator[Batch]:
        """About the first `n_tokens` of the held-out tokens, each once, in order; 0 means all."""
        seen = 0
        for batch in batches_in_order(
            self.validation, seq_tokens=seq_tokens, batch_sequences=max(1, batch_tokens // seq_tokens)
        ):
            yield batch
            seen += batch.inputs.size
            if n_tokens and seen >= n_tokens:
                return

    def frequencies(self) -> NDArray[np.float64]:
        """The share of each token in the mixture, float64 [V], from up to 20 million tokens of each source."""
        loader = self._loaders[min(self._loaders)]
        weights = list(self._config.data.mixture.values()) or [1.0]
        total = np.zeros(self._config.model.vocab_size)
        for weight, stream in zip(weights, loader.streams, strict=True):
            count = np.zeros(total.size)
            pieces = 64  # spread over the source, so that its kinds are all there
            for piece in range(pieces):
                ids = stream.read(
                    piece * stream.n_tokens // pieces, min(_COUNTED_TOKENS, stream.n_tokens) // pieces or 1
                )
                count += np.bincount(ids, minlength=total.size)
            total += weight * count / count.sum()
        return total / total.sum()

    def _open_validation(self, folder: Path) -> TokenStream:
        if not self._config.data.validation:
            return TokenStream.open(folder, "validation")
        inside = folder / self._config.data.validation
        try:
            return TokenStream.open(inside, "validation")
        except ShardError:
            return TokenStream.open(inside)  # a folder that is held out as a whole


def _chunk(lengths: list[int]) -> int:
    """What the loader shuffles: at least 1,024 tokens, and a multiple of every length."""
    chunk = int(np.lcm.reduce(lengths))
    return chunk * max(1, 1024 // chunk)
