"""Token shards: ids in flat, memory-mapped files, with a manifest of their content.

A shard is 256 little-endian int32 (magic, version, number of tokens, zeros) and then the ids, as uint16
(version 1, the form that llm.c and the speedruns read) or, for a vocabulary above 65,536, as uint32
(version 2). Every document begins with <|endoftext|>, and no document crosses the end of a shard unless it is larger
than what is held in memory at once. A folder of shards is complete if it has a `manifest.json`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.errors import FormatError, ShardError
from gpt2.files import MANIFEST_NAME, atomic_file, broken_files, read_json

MAGIC = 20240520
HEADER_BYTES = 256 * 4
MANIFEST_LIMIT_BYTES = 256 << 20
_VERSIONS = {1: np.dtype("<u2"), 2: np.dtype("<u4")}

Ids = NDArray[np.integer[Any]]


def version_for(vocab_size: int) -> int:
    """The shard version that can hold every id below `vocab_size`: 1 for uint16, 2 for uint32."""
    return 1 if vocab_size <= 1 << 16 else 2


def dtype_of(version: int) -> np.dtype[Any]:
    """How a shard of this version stores an id."""
    return _VERSIONS[version]


def size_bytes(n_tokens: int, version: int) -> int:
    """Size of a shard's file."""
    return HEADER_BYTES + n_tokens * _VERSIONS[version].itemsize


def header(n_tokens: int, version: int) -> bytes:
    """The 1,024 bytes before the ids.

    Raises:
        ShardError: more tokens than the header's int32 can count.
    """
    if n_tokens >= 1 << 31:
        raise ShardError(
            f"A shard cannot hold {n_tokens:,} tokens: its header counts to 2^31 - 1. Make smaller shards."
        )
    fields = np.zeros(256, dtype="<i4")
    fields[:3] = MAGIC, version, n_tokens
    return fields.tobytes()


def write_shard(path: Path, ids: Sequence[int] | Ids, *, vocab_size: int) -> None:
    """Write one shard, atomically.

    Raises:
        ShardError: an id is not an integer, or not in the vocabulary.
        OSError: the disk is full or the folder cannot be written; what was there before stays.
    """
    array = np.asarray(ids)
    if array.size and array.dtype.kind not in "iu":
        raise ShardError(f"{path} cannot be written: ids must be whole numbers, and these are {array.dtype}.")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < vocab_size:
        raise ShardError(f"{path} cannot be written: ids must lie between 0 and {vocab_size - 1}.")
    version = version_for(vocab_size)
    with atomic_file(path) as file:
        file.write(header(array.size, version))
        file.write(array.astype(dtype_of(version)).tobytes())


def read_shard(path: Path) -> Ids:
    """Map one shard's ids, [n_tokens], after checking its header and its size.

    Raises:
        ShardError: it is not a shard, of an unknown version, or truncated.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
        found_bytes = path.stat().st_size
    except OSError as error:
        seen = error.strerror or error
        raise ShardError(
            f"{path} cannot be read as a token shard: {seen}. Put it back, or prepare the folder again."
        ) from error
    fields = np.frombuffer(head[: len(head) // 4 * 4], dtype="<i4")
    if fields.size < 256 or fields[0] != MAGIC:
        raise ShardError(f"{path} is not a token shard: it does not begin with the header of magic {MAGIC}.")
    version, n_tokens = int(fields[1]), int(fields[2])
    if version not in _VERSIONS:
        raise ShardError(f"{path} is a token shard of version {version}; known are 1 (uint16) and 2 (uint32).")
    dtype = _VERSIONS[version]
    wanted_bytes = size_bytes(n_tokens, version)
    if n_tokens < 0 or found_bytes != wanted_bytes:
        raise ShardError(
            f"{path} is broken: its header says {n_tokens:,} tokens, so {wanted_bytes:,} bytes, "
            f"and it has {found_bytes:,}. Prepare it again."
        )
    if n_tokens == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(n_tokens,))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        ShardError: there is none, or it is not one of token shards.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        if folder.is_dir():
            seen = f"it has no {path.name}"
        else:
            seen = "it is a file" if folder.exists() else "there is no such folder"
        raise ShardError(f"{folder} is not a finished folder of token shards: {seen}. Run `gpt2 prepare`.")
    try:
        manifest = read_json(path, MANIFEST_LIMIT_BYTES)
    except FormatError as error:
        raise ShardError(str(error)) from error
    if not _describes_shards(manifest):
        raise ShardError(f"{path} does not describe token shards. Prepare the folder again.")
    return manifest


def _describes_shards(manifest: Any) -> bool:
    try:
        return (
            manifest["format"] == "token shards"
            and isinstance(manifest["vocab_size"], int)
            and isinstance(manifest["tokenizer_hash"], str)
            and isinstance(manifest["eot"], int | None)
            and all(
                Path(name).name == name and isinstance(facts["tokens"], int) and isinstance(facts["split"], str)
                for name, facts in manifest["files"].items()
            )
        )
    except (AttributeError, KeyError, TypeError):
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStream:
    """The shards of one split of one folder as one array of ids.

    Attributes:
        folder: where the shards are.
        split: "train" or "validation".
        shards: the mapped ids of every shard, in order.
        starts: where each shard begins in the stream, in tokens, then the total; int64 [n_shards + 1].
        vocab_size: every id is below it.
        tokenizer_hash: the vocabulary that wrote them.
        eot: the id that begins every document, if the vocabulary has one.
    """

    folder: Path
    split: str
    shards: tuple[Ids, ...]
    starts: NDArray[np.int64]
    vocab_size: int
    tokenizer_hash: str
    eot: int | None

    @classmethod
    def open(cls, folder: Path | str, split: str = "train") -> "TokenStream":
        """Map the shards of one split; cheap, whatever their size.

        Raises:
            ShardError: the folder is unfinished, or a shard is not what the manifest says.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        listed = {name: facts for name, facts in manifest["files"].items() if facts["split"] == split}
        if not listed:
            share = "more documents, or a smaller share" if split == "train" else "a share"
            raise ShardError(
                f"{folder} has no {split} split: prepare it with {share} for validation, or name the other."
            )
        shards: list[Ids] = []
        for name, facts in sorted(listed.items()):
            ids = read_shard(folder / name)
            if ids.size != facts["tokens"]:
                raise ShardError(
                    f"{folder / name} holds {ids.size:,} tokens, and the manifest says {facts['tokens']:,}."
                )
            shards.append(ids)
        return cls(
            folder=folder,
            split=split,
            shards=tuple(shards),
            starts=np.cumsum([0, *(ids.size for ids in shards)], dtype=np.int64),
            vocab_size=manifest["vocab_size"],
            tokenizer_hash=manifest["tokenizer_hash"],
            eot=manifest["eot"],
        )

    @property
    def n_tokens(self) -> int:
        """Length of the stream."""
        return int(self.starts[-1])

    def read(self, start: int, n_tokens: int) -> NDArray[np.int64]:
        """`n_tokens` ids from position `start`, int64; the stream wraps around at its end."""
        parts: list[Ids] = []
        position, left = start % self.n_tokens, n_tokens
        while left:
            shard = int(np.searchsorted(self.starts, position, side="right")) - 1
            within = position - int(self.starts[shard])
            part = self.shards[shard][within : within + left]
            parts.append(part)
            left -= part.size
            position = (position + part.size) % self.n_tokens
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)


def verify(folder: Path) -> Iterator[str]:
    """Read every byte of a folder of shards and yield what is wrong, one line each.

    Raises:
        ShardError: there is no readable manifest.
    """
    manifest = read_manifest(folder)
    try:
        yield from broken_files(folder)
    except FormatError as error:
        raise ShardError(str(error)) from error
    for name in sorted(manifest["files"]):
        try:
            ids = read_shard(folder / name)
        except ShardError as error:
            yield str(error)
            continue
        largest = max((int(ids[at : at + (1 << 24)].max()) for at in range(0, ids.size, 1 << 24)), default=0)
        if largest >= manifest["vocab_size"]:
            yield f"{name} holds the id {largest}, and the vocabulary ends at {manifest['vocab_size'] - 1}"
