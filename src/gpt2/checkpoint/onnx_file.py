"""ONNX files: a graph of named operations, and the arrays that they read.

A file is one protocol-buffer message (onnx/onnx.proto, ModelProto). The graph is small and made in memory; the arrays
follow it and are written a piece at a time. No ONNX file may reach 2 GiB, so a larger model's arrays go to a second
file beside the first, which gives the offset of each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.protobuf import field as proto
from gpt2.checkpoint.protobuf import opening
from gpt2.checkpoint.unfinished import Journal, array_file
from gpt2.files import atomic_file

DATA_SUFFIX = "_data"  # added to the first file's name for the second file

_TYPES = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10}  # TensorProto.DataType
FLOAT = _TYPES["float32"]
_IR_VERSION = 9
_OPSETS = {"": 20, "com.microsoft": 1}
_MOST_BYTES = (1 << 31) - 1
_ALIGNMENT_BYTES = 4096  # of arrays in the second file, which may be mapped
_EXTERNAL = 1

Pieces = Callable[[], Iterable[NDArray[Any]]]
Shape = Sequence[int | str]  # a string names a size that is known only when the graph runs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Array:
    """An array to write: its values in row-major order, in pieces."""

    dtype: str
    shape: tuple[int, ...]
    pieces: Pieces

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(kw_only=True, slots=True)
class Graph:
    """Operations in order, added by `op`. Their inputs are names that `given`, `array`, `constant` or `op` returned."""

    _nodes: list[bytes] = field(default_factory=list[bytes])
    _made: set[str] = field(default_factory=set[str])  # outputs of operations
    _arrays: dict[str, _Array] = field(default_factory=dict[str, _Array])
    _constants: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _inputs: list[bytes] = field(default_factory=list[bytes])
    _outputs: list[bytes] = field(default_factory=list[bytes])

    def given(self, name: str, dtype: str, shape: Shape) -> str:
        """Declare an input of the graph."""
        self._inputs.append(_value(name, dtype, shape))
        return name

    def answer(self, name: str, dtype: str, shape: Shape) -> None:
        """Declare an output of the graph: an `op`'s output of that name."""
        self._outputs.append(_value(name, dtype, shape))

    def array(self, name: str, dtype: str, shape: tuple[int, ...], pieces: Pieces) -> str:
        """Add an array of the file; the same name again returns the same array."""
        self._arrays.setdefault(name, _Array(dtype=dtype, shape=shape, pieces=pieces))
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a small array to the graph itself, where onnxruntime looks for shapes."""
        array = np.asarray(value)
        self._constants[name] = _head(name, array.dtype.name, array.shape) + proto(9, array.tobytes())
        return name

    def whole(self, *values: int) -> str:
        """Add a constant vector of integers."""
        return self.constant("whole_" + "_".join(map(str, values)), np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, names: Sequence[str] = (), domain: str = "", **attributes: Any) -> str:
        """Add an operation; return its first output, named as in `names`, or by a number."""
        names = names or [f"{kind}_{len(self._nodes)}"]
        node = [proto(1, name) for name in inputs] + [proto(2, name) for name in names] + [proto(4, kind)]
        node += [proto(5, _attribute(name, value)) for name, value in attributes.items()]
        self._made.update(names)
        self._nodes.append(b"".join(node) + (proto(7, domain) if domain else b""))
        return names[0]

    def once(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation unless it is there already; return its output."""
        name = "_".join((kind, *inputs))
        return name if name in self._made else self.op(kind, *inputs, names=[name], **attributes)

    def write(self, path: Path, journal: Journal | None = None) -> None:
        """Write the file; if it would be too large, write the arrays to a second one beside it.

        With a `journal` the arrays resume where an interrupted start stopped.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        graph = self._without_arrays()
        heads = {name: _head(name, array.dtype, array.shape) for name, array in self._arrays.items()}
        inner = {name: heads[name] + opening(9, array.nbytes) for name, array in self._arrays.items()}
        outer = {name: opening(5, len(inner[name]) + array.nbytes) for name, array in self._arrays.items()}
        size = len(graph) + sum(
            len(outer[name]) + len(inner[name]) + array.nbytes for name, array in self._arrays.items()
        )
        begins = _model_until(size) + graph
        if len(begins) - len(graph) + size <= _MOST_BYTES:
            with array_file(path, journal) as out:
                out.file.write(begins)
                for name, array in self._arrays.items():
                    out.file.write(outer[name] + inner[name])
                    out.append(name, array.nbytes, array.pieces)
            return
        places: list[bytes] = []
        data, begin = path.with_name(path.name + DATA_SUFFIX), 0
        with array_file(data, journal) as out:
            for name, array in self._arrays.items():
                place = {"location": data.name, "offset": str(begin), "length": str(array.nbytes)}
                entries = b"".join(proto(13, proto(1, key) + proto(2, value)) for key, value in place.items())
                places.append(proto(5, heads[name] + entries + proto(14, _EXTERNAL)))
                out.append(name, array.nbytes, array.pieces)
                padding = -array.nbytes % _ALIGNMENT_BYTES
                out.file.write(b"\0" * padding)
                begin += array.nbytes + padding
        graph += b"".join(places)
        with atomic_file(path) as file:
            file.write(_model_until(len(graph)) + graph)

    def _without_arrays(self) -> bytes:
        parts = [proto(1, node) for node in self._nodes] + [proto(2, "gpt2")]
        parts += [proto(5, constant) for constant in self._constants.values()]
        parts += [proto(11, value) for value in self._inputs] + [proto(12, value) for value in self._outputs]
        return b"".join(parts)


def _model_until(graph_bytes: int) -> bytes:
    """The file's bytes up to its graph, which takes `graph_bytes`."""
    sets = [proto(8, proto(1, domain) + proto(2, version)) for domain, version in _OPSETS.items()]
    return proto(1, _IR_VERSION) + proto(2, "gpt2kit") + b"".join(sets) + opening(7, graph_bytes)


def _head(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """The description of an array without its values or their place."""
    return b"".join(proto(1, length) for length in shape) + proto(2, _TYPES[dtype]) + proto(8, name)


def _attribute(name: str, value: Any) -> bytes:
    match value:
        case int():
            content, kind = proto(3, value), 2
        case float():
            content, kind = proto(2, value), 1
        case str():
            content, kind = proto(4, value), 3
        case _:
            content, kind = b"".join(proto(8, each) for each in value), 7
    return proto(1, name) + content + proto(20, kind)


def _value(name: str, dtype: str, shape: Shape) -> bytes:
    sizes = b"".join(proto(1, proto(2 if isinstance(size, str) else 1, size)) for size in shape)
    return proto(1, name) + proto(2, proto(1, proto(1, _TYPES[dtype]) + proto(2, sizes)))
