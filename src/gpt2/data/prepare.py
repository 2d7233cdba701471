"""Documents to a folder of token shards: streaming, parallel, resumable, and always the same bytes.

One process reads the documents in order and cuts them into blocks, workers encode the blocks, and their ids are
written in order. A resumed run reads the documents again, checks that they are the same, and encodes only the missing
blocks.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2.data import shards
from gpt2.data.blocks import SPLITS, Block, cut_blocks, encode_blocks
from gpt2.data.compressed import STDIN
from gpt2.data.documents import ReadOptions, find_sources, passed_over
from gpt2.data.folder_writer import PROGRESS_NAME, FolderWriter, refuse_other
from gpt2.errors import DataError
from gpt2.files import MANIFEST_NAME, lock
from gpt2.tokenizer import Tokenizer

_log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """What decides the bytes that `prepare` writes, besides the sources and the vocabulary.

    Attributes:
        validation: share of the documents kept for validation, from 0 to 1. A document goes there if the
            64-bit BLAKE2b hash of its text, or of its first 2^20 characters, is below this share of 2^64: so the
            same text always goes to the same split, wherever it occurs.
        shard_tokens: a shard is closed by the block that brings it to this many.
        read: how to read sources.

    Raises:
        DataError: a value is invalid.
    """

    validation: float = 0.0
    shard_tokens: int = 100_000_000
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation <= 1.0:
            raise DataError(f"The share for validation must lie between 0 and 1: got {self.validation}.")
        if not 1 <= self.shard_tokens <= 1 << 30:
            raise DataError(f"shard_tokens must lie between 1 and {1 << 30:,}: got {self.shard_tokens:,}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        documents: encoded so far, including earlier runs.
        tokens: likewise.
        text_bytes: likewise, as UTF-8.
        new_documents: encoded by this run.
        new_text_bytes: likewise.
        seconds: since this run encoded its first block.
        seconds_left: estimated from the fraction of the source files read; None if unknown.
        source: the file being read.
    """

    documents: int
    tokens: int
    text_bytes: int
    new_documents: int
    new_text_bytes: int
    seconds: float
    seconds_left: float | None
    source: str


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: Path | str,
    *,
    config: PrepareConfig | None = None,
    tokenizer: Tokenizer | None = None,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Write the token shards of `sources` to the folder `out`, or finish what an earlier run began there.

    With more than one worker, processes are spawned: a script that calls this must guard its main part by
    `if __name__ == "__main__"`.

    Args:
        sources: files, folders, or "-" for standard input.
        out: the folder of shards.
        config: what decides the bytes.
        tokenizer: None: GPT-2's own.
        workers: processes that encode; 1: encode in this process.
        progress: called after every block, in this process.

    Returns:
        The manifest.

    Raises:
        DataError: a source cannot be read, is empty, or is not what the run began with; or the folder holds the
            output of another configuration.
        ShardError: the record of the earlier run, or a shard that it finished, is damaged.
        FolderInUseError: another process is writing there.
        OSError: the disk is full. What was recorded is kept: run again once there is room.
    """
    config = config or PrepareConfig()
    out = Path(out)
    tokenizer = tokenizer or Tokenizer.published()
    if isinstance(sources, str | Path):  # a string would be taken as a sequence of one-letter names
        sources = [sources]
    found = find_sources(sources, config.read.kind)
    for folder in {Path(name): None for name in sources if Path(name).is_dir()}:
        if said := passed_over(folder):
            _log.info("%s", said)
    named = [{"name": name, "bytes": None if name == STDIN else Path(name).stat().st_size} for name in found]
    settings = {"sources": named, "tokenizer_hash": tokenizer.hash, **asdict(config)}
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} cannot be filled: it is a file. Choose the name of a folder.")
    with lock(out):
        if (out / MANIFEST_NAME).is_file():
            manifest = shards.read_manifest(out)
            refuse_other(out, manifest.get("settings"), settings)
            (out / PROGRESS_NAME).unlink(missing_ok=True)
            _log.info("%s: already prepared", out)
            return manifest
        writer = FolderWriter(out, settings, shard_tokens=config.shard_tokens, tokenizer=tokenizer)
        writer.resume()
        meter = _Meter(found, progress)
        blocks = cut_blocks(found, config.read, validation=config.validation, on_read=meter.on_read)
        with (
            writer.recorded(),
            contextlib.closing(encode_blocks(writer.missing(blocks), tokenizer, workers)) as encoded,
        ):
            for block, ids in encoded:
                writer.append(block, ids)
                meter.report(block, writer)
        return writer.finish()


class _Meter:
    """Rates and the time left, from the bytes of the source files read so far."""

    def __init__(self, found: Sequence[str], tell: Callable[[Progress], None] | None) -> None:
        self.tell = tell
        self.total_bytes = None if STDIN in found else sum(Path(name).stat().st_size for name in found)
        self.read_bytes = 0
        self.began: tuple[float, int] | None = None  # seconds and bytes read, when the first block came
        self.documents = 0
        self.text_bytes = 0

    def on_read(self, n_bytes: int) -> None:
        """Count bytes of the source files."""
        self.read_bytes += n_bytes

    def report(self, block: Block, writer: FolderWriter) -> None:
        """Report the progress after one more block."""
        if self.tell is None:
            return
        now = time.monotonic()
        self.began = self.began or (now, self.read_bytes)
        self.documents += sum(block.documents.values())
        self.text_bytes += block.text_bytes
        seconds, new_bytes = now - self.began[0], self.read_bytes - self.began[1]
        left = None
        if self.total_bytes is not None and new_bytes:
            left = seconds / new_bytes * max(0, self.total_bytes - self.read_bytes)
        self.tell(
            Progress(
                documents=sum(writer.state.total("documents", split) for split in SPLITS),
                tokens=sum(writer.state.total("tokens", split) for split in SPLITS),
                text_bytes=writer.state.text_bytes,
                new_documents=self.documents,
                new_text_bytes=self.text_bytes,
                seconds=seconds,
                seconds_left=left,
                source=block.source,
            )
        )
