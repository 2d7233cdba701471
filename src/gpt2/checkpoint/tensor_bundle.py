"""TensorFlow's tensor bundle, without TensorFlow: an index of named arrays, and one file of their bytes.

The index is a LevelDB table (LevelDB's doc/table_format.md): blocks of sorted keys, each block with its CRC-32C, and a
footer of 48 bytes that points to them. The key "" maps to a BundleHeaderProto, every other key, an array's name, to a
BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto): type, shape, offset, size and CRC-32C of its bytes.

Everything a file claims is checked against the files' true sizes before any of it is used.
"""

import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.crc32c import crc32c, masked
from gpt2.checkpoint.protobuf import field, fixed32, varint
from gpt2.checkpoint.unfinished import Journal, array_file
from gpt2.checkpoint.weights import StoredArray
from gpt2.errors import FormatError
from gpt2.files import atomic_file, read_bounded

INDEX_SUFFIX = ".index"
DATA_SUFFIX = ".data-00000-of-00001"

_INDEX_LIMIT_BYTES = 1 << 20  # the 1.5B model's index takes 40 KB
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after each block: type of compression, checksum
_MAGIC = 0xDB4775248B80FB57
_RESTART_INTERVAL = 16
_KEY_LIMIT_BYTES = 1000  # else a small index of keys that repeat a long prefix fills the memory
_DIMENSIONS_LIMIT = 8
_SIZE_LIMIT = 1 << 48
_TYPES = {1: ("F32", "<f4"), 19: ("F16", "<f2"), 14: ("BF16", "<u2")}  # tensorflow/core/framework/types.proto
_FLOAT = 1
_HEADER = bytes.fromhex("08011a020801")  # one shard, little-endian, version 1


class _Entry(NamedTuple):
    dtype: str
    numpy_type: str
    shape: tuple[int, ...]
    begin: int
    bytes: int
    crc: int


def read_bundle(prefix: Path) -> dict[str, StoredArray]:
    """Every float array of a bundle, mapped into memory and its checksum verified. Other arrays are left out.

    Args:
        prefix: the path of the index without `.index`, which is what TensorFlow calls the checkpoint.

    Raises:
        FormatError: a file is truncated, damaged or hostile; nothing was allocated for what it claims.
        OSError: a file cannot be opened.
    """
    index = prefix.with_name(prefix.name + INDEX_SUFFIX)
    entries = _read_index(read_bounded(index, _INDEX_LIMIT_BYTES), index)
    path = prefix.with_name(prefix.name + DATA_SUFFIX)
    if not path.is_file():
        raise FormatError(f"{prefix} is not complete: there is no {path.name}. Download or copy it again.")
    with path.open("rb") as file:
        data_bytes = os.fstat(file.fileno()).st_size
        _check_places(entries, data_bytes, path)
        if not entries:
            return {}
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays: dict[str, StoredArray] = {}
    for name, entry in entries.items():
        data = np.frombuffer(mapping, entry.numpy_type, prod(entry.shape), entry.begin)
        if not data.flags.aligned:
            data = data.copy()
        array = StoredArray(data=data.reshape(entry.shape), dtype=entry.dtype)
        crc = 0
        for block in array.blocks():
            crc = crc32c(block.data, crc)
        if masked(crc) != entry.crc:
            raise FormatError(f"{path} is damaged: {name[:80]!r} has another checksum. Download or copy it again.")
        arrays[name] = array
    return arrays


def _check_places(entries: Mapping[str, _Entry], data_bytes: int, path: Path) -> None:
    """Check that every array is inside the file, and that none overlap."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].bytes)):
        if entry.begin < position:
            raise FormatError(f"{path}: {name[:80]!r} overlaps another array.")
        position = entry.begin + entry.bytes
        if position > data_bytes:
            raise FormatError(
                f"{path} is truncated: {name[:80]!r} ends at byte {position:,} and the file has {data_bytes:,}. "
                f"Download or copy it again."
            )


def _read_index(data: bytes, path: Path) -> dict[str, _Entry]:
    if len(data) < _FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise FormatError(f"{path} is not a whole TensorFlow index: its last 8 bytes are not a table's.")
    footer = _Cursor(data[-_FOOTER_BYTES:-8], path)
    for _ in range(2):  # skip the handle of the meta-index block, which is always empty
        footer.varint()
    table = data[:-_FOOTER_BYTES]
    entries: dict[str, _Entry] = {}
    header = None
    last = None
    position = 0
    for _, handle in _block(table, footer.varint(), footer.varint(), path):
        place = _Cursor(handle, path)
        begin, size = place.varint(), place.varint()
        if begin < position:  # else a block named a million times is checked a million times
            raise FormatError(f"{path} is damaged: its blocks are out of order.")
        position = begin + size + _TRAILER_BYTES
        for key, value in _block(table, begin, size, path):
            if last is not None and key <= last:
                raise FormatError(f"{path} is damaged: its keys are out of order, or one is given twice.")
            last = key
            if key == b"":
                header = value
                continue
            name = key.decode("utf-8", errors="backslashreplace")
            entry = _entry(value, name, path)
            if entry is not None:
                entries[name] = entry
    if header is None:
        raise FormatError(f"{path} is no index of a tensor bundle: it has no header.")
    facts = dict(_fields(header, path))
    if facts.get(1, 0) != 1 or facts.get(2, 0) != 0:
        raise FormatError(f"{path} cannot be read: only bundles of one little-endian data file are.")
    return entries


def _block(table: bytes, begin: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block, whose checksum is verified first."""
    end = begin + size
    if size < 4 or end + _TRAILER_BYTES > len(table):
        raise FormatError(f"{path} is damaged: a block should end at byte {end:,}.")
    compression = table[end]
    if masked(crc32c(table[begin : end + 1])) != struct.unpack_from("<I", table, end + 1)[0]:
        raise FormatError(f"{path} is damaged: a block has another checksum. Download or copy it again.")
    if compression:
        raise FormatError(f"{path} is compressed (type {compression}); TensorFlow writes its indexes uncompressed.")
    n_restarts = struct.unpack_from("<I", table, end - 4)[0]
    if 4 * (n_restarts + 1) > size:
        raise FormatError(f"{path} is damaged: a block of {size:,} bytes claims {n_restarts:,} restarts.")
    cursor = _Cursor(table[begin : end - 4 * (n_restarts + 1)], path)
    key = b""
    while not cursor.at_end():
        shared, unshared, value_bytes = cursor.varint(), cursor.varint(), cursor.varint()
        if shared + unshared > _KEY_LIMIT_BYTES:
            raise FormatError(f"{path} is damaged: a name has {shared + unshared:,} bytes.")
        if shared > len(key):
            raise FormatError(f"{path} is damaged: a key repeats {shared:,} bytes of one of {len(key):,}.")
        key = key[:shared] + cursor.take(unshared)
        yield key, cursor.take(value_bytes)


def _entry(value: bytes, name: str, path: Path) -> _Entry | None:
    facts = dict(_fields(value, path))
    if 7 in facts:
        raise FormatError(f"{path}: {name[:80]!r} is stored in slices, which are not read.")
    if facts.get(1) not in _TYPES:
        return None
    dtype, numpy_type = _TYPES[facts[1]]
    shape: list[int] = []
    for number, dimension in _fields(_as_bytes(facts.get(2, b""), path), path):
        if number == 2:
            shape.append(_as_size(dict(_fields(_as_bytes(dimension, path), path)).get(1, 0), path))
    if len(shape) > _DIMENSIONS_LIMIT:
        raise FormatError(f"{path}: {name[:80]!r} has {len(shape)} axes; at most {_DIMENSIONS_LIMIT} are read.")
    wanted_bytes = prod(shape) * np.dtype(numpy_type).itemsize
    size = _as_size(facts.get(5, 0), path)
    if _as_size(facts.get(3, 0), path) != 0:
        raise FormatError(f"{path}: {name[:80]!r} lies in another data file than the one there is.")
    if size != wanted_bytes or size == 0:
        raise FormatError(f"{path}: {name[:80]!r} needs {wanted_bytes:,} bytes by its shape and has {size:,}.")
    begin, crc = _as_size(facts.get(4, 0), path), _as_size(facts.get(6, 0), path)
    return _Entry(dtype, numpy_type, tuple(shape), begin, size, crc)


def _as_size(value: object, path: Path) -> int:
    if not isinstance(value, int) or value > _SIZE_LIMIT:
        raise FormatError(f"{path} is damaged: {str(value)[:30]} stands where a size was to come.")
    return value


def _as_bytes(value: object, path: Path) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError(f"{path} is damaged: a number stands where a message was to come.")
    return value


def _fields(message: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as int, the rest as bytes."""
    cursor = _Cursor(message, path)
    while not cursor.at_end():
        tag = cursor.varint()
        match tag & 7:
            case 0:
                yield tag >> 3, cursor.varint()
            case 1:
                yield tag >> 3, int.from_bytes(cursor.take(8), "little")
            case 2:
                yield tag >> 3, cursor.take(cursor.varint())
            case 5:
                yield tag >> 3, int.from_bytes(cursor.take(4), "little")
            case kind:
                raise FormatError(f"{path} is damaged: there is no wire type {kind}.")


class _Cursor:
    """Reads bytes in order and never past their end."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data = data
        self._path = path
        self._position = 0

    def at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, count: int) -> bytes:
        begin, end = self._position, self._position + count
        if end > len(self._data):
            raise FormatError(f"{self._path} is damaged: {count:,} bytes were to come, {len(self._data) - begin:,} do.")
        self._position = end
        return self._data[begin:end]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise FormatError(f"{self._path} is damaged: a number has no end.")


class BundleArray(NamedTuple):
    """A float32 array to write: its shape, and its values in row-major order, in pieces."""

    shape: tuple[int, ...]
    pieces: Iterable[NDArray[np.float32]]


def write_bundle(prefix: Path, arrays: Mapping[str, BundleArray], journal: Journal | None = None) -> None:
    """Write a bundle of float32 arrays, one piece at a time; equal input gives the bytes that TensorFlow writes.

    Args:
        prefix: as of `read_bundle`.
        arrays: by name.
        journal: resumes where an interrupted start stopped.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    entries: dict[bytes, bytes] = {b"": _HEADER}
    position = 0
    with array_file(prefix.with_name(prefix.name + DATA_SUFFIX), journal) as out:
        for name, array in sorted(arrays.items()):
            size = 4 * prod(array.shape)
            crc = out.append(name, size, partial(_little_endian, array), crc32c)
            entries[name.encode("utf-8")] = _entry_bytes(array.shape, position, size, crc)
            position += size
    with atomic_file(prefix.with_name(prefix.name + INDEX_SUFFIX)) as file:
        file.write(_table(entries))


def _little_endian(array: BundleArray) -> Iterator[NDArray[np.float32]]:
    return (np.ascontiguousarray(piece, "<f4") for piece in array.pieces)


def _entry_bytes(shape: tuple[int, ...], begin: int, size: int, crc: int) -> bytes:
    dimensions = b"".join(_field(2, _field(1, length)) for length in shape)
    return _field(1, _FLOAT) + _field(2, dimensions) + _field(4, begin) + _field(5, size) + fixed32(6, masked(crc))


def _field(number: int, value: int | bytes) -> bytes:
    """One field; a number that is 0 is not written."""
    return field(number, value) if value or isinstance(value, bytes) else b""


def _table(entries: Mapping[bytes, bytes]) -> bytes:
    """A table of one data block, an empty meta-index block, and the index block."""
    data = _block_bytes(entries)
    statistics = _block_bytes({})
    after_all = bytes([max(entries)[0] + 1])  # a short key not below any other
    index = _block_bytes({after_all: varint(0) + varint(len(data) - _TRAILER_BYTES)})
    handles = b"".join(
        varint(begin) + varint(len(block) - _TRAILER_BYTES)
        for begin, block in ((len(data), statistics), (len(data) + len(statistics), index))
    )
    footer = handles.ljust(_FOOTER_BYTES - 8, b"\0") + struct.pack("<Q", _MAGIC)
    return data + statistics + index + footer


def _block_bytes(entries: Mapping[bytes, bytes]) -> bytes:
    """Keys in order, each without the prefix that it shares with the one before; every sixteenth is whole."""
    result = bytearray()
    restarts = [0]
    last = b""
    for number, (key, value) in enumerate(sorted(entries.items())):
        shared = 0
        if number % _RESTART_INTERVAL:
            shared = next(
                (i for i, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key))
            )
        elif number:
            restarts.append(len(result))
        result += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    result += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + b"\0"
    return bytes(result + struct.pack("<I", masked(crc32c(bytes(result)))))
