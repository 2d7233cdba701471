"""Writing a folder of token shards resumably.

`progress.json` records what is safely on the disk: from time to time, at the end of a shard, and when a run is stopped.
The next run truncates the shards to that record and continues from there. The manifest comes last.
"""

import contextlib
import itertools
import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt2.data import shards
from gpt2.data.blocks import SPLITS, Block, Encoded
from gpt2.errors import DataError, FormatError, ShardError
from gpt2.files import MANIFEST_NAME, read_json, sha256_file, write_json
from gpt2.tokenizer import Tokenizer

PROGRESS_NAME = "progress.json"
_RECORD_SECONDS = 15.0
_LET_PASS = ("errors", "max_document_bytes")  # these only decide whether a source is refused
_log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What has been written. It is replaced as a whole, so that an interruption never finds it half changed.

    Attributes:
        blocks: how many.
        chain: the hash of all their documents.
        empty: documents skipped.
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


class FolderWriter:
    """Writes blocks of ids to the shards of a folder, in order, and records what is safely there.

    Args:
        out: the folder, whose lock the caller holds.
        settings: all that decides the bytes; an unfinished folder with other settings is refused.
        shard_tokens: a shard is closed by the block that brings it to this many.
        tokenizer: for the manifest.
    """

    def __init__(self, out: Path, settings: dict[str, Any], *, shard_tokens: int, tokenizer: Tokenizer) -> None:
        self.out = out
        self.settings = settings
        self.shard_tokens = shard_tokens
        self.tokenizer = tokenizer
        self.version = shards.version_for(tokenizer.vocab_size)
        self.state = _State()
        self.last_record = time.monotonic()

    def resume(self) -> None:
        """Read the record of an earlier run, and truncate the shards to it."""
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
        settings, state = _read_record(path)
        if state.blocks:  # before the first block the settings may still change
            refuse_other(self.out, _that_decides(settings), _that_decides(self.settings))
            self.state = state
        open_bytes = {
            self.state.filling(split): shards.size_bytes(facts["tokens"], self.version)
            for split, facts in self.state.open.items()
            if facts["tokens"]
        }
        least_bytes = open_bytes | {name: facts["bytes"] for name, facts in self.state.closed.items()}
        size_of = {file.name: file.stat().st_size for file in sorted(self.out.glob("*.bin"))}
        for name, wanted_bytes in least_bytes.items():
            if size_of.get(name, -1) < wanted_bytes:
                raise ShardError(f"{self.out} cannot be finished: {name} is cut off or lost. Remove the folder.")
        for name in size_of:
            if name in open_bytes:
                os.truncate(self.out / name, open_bytes[name])
            elif name not in self.state.closed:
                (self.out / name).unlink()
        if self.state.blocks:
            documents = sum(self.state.total("documents", split) for split in SPLITS)
            _log.info("%s: resuming after %s documents that an earlier run finished", self.out, f"{documents:,}")

    def missing(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The blocks not yet written, after checking that the earlier blocks equal the written ones."""
        seen = ""
        for block in itertools.islice(blocks, self.state.blocks):
            seen = block.chain
        if seen != self.state.chain:
            raise DataError(
                f"{self.out} cannot be finished: the sources no longer give the documents that the run began with. "
                f"Choose another folder, or remove this one."
            )
        yield from blocks

    @contextlib.contextmanager
    def recorded(self) -> Generator[None]:
        """Record what was written, however the block ends; if the disk fails, the last record stays."""
        try:
            yield
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
        self._close(self.shard_tokens)
        if time.monotonic() - self.last_record > _RECORD_SECONDS:
            self._record()

    def finish(self) -> dict[str, Any]:
        """Close the last shards and write the manifest, which makes the folder whole."""
        self._close(1)
        state = self.state
        if not state.closed:
            (self.out / PROGRESS_NAME).unlink(missing_ok=True)
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
        write_json(self.out / MANIFEST_NAME, manifest)
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
            listed = {"split": split, **facts, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            self.state = replace(
                self.state,
                closed={**self.state.closed, path.name: listed},
                open={**self.state.open, split: {"tokens": 0, "documents": 0}},
            )
        if full:
            self._record()

    def _record(self) -> None:
        """Flush what has been written to the disk, then record it."""
        for split, facts in self.state.open.items():
            if facts["tokens"]:
                with (self.out / self.state.filling(split)).open("rb+") as file:
                    os.fsync(file.fileno())
        write_json(self.out / PROGRESS_NAME, {"settings": self.settings, "state": asdict(self.state)})
        self.last_record = time.monotonic()


def _read_record(path: Path) -> tuple[dict[str, Any], _State]:
    """The settings and the state of an unfinished run.

    Raises:
        ShardError: the record is damaged.
    """
    try:
        record = read_json(path, shards.MANIFEST_LIMIT_BYTES)
        settings, raw = record["settings"], record["state"]
        _that_decides(settings)
        counts = [raw[what] for what in ("blocks", "empty", "text_bytes")]
        counts += [raw["open"][split][what] for split in SPLITS for what in ("tokens", "documents")]
        for facts in raw["closed"].values():
            counts += [facts[what] for what in ("tokens", "documents", "bytes")] + [SPLITS.index(facts["split"])]
        if not all(isinstance(count, int) for count in counts):
            raise TypeError("a count that is no whole number")
        state = _State(**raw)
    except (FormatError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(
            f"{path} is damaged, so the run cannot go on ({type(error).__name__}: {error}). "
            f"Remove {path.parent} and start anew."
        ) from error
    return settings, state


def refuse_other(out: Path, before: object, now: object) -> None:
    """Raise a DataError that names the differences, if there are any."""
    changes = list(_differences(before, now))
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise DataError(
            f"{out} holds the output of another configuration: {'; '.join(changes[:3])}{more}. "
            f"Choose another folder, or remove this one."
        )


def _that_decides(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a run must share with the unfinished one.

    A source may be repaired beyond the part already read, or a setting relaxed that stopped the run: a hash checks that
    the part before still yields the same documents.
    """
    read = {name: value for name, value in settings["read"].items() if name not in _LET_PASS}
    return {**settings, "sources": [source["name"] for source in settings["sources"]], "read": read}


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """The differences of two values made of objects, lists and scalars, one phrase each."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(now, list):
        for at, (old, new) in enumerate(itertools.zip_longest(before, now)):
            yield from _differences(old, new, f"{path}[{at}]")
    elif before != now:
        yield f"{path} was {json.dumps(before)} and is now {json.dumps(now)}"
