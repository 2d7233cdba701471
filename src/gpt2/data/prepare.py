"""Documents to a folder of token shards: streaming, parallel, resumable, and the same bytes however it was run.

Blocks of documents are encoded by workers and written in order. A shard ends with the first block that brings
it to `shard_tokens`. What is safely on the disk is recorded in `progress.json`; a later run reads the documents
again, checks that they are the same, and encodes only the blocks that are missing. The manifest comes last.
"""

import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt2 import files
from gpt2.data import shards
from gpt2.data.blocks import SPLITS, Block, Encoded, cut_blocks, encode_blocks
from gpt2.data.compressed import STDIN
from gpt2.data.documents import ReadOptions, find_sources
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer

PROGRESS_NAME = "progress.json"
_RECORD_SECONDS = 15.0
_log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """What decides the bytes that `prepare` writes, beside the sources and the vocabulary.

    Attributes:
        validation: share of the documents kept for validation, from 0 to 1. A document goes there if the
            64-bit BLAKE2b hash of its text lies below this share of 2^64: so the same text always goes the
            same way, wherever it stands.
        shard_tokens: a shard is closed by the block that brings it to this many.
        read: how sources are read.

    Raises:
        DataError: a value that cannot be.
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
        documents: encoded so far, those of earlier runs included.
        tokens: likewise.
        text_bytes: likewise, as UTF-8.
        new_documents: encoded by this run.
        new_text_bytes: likewise.
        seconds: since this run encoded its first block.
        seconds_left: estimated from the part of the source files that has been read; None where that is unknown.
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
    sources: Sequence[str | Path],
    out: Path | str,
    *,
    config: PrepareConfig | None = None,
    tokenizer: Tokenizer | None = None,
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
        tokenizer: None is GPT-2's own.
        workers: processes that encode; 1 encodes in this one.
        progress: called after every block, in this process.

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
    tokenizer = tokenizer or Tokenizer.published()
    found = find_sources(sources, config.read.kind)
    named = [{"name": name, "bytes": None if name == STDIN else Path(name).stat().st_size} for name in found]
    settings = {"sources": named, "tokenizer_hash": tokenizer.hash, **asdict(config)}
    with files.lock(out):
        if (out / files.MANIFEST_NAME).is_file():
            manifest = shards.read_manifest(out)
            _refuse_other(out, manifest["settings"], settings)
            (out / PROGRESS_NAME).unlink(missing_ok=True)
            return manifest
        run = _Run(out, settings, config, tokenizer)
        run.resume()
        meter = _Meter(found, progress)
        blocks = cut_blocks(found, config.read, validation=config.validation, on_read=meter.on_read)
        for block, ids in run.kept(encode_blocks(run.missing(blocks), tokenizer, workers)):
            run.append(block, ids)
            meter.report(block, run)
        return run.finish()


def _refuse_other(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = "; ".join(
        f"{key} was {_short(before.get(key))} and is now {_short(now[key])}"
        for key in now
        if before.get(key) != now[key]
    )
    if changes:
        raise DataError(
            f"{out} holds the output of another configuration: {changes}. Choose another folder, or remove this one."
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What has been written; replaced as a whole, so that an interruption finds it before or after, never between.

    Attributes:
        blocks: how many.
        chain: the hash of all their documents.
        empty: documents passed over.
        text_bytes: of all their documents.
        closed: finished shards by name, as the manifest lists them.
        open: tokens and documents in the shard that each split is filling.
    """

    blocks: int = 0
    chain: str = ""
    empty: int = 0
    text_bytes: int = 0
    closed: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    open: dict[str, dict[str, int]] = field(
        default_factory=lambda: {split: {"tokens": 0, "documents": 0} for split in SPLITS}
    )

    def total(self, what: str, split: str) -> int:
        """Tokens or documents of one split."""
        return self.open[split][what] + sum(facts[what] for facts in self.closed.values() if facts["split"] == split)

    def filling(self, split: str) -> str:
        """The name of the shard that a split is filling."""
        return f"{split}-{sum(facts['split'] == split for facts in self.closed.values()):05d}.bin"


class _Run:
    """The folder being written, and the record of what is safely there."""

    def __init__(self, out: Path, settings: dict[str, Any], config: PrepareConfig, tokenizer: Tokenizer) -> None:
        self.out = out
        self.settings = settings
        self.config = config
        self.tokenizer = tokenizer
        self.version = shards.version_for(tokenizer.vocab_size)
        self.state = _State()

    def resume(self) -> None:
        """Take up the record of a former run, and cut the shards back to what it says."""
        path = self.out / PROGRESS_NAME
        if not path.is_file():
            strangers = [file.name for file in sorted(self.out.iterdir()) if not file.name.startswith(".")]
            if strangers:
                raise DataError(
                    f"{self.out} cannot be filled: it holds {strangers[0]}, which no unfinished run left. "
                    f"Choose another folder."
                )
            self._record()
            return
        before = files.read_json(path, shards.MANIFEST_LIMIT_BYTES)
        _refuse_other(self.out, before["settings"], self.settings)
        self.state = _State(**before["state"])
        open_bytes = {
            self.state.filling(split): shards.size_bytes(facts["tokens"], self.version)
            for split, facts in self.state.open.items()
            if facts["tokens"]
        }
        for file in sorted(self.out.glob("*.bin")):
            if file.name in open_bytes and file.stat().st_size >= open_bytes[file.name]:
                os.truncate(file, open_bytes.pop(file.name))
            elif file.name not in self.state.closed:
                file.unlink()
        if open_bytes:
            raise DataError(f"{self.out} cannot be finished: {', '.join(open_bytes)} is lost. Remove the folder.")
        if self.state.blocks:
            documents = sum(self.state.total("documents", split) for split in SPLITS)
            _log.info("%s: going on after %s documents that an earlier run finished", self.out, f"{documents:,}")

    def missing(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The blocks that are not yet written, after checking that those before them are the ones that were."""
        seen = ""
        for block in itertools.islice(blocks, self.state.blocks):
            seen = block.chain
        if seen != self.state.chain:
            raise DataError(
                f"{self.out} cannot be finished: the sources no longer give the documents that the run began with. "
                f"Choose another folder, or remove this one."
            )
        yield from blocks

    def kept(self, encoded: Iterator[tuple[Block, Encoded]]) -> Iterator[tuple[Block, Encoded]]:
        """Hand the blocks on, and record from time to time and at any end but a failing disk's."""
        recorded = time.monotonic()
        try:
            for each in encoded:
                yield each
                if time.monotonic() - recorded > _RECORD_SECONDS:
                    self._record()
                    recorded = time.monotonic()
        except OSError:
            raise
        except BaseException:
            self._record()
            raise

    def append(self, block: Block, ids: Encoded) -> None:
        """Write one block to the shards that are being filled."""
        state = self.state
        filled: dict[str, dict[str, int]] = {}
        for split, facts in state.open.items():
            if ids[split].size:
                with (self.out / state.filling(split)).open("ab") as file:
                    if not facts["tokens"]:
                        file.write(shards.header(0, self.version))
                    file.write(ids[split].tobytes())
            filled[split] = {
                "tokens": facts["tokens"] + int(ids[split].size),
                "documents": facts["documents"] + block.documents[split],
            }
        self.state = replace(
            state,
            blocks=state.blocks + 1,
            chain=block.chain,
            empty=state.empty + block.empty,
            text_bytes=state.text_bytes + block.text_bytes,
            open=filled,
        )
        self._close(self.config.shard_tokens)

    def finish(self) -> dict[str, Any]:
        """Close the last shards and write the manifest, which makes the folder whole."""
        self._close(1)
        state = self.state
        if not state.closed:
            raise DataError("No token shards can be made: the sources hold no document that is not empty.")
        totals = {split: {what: state.total(what, split) for what in ("documents", "tokens")} for split in SPLITS}
        manifest = {
            "format": "token shards",
            "version": self.version,
            "dtype": shards.dtype_of(self.version).name,
            "layout": "documents begin with eot" if self.tokenizer.eot is not None else "documents are not marked",
            "eot": self.tokenizer.eot,
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer_hash": self.tokenizer.hash,
            "documents": sum(total["documents"] for total in totals.values()),
            "tokens": sum(total["tokens"] for total in totals.values()),
            "text_bytes": state.text_bytes,
            "empty_documents": state.empty,
            "splits": {split: total for split, total in totals.items() if total["tokens"]},
            "documents_hash": state.chain,
            "settings": self.settings,
            "files": dict(sorted(state.closed.items())),
        }
        files.write_json(self.out / files.MANIFEST_NAME, manifest)
        (self.out / PROGRESS_NAME).unlink(missing_ok=True)
        return manifest

    def _close(self, least_tokens: int) -> None:
        """Finish the shards that hold at least so many tokens."""
        full = [split for split, facts in self.state.open.items() if facts["tokens"] >= least_tokens]
        for split in full:
            facts = self.state.open[split]
            path = self.out / self.state.filling(split)
            with path.open("rb+") as file:
                file.write(shards.header(facts["tokens"], self.version))
                file.flush()
                os.fsync(file.fileno())
            listed = {"split": split, **facts, "bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
            self.state = replace(
                self.state,
                closed={**self.state.closed, path.name: listed},
                open={**self.state.open, split: {"tokens": 0, "documents": 0}},
            )
        if full:
            self._record()

    def _record(self) -> None:
        """Make what has been written safe, then say so."""
        for split, facts in self.state.open.items():
            if facts["tokens"]:
                with (self.out / self.state.filling(split)).open("rb+") as file:
                    os.fsync(file.fileno())
        files.write_json(self.out / PROGRESS_NAME, {"settings": self.settings, "state": asdict(self.state)})


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

    def report(self, block: Block, run: _Run) -> None:
        """Tell how far the run is, after one more block."""
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
                documents=sum(run.state.total("documents", split) for split in SPLITS),
                tokens=sum(run.state.total("tokens", split) for split in SPLITS),
                text_bytes=run.state.text_bytes,
                new_documents=self.documents,
                new_text_bytes=self.text_bytes,
                seconds=seconds,
                seconds_left=left,
                source=block.source,
            )
        )
