"""Documents to a folder of token shards: streaming, parallel, resumable, and the same bytes however it was run.

One process reads the documents in order and cuts them into blocks; worker processes encode blocks; the results
are written in order. So neither the number of workers nor an interruption changes a byte. A shard ends with the
first block that brings it to `shard_tokens`. What is finished is recorded in `progress.json`; a later run reads
the same documents again, checks that they are the same, and encodes only those that are missing.
"""

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2 import files
from gpt2.data import shards
from gpt2.data.compressed import STDIN
from gpt2.data.documents import ReadOptions, find_sources, read_documents
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer

PROGRESS_NAME = "progress.json"
SPLITS: tuple[str, str] = ("train", "validation")
_BLOCK_CHARACTERS = 1 << 20
_BLOCK_DOCUMENTS = 4096
_RECORD_SECONDS = 15.0
_log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """What decides the bytes that `prepare` writes.

    Attributes:
        validation: share of the documents kept for validation, from 0 to 1. A document goes there if the
            BLAKE2b hash of its text, read as a fraction of 2^64, lies below it: so the same text always goes
            the same way, wherever it stands.
        shard_tokens: a shard is closed by the block that brings it to this many.
        read: how sources are read.
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
    """How far a run is; rates are of this run alone.

    Attributes:
        documents: encoded so far, those of earlier runs included.
        tokens: likewise.
        text_bytes: likewise, as UTF-8.
        seconds: since this run began to encode.
        new_documents: encoded by this run.
        new_bytes: likewise.
        fraction: of the bytes of the source files that have been read, 0 to 1; None for standard input.
        seconds_left: estimated from it.
        source: what is being read.
    """

    documents: int
    tokens: int
    text_bytes: int
    seconds: float
    new_documents: int
    new_bytes: int
    fraction: float | None
    seconds_left: float | None
    source: str


def prepare(
    sources: Sequence[str | Path],
    out: Path | str,
    *,
    config: PrepareConfig | None = None,
    tokenizer: Path | str | None = None,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Write the token shards of `sources` to the folder `out`, or finish what a former run began there.

    With more than one worker, processes are started anew ("spawn"): a script that calls this must guard its
    main part by `if __name__ == "__main__"`.

    Args:
        sources: files, folders, or "-" for standard input.
        out: the folder of shards.
        config: what decides the bytes.
        tokenizer: a folder with vocabulary files; None is the published vocabulary.
        workers: processes that encode; 1 encodes in this one.
        progress: called after every block, from this process.

    Returns:
        The manifest.

    Raises:
        DataError: a source that cannot be read, has nothing in it, or is not what the run began with; or a
            folder that holds the output of another configuration.
        FolderInUseError: another process is writing there.
        OSError: the disk is full; run again once there is room, what was recorded is kept.
    """
    config = config or PrepareConfig()
    out = Path(out)
    found = find_sources(sources)
    vocabulary = _tokenizer(tokenizer)
    settings = _settings(found, config, vocabulary)
    with files.lock(out):
        done = _finished(out, settings)
        if done is not None:
            return done
        run = _Run(out, settings, config, vocabulary, progress)
        run.resume()
        with _Encoder(tokenizer, vocabulary, workers) as encoder:
            run.encode(found, encoder)
        return run.finish()


def _tokenizer(folder: Path | str | None) -> Tokenizer:
    return Tokenizer.published() if folder is None else Tokenizer.from_folder(Path(folder))


def _settings(found: Sequence[str], config: PrepareConfig, vocabulary: Tokenizer) -> dict[str, Any]:
    """All that decides the output, as the manifest and `progress.json` keep it."""
    sources = [{"name": name, "bytes": None if name == STDIN else Path(name).stat().st_size} for name in found]
    return {"sources": sources, "tokenizer_hash": vocabulary.hash, **asdict(config)}


def _refuse_other(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    different = [key for key in now if before.get(key) != now[key]]
    if different:
        changes = "; ".join(f"{key} was {_short(before.get(key))} and is now {_short(now[key])}" for key in different)
        raise DataError(
            f"{out} holds the output of another configuration: {changes}. Choose another folder, or remove this one."
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    if not (out / files.MANIFEST_NAME).is_file():
        return None
    manifest = shards.read_manifest(out)
    _refuse_other(out, manifest["settings"], settings)
    return manifest


@dataclass(frozen=True, slots=True)
class _Block:
    """Some documents in a row, as a worker takes them."""

    texts: list[tuple[str, bool, str]]  # text, whether a document begins, split
    documents: dict[str, int]
    empty: int
    text_bytes: int
    chain: str  # hash of every document up to here
    source: str


def _blocks(found: Sequence[str], config: PrepareConfig) -> Iterator[_Block]:
    """Cut the documents of all sources into blocks, always at the same places."""
    chain, split = b"", SPLITS[0]
    texts: list[tuple[str, bool, str]] = []
    documents, empty, text_bytes, characters = dict.fromkeys(SPLITS, 0), 0, 0, 0
    limit = config.validation * 2.0**64
    source = ""
    for source in found:
        for document in read_documents(source, config.read):
            if document.begins and document.ends and not document.text.strip():
                empty += 1
                continue
            data = document.text.encode("utf-8")
            digest = hashlib.blake2b(data, digest_size=8).digest()
            chain = hashlib.blake2b(chain + digest, digest_size=16).digest()
            if document.begins:
                split = SPLITS[int.from_bytes(digest, "little") < limit]
                documents[split] += 1
            texts.append((document.text, document.begins, split))
            text_bytes += len(data)
            characters += len(document.text)
            if characters >= _BLOCK_CHARACTERS or len(texts) >= _BLOCK_DOCUMENTS:
                yield _Block(texts, documents, empty, text_bytes, chain.hex(), source)
                texts, documents, empty, text_bytes, characters = [], dict.fromkeys(SPLITS, 0), 0, 0, 0
    if texts or empty:
        yield _Block(texts, documents, empty, text_bytes, chain.hex(), source)


class _Encoder:
    """Blocks in, ids out, in the same order; in this process or in several others."""

    def __init__(self, folder: Path | str | None, vocabulary: Tokenizer, workers: int) -> None:
        self._vocabulary = vocabulary
        self._workers = max(1, workers)
        self._pool: ProcessPoolExecutor | None = None
        if self._workers > 1:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(None if folder is None else str(folder),),
            )

    def __enter__(self) -> "_Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def encode(self, blocks: Iterator[_Block]) -> Iterator[tuple[_Block, dict[str, NDArray[Any]]]]:
        if self._pool is None:
            for block in blocks:
                yield block, _encode(block.texts, self._vocabulary)
            return
        waiting: deque[tuple[_Block, Future[dict[str, NDArray[Any]]]]] = deque()
        try:
            for block in blocks:
                waiting.append((block, self._pool.submit(_encode_in_worker, block.texts)))
                if len(waiting) > 2 * self._workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "A worker process died, perhaps for lack of memory. What was recorded is kept: "
                "run again to go on, with fewer workers if it happens again."
            ) from error


_worker_vocabulary: list[Tokenizer] = []  # of a worker process, set once as it starts


def _start_worker(folder: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and winds the workers down
    _worker_vocabulary[:] = [_tokenizer(folder)]


def _encode_in_worker(texts: list[tuple[str, bool, str]]) -> dict[str, NDArray[Any]]:
    return _encode(texts, _worker_vocabulary[0])


def _encode(texts: list[tuple[str, bool, str]], vocabulary: Tokenizer) -> dict[str, NDArray[Any]]:
    """The ids of a block by split, every document begun by <|endoftext|>."""
    dtype = shards.dtype_of(shards.version_for(vocabulary.vocab_size))
    before = [] if vocabulary.eot is None else [vocabulary.eot]
    ids: dict[str, list[int]] = {split: [] for split in SPLITS}
    for text, begins, split in texts:
        if begins:
            ids[split] += before
        ids[split] += vocabulary.encode(text)
    return {split: np.array(found, dtype=dtype) for split, found in ids.items()}


class _Run:
    """The folder being written: its open shards, and the record of what is safely on the disk."""

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        config: PrepareConfig,
        vocabulary: Tokenizer,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.out = out
        self.settings = settings
        self.config = config
        self.vocabulary = vocabulary
        self.version = shards.version_for(vocabulary.vocab_size)
        self.progress = progress
        self.blocks = 0
        self.chain = ""
        self.empty = 0
        self.text_bytes = 0
        self.closed: dict[str, dict[str, Any]] = {}
        self.open = {split: {"tokens": 0, "documents": 0} for split in SPLITS}

    def _path(self, split: str) -> Path:
        number = sum(facts["split"] == split for facts in self.closed.values())
        return self.out / f"{split}-{number:05d}.bin"

    def record(self) -> None:
        """Make what has been written safe, then say so."""
        for split in SPLITS:
            if self._path(split).is_file():
                with self._path(split).open("rb+") as file:
                    os.fsync(file.fileno())
        state = {
            "blocks": self.blocks,
            "chain": self.chain,
            "empty": self.empty,
            "text_bytes": self.text_bytes,
            "files": self.closed,
            "open": self.open,
        }
        files.write_json(self.out / PROGRESS_NAME, {"settings": self.settings, **state})

    def resume(self) -> None:
        """Take up the record of a former run, and cut the shards back to what it says."""
        path = self.out / PROGRESS_NAME
        if not path.is_file():
            strangers = [file.name for file in sorted(self.out.glob("*")) if not file.name.startswith(".")]
            if strangers:
                raise DataError(
                    f"{self.out} cannot be filled: it holds {strangers[0]}, not from here. Choose another folder."
                )
            self.record()
            return
        state = files.read_json(path, shards.MANIFEST_LIMIT_BYTES)
        _refuse_other(self.out, state["settings"], self.settings)
        self.blocks, self.chain, self.empty = state["blocks"], state["chain"], state["empty"]
        self.text_bytes, self.closed, self.open = state["text_bytes"], state["files"], state["open"]
        keep = set(self.closed)
        for split in SPLITS:
            open_path = self._path(split)
            if self.open[split]["tokens"]:
                keep.add(open_path.name)
                size = shards.HEADER_BYTES + self.open[split]["tokens"] * shards.dtype_of(self.version).itemsize
                with open_path.open("rb+") as file:
                    file.truncate(size)
        for file in self.out.glob("*.bin"):
            if file.name not in keep:
                file.unlink()
        if self.blocks:
            _log.info("%s: going on after %s blocks that an earlier run finished", self.out, self.blocks)

    def encode(self, found: Sequence[str], encoder: _Encoder) -> None:
        """Encode every block that is not yet recorded."""
        began = recorded = time.monotonic()
        new_documents = new_bytes = 0
        try:
            for block, ids in encoder.encode(self._missing(_blocks(found, self.config))):
                self._append(block, ids)
                new_documents += sum(block.documents.values())
                new_bytes += block.text_bytes
                now = time.monotonic()
                if now - recorded > _RECORD_SECONDS:
                    self.record()
                    recorded = now
                if self.progress:
                    self.progress(self._report(block, now - began, new_documents, new_bytes))
        except KeyboardInterrupt:
            self.record()
            raise

    def _missing(self, blocks: Iterator[_Block]) -> Iterator[_Block]:
        seen = ""
        for block in itertools.islice(blocks, self.blocks):
            seen = block.chain
        if seen != self.chain:
            raise DataError(
                f"{self.out} cannot be finished: the sources no longer give the documents that the run began with. "
                f"Choose another folder, or remove this one."
            )
        yield from blocks

    def _append(self, block: _Block, ids: dict[str, NDArray[Any]]) -> None:
        for split in SPLITS:
            if not ids[split].size:
                continue
            with self._path(split).open("ab") as file:
                if file.tell() == 0:
                    file.write(shards.header(0, self.version))
                file.write(ids[split].tobytes())
            self.open[split]["tokens"] += int(ids[split].size)
            self.open[split]["documents"] += block.documents[split]
        self.blocks += 1
        self.chain = block.chain
        self.empty += block.empty
        self.text_bytes += block.text_bytes
        for split in SPLITS:
            if self.open[split]["tokens"] >= self.config.shard_tokens:
                self._close(split)
                self.record()

    def _close(self, split: str) -> None:
        path, facts = self._path(split), self.open[split]
        with path.open("rb+") as file:
            file.write(shards.header(facts["tokens"], self.version))
            file.flush()
            os.fsync(file.fileno())
        self.closed[path.name] = {
            "split": split,
            **facts,
            "bytes": path.stat().st_size,
            "sha256": files.sha256_file(path),
        }
        self.open[split] = {"tokens": 0, "documents": 0}

    def _total(self, what: str, split: str) -> int:
        return self.open[split][what] + sum(f[what] for f in self.closed.values() if f["split"] == split)

    def _report(self, block: _Block, seconds: float, new_documents: int, new_bytes: int) -> Progress:
        return Progress(
            documents=sum(self._total("documents", split) for split in SPLITS),
            tokens=sum(self._total("tokens", split) for split in SPLITS),
            text_bytes=self.text_bytes,
            seconds=seconds,
            new_documents=new_documents,
            new_bytes=new_bytes,
            fraction=None,
            seconds_left=None,
            source=block.source,
        )

    def finish(self) -> dict[str, Any]:
        """Close the open shards and write the manifest, which makes the folder whole."""
        for split in SPLITS:
            if self.open[split]["tokens"]:
                self._close(split)
        if not self.closed:
            raise DataError("No token shards can be made: the sources hold no document that is not empty.")
        manifest = {
            "format": "token shards",
            "version": self.version,
            "dtype": shards.dtype_of(self.version).name,
            "layout": "every document begins with eot" if self.vocabulary.eot is not None else "no marks",
            "eot": self.vocabulary.eot,
            "vocab_size": self.vocabulary.vocab_size,
            "tokenizer_hash": self.vocabulary.hash,
            "documents": sum(facts["documents"] for facts in self.closed.values()),
            "tokens": sum(facts["tokens"] for facts in self.closed.values()),
            "text_bytes": self.text_bytes,
            "empty_documents": self.empty,
            "splits": {
                split: {what: self._total(what, split) for what in ("documents", "tokens")}
                for split in SPLITS
                if self._total("tokens", split)
            },
            "documents_hash": self.chain,
            "settings": self.settings,
            "files": dict(sorted(self.closed.items())),
        }
        files.write_json(self.out / files.MANIFEST_NAME, manifest)
        (self.out / PROGRESS_NAME).unlink(missing_ok=True)
        return manifest
