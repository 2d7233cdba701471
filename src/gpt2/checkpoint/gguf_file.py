"""GGUF as a container: typed key-value metadata, then tensors by name, type, shape and offset.

Format: ggml's docs/gguf.md. Little-endian; versions 2 and 3, which differ only in allowing big-endian files. Shapes are
written innermost axis first. Everything a file claims is checked against its true size before it is used.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.unfinished import ArrayFile
from gpt2.errors import FormatError

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_ALIGNMENT_KEY = "general.alignment"
_ALIGNMENT_BYTES = 32
_KEYS_LIMIT = 1 << 12
_TENSORS_LIMIT = 1 << 14
_ARRAY_LIMIT = 1 << 20
_NAME_LIMIT_BYTES = 1 << 10
_HEADER_LIMIT_BYTES = 32 << 20  # the published vocabulary takes 2 MB; Python's numbers take ten times the file's
_DIMENSIONS_LIMIT = 4
_SIZE_LIMIT = 1 << 40

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class TensorType(NamedTuple):
    """One of ggml's types: its number, and the values and bytes of one block."""

    number: int
    block_values: int
    block_bytes: int


TYPES = {
    "F32": TensorType(0, 1, 4),
    "F16": TensorType(1, 1, 2),
    "BF16": TensorType(30, 1, 2),
    "Q4_0": TensorType(2, 32, 18),
    "Q4_1": TensorType(3, 32, 20),
    "Q5_0": TensorType(6, 32, 22),
    "Q5_1": TensorType(7, 32, 24),
    "Q8_0": TensorType(8, 32, 34),
    "IQ4_NL": TensorType(20, 32, 18),
    "Q2_K": TensorType(10, 256, 84),
    "Q3_K": TensorType(11, 256, 110),
    "Q4_K": TensorType(12, 256, 144),
    "Q5_K": TensorType(13, 256, 176),
    "Q6_K": TensorType(14, 256, 210),
}
_TYPE_OF_NUMBER = {facts.number: name for name, facts in TYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tensor:
    """A tensor of a file.

    Attributes:
        type: one of `TYPES`.
        shape: outermost axis first, as NumPy has it.
        data: its bytes, mapped.
    """

    type: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata of a file (numbers, booleans, text, and lists of one of these) and its tensors, mapped.

    Raises:
        FormatError: it is truncated, damaged, hostile or of another version, or stores a tensor in a type that is not
            read; nothing was allocated for what it claims.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes < 24:
            raise FormatError(f"{path} is not a whole GGUF file: it has {file_bytes} bytes.")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(mapping, path)
    magic, version = cursor.take(4), cursor.number("<I")
    if magic != MAGIC or version not in _VERSIONS:
        raise FormatError(f"{path} is not a GGUF file of version 2 or 3: it starts with {magic!r}, version {version}.")
    n_tensors, n_keys = cursor.number("<Q"), cursor.number("<Q")
    if n_tensors > _TENSORS_LIMIT or n_keys > _KEYS_LIMIT:
        raise FormatError(
            f"{path} claims {n_tensors:,} tensors and {n_keys:,} keys; at most {_TENSORS_LIMIT:,} and {_KEYS_LIMIT:,} "
            f"are read."
        )
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.text(_NAME_LIMIT_BYTES)
        if key in metadata:
            raise FormatError(f"{path} is damaged: the key {key[:80]!r} is given twice.")
        metadata[key] = cursor.value(cursor.number("<I"))
    entries = dict(_entries(cursor, n_tensors, path))
    return metadata, _tensors(mapping, entries, cursor.position, _alignment(metadata, path), path)


def _alignment(metadata: Mapping[str, Any], path: Path) -> int:
    alignment = metadata.get(_ALIGNMENT_KEY, _ALIGNMENT_BYTES)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment % 8:
        raise FormatError(f"{path}: {_ALIGNMENT_KEY} must be a multiple of 8, at most 65536: got {alignment!r:.40}.")
    return alignment


class _Entry(NamedTuple):
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


def _entries(cursor: "_Cursor", count: int, path: Path) -> Iterable[tuple[str, _Entry]]:
    seen: set[str] = set()
    for _ in range(count):
        name = cursor.text(_NAME_LIMIT_BYTES)
        if name in seen:
            raise FormatError(f"{path} is damaged: the tensor {name[:80]!r} is given twice.")
        seen.add(name)
        n_dimensions = cursor.number("<I")
        if n_dimensions > _DIMENSIONS_LIMIT:
            raise FormatError(f"{path}: {name[:80]!r} has {n_dimensions:,} axes; at most {_DIMENSIONS_LIMIT} are read.")
        shape = tuple(cursor.number("<Q") for _ in range(n_dimensions))[::-1]
        number, offset = cursor.number("<I"), cursor.number("<Q")
        if number not in _TYPE_OF_NUMBER:
            raise FormatError(
                f"{path}: {name[:80]!r} is stored in ggml's type {number}; read are {', '.join(TYPES)}. "
                f"Convert it to one of them with llama.cpp's llama-quantize."
            )
        kind = _TYPE_OF_NUMBER[number]
        facts = TYPES[kind]
        if any(not 0 < size <= _SIZE_LIMIT for size in shape) or (shape or (1,))[-1] % facts.block_values:
            raise FormatError(f"{path}: {name[:80]!r} cannot have the shape {list(shape)} in the type {kind}.")
        yield name, _Entry(kind, shape, offset, prod(shape) // facts.block_values * facts.block_bytes)


def _tensors(
    mapping: mmap.mmap, entries: Mapping[str, _Entry], header_bytes: int, alignment: int, path: Path
) -> dict[str, Tensor]:
    """Check that every tensor is inside the file and aligned, and that none overlap."""
    start = -(-header_bytes // alignment) * alignment
    position = 0
    tensors: dict[str, Tensor] = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.offset < position or entry.offset % alignment:
            raise FormatError(f"{path}: {name[:80]!r} at {entry.offset:,} overlaps another tensor or is not aligned.")
        position = entry.offset + entry.bytes
        if start + position > len(mapping):
            raise FormatError(
                f"{path} is truncated: {name[:80]!r} ends at byte {start + position:,} and the file has "
                f"{len(mapping):,}. Copy or download it again."
            )
        data = np.frombuffer(mapping, np.uint8, entry.bytes, start + entry.offset)
        tensors[name] = Tensor(type=entry.type, shape=entry.shape, data=data)
    return tensors


class _Cursor:
    """Reads the header in order and never past the end of the file."""

    def __init__(self, mapping: mmap.mmap, path: Path) -> None:
        self._mapping = mapping
        self._path = path
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > _HEADER_LIMIT_BYTES and len(self._mapping) >= end:
            raise FormatError(
                f"{self._path} has more than {_HEADER_LIMIT_BYTES:,} bytes before its tensors, which are not read."
            )
        if end > len(self._mapping):
            raise FormatError(
                f"{self._path} is truncated or damaged: {count:,} bytes should follow byte {self.position:,}, and the "
                f"file has {len(self._mapping):,}."
            )
        data = self._mapping[self.position : end]
        self.position = end
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, limit_bytes: int = _SIZE_LIMIT) -> str:
        length = self.number("<Q")
        if length > limit_bytes:
            raise FormatError(f"{self._path} is damaged: a name of {length:,} bytes; at most {limit_bytes:,} are read.")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._path} is damaged: a text is not UTF-8: {error}.") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise FormatError(f"{self._path} is damaged: there is no type {kind} of metadata.")
        item, count = self.number("<I"), self.number("<Q")
        if count > _ARRAY_LIMIT or (item != _STRING and item not in _NUMBERS):
            raise FormatError(f"{self._path} has a list of {count:,} values of type {item}, which is not read.")
        if item == _STRING:
            return [self.text() for _ in range(count)]
        size = struct.calcsize(_NUMBERS[item])
        return [number for (number,) in struct.iter_unpack(_NUMBERS[item], self.take(count * size))]


class Unwritten(NamedTuple):
    """A tensor to write: its type, its shape (outermost axis first), and a function that yields its bytes in pieces."""

    type: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[NDArray[Any]]]


def write_gguf(out: ArrayFile, metadata: Mapping[str, Any], tensors: Mapping[str, Unwritten]) -> None:
    """Write a file, version 3, one piece of one tensor at a time; equal input gives equal bytes.

    Integers in the metadata are stored as uint32 (in lists as int32), fractions as float32.

    Raises:
        OSError: the disk is full.
    """
    header = bytearray(MAGIC + struct.pack("<IQQ", _VERSIONS[-1], len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _text(key) + _value(value)
    offset = 0
    for name, tensor in tensors.items():
        header += _text(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        header += struct.pack("<IQ", TYPES[tensor.type].number, offset)
        offset += _padded(_bytes_of(tensor))
    out.file.write(header.ljust(_padded(len(header)), b"\0"))
    for name, tensor in tensors.items():
        size = _bytes_of(tensor)
        out.append(name, size, tensor.pieces)
        out.file.write(bytes(_padded(size) - size))


def _bytes_of(tensor: Unwritten) -> int:
    facts = TYPES[tensor.type]
    assert tensor.shape[-1] % facts.block_values == 0
    return prod(tensor.shape) // facts.block_values * facts.block_bytes


def _padded(count: int) -> int:
    return -(-count // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case list():
            return _list(value)  # pyright: ignore[reportUnknownArgumentType] - `_list` asserts what it holds
        case _:
            raise AssertionError(f"{value!r} cannot be metadata")


def _list(values: Sequence[object]) -> bytes:
    if all(isinstance(value, str) for value in values):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + b"".join(_text(str(value)) for value in values)
    assert all(type(value) is int for value in values)
    return struct.pack(f"<IIQ{len(values)}i", _ARRAY, 5, len(values), *values)
