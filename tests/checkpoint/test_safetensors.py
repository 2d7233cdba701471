"""Our reader and writer beside the library's, and what hostile files are answered."""

import errno
import json
import struct
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt2.checkpoint import unfinished
from gpt2.checkpoint.safetensors import LazyArray, read_metadata, read_safetensors, write_safetensors
from gpt2.checkpoint.weights import StoredArray
from gpt2.errors import FormatError, Gpt2Error

TORCH_TYPE = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{name} {shape}": (torch.randn(shape, generator=generator) * 50).to(kind)
        for name, kind in TORCH_TYPE.items()
        for shape in [(3, 5), (7,), (0, 2), (1, 1, 2)]
    }
    return tensors | {"scalar": torch.tensor(2.5), "ünïcode 中": torch.ones(1)}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = some_tensors()
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"a": "b"})
    stored = read_safetensors(tmp_path / "x.safetensors")
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].shape == tuple(tensor.shape)
        assert TORCH_TYPE[stored[name].dtype] == tensor.dtype
        assert stored[name].data.tobytes() == (bits(tensor) if tensor.ndim else tensor.numpy().tobytes())
    assert read_metadata(tmp_path / "x.safetensors") == {"a": "b"}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = some_tensors()
    kinds = {kind: name for name, kind in TORCH_TYPE.items()}
    arrays = {
        name: StoredArray(
            data=(tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy(),
            dtype=kinds[tensor.dtype],
        )
        for name, tensor in tensors.items()
    }
    write_safetensors(tmp_path / "x.safetensors", arrays, metadata={"who": "wé"})
    read = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "who": "wé"}


def test_unaligned_data_of_other_writers_is_aligned(tmp_path: Path) -> None:
    values = np.arange(5, dtype="<f4")
    header = json.dumps({"x": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}).encode()
    header += b" " * (-len(header) % 4 + 1)
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    data = read_safetensors(tmp_path / "x")["x"].data
    assert data.flags.aligned
    np.testing.assert_array_equal(data, values)


def test_every_array_we_write_is_aligned_and_the_bytes_are_always_the_same(tmp_path: Path) -> None:
    arrays = {
        "odd": StoredArray(data=np.arange(3, dtype=np.int8), dtype="I8"),
        "wide": StoredArray(data=np.arange(3.0), dtype="F64"),
        "narrow": StoredArray(data=np.ones(3, np.float16), dtype="F16"),
    }
    for name in ("a", "b"):
        write_safetensors(tmp_path / name, arrays)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    length = struct.unpack("<Q", (tmp_path / "a").read_bytes()[:8])[0]
    assert (8 + length) % 64 == 0
    assert list(read_safetensors(tmp_path / "a")) == ["wide", "narrow", "odd"]


def test_values_are_asked_for_one_array_at_a_time_and_written_in_pieces(tmp_path: Path) -> None:
    asked: list[str] = []

    def lazy(name: str) -> LazyArray:
        def pieces() -> Any:
            asked.append(name)
            yield np.zeros((2, 3), np.float32)
            asked.append(f"{name} again")
            yield np.ones((1, 3), np.float32)

        return LazyArray(dtype="F32", shape=(3, 3), pieces=pieces)

    write_safetensors(tmp_path / "x", {"a": lazy("a"), "b": lazy("b")})
    assert asked == ["a", "a again", "b", "b again"]
    assert read_safetensors(tmp_path / "x")["b"].data.tolist() == [[0] * 3, [0] * 3, [1] * 3]


def full_disk(after_bytes: int) -> Any:
    """A stand-in for `atomic_file` whose disk is full after so many bytes."""
    real = unfinished.atomic_file

    @contextmanager
    def opened(path: Path) -> Any:
        with real(path) as file:

            class Full:
                left = after_bytes

                def write(self, data: Any) -> int:
                    self.left -= len(data)
                    if self.left < 0:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return file.write(data)

            yield Full()

    return opened


@pytest.mark.parametrize("after_bytes", [0, 200, 1000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> None:
    file = tmp_path / "x.safetensors"
    write_safetensors(file, {"x": StoredArray(data=np.ones(4, np.float32), dtype="F32")})
    before = file.read_bytes()
    monkeypatch.setattr(unfinished, "atomic_file", full_disk(after_bytes))
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(file, {"x": StoredArray(data=np.zeros(4000, np.float32), dtype="F32")})
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def entry(begin: int = 0, end: int = 8, **other: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [begin, end], **other}


HUGE = 10**9
HOSTILE: dict[str, tuple[Any, str]] = {
    "shape of a billion": ({"x": entry(shape=[HUGE])}, "needs 4,000,000,000 bytes"),
    "shape beyond 64 bits": ({"x": entry(shape=[HUGE, HUGE, HUGE])}, "needs 4,000,000"),
    "shape times zero": ({"x": entry(0, 0, shape=[1 << 40, 0])}, "truncated or damaged"),
    "numbers too large": ({"x": entry(shape=[10**30])}, "no list of at most 8 sizes"),
    "negative size": ({"x": entry(shape=[-1, -2])}, "no list of at most 8 sizes"),
    "size of true": ({"x": entry(shape=[True, 2])}, "no list of at most 8 sizes"),
    "fractional size": ({"x": entry(shape=[2.0])}, "no list of at most 8 sizes"),
    "too many dimensions": ({"x": entry(shape=[1] * 9 + [2])}, "no list of at most 8 sizes"),
    "shape is text": ({"x": entry(shape="2")}, "no list of at most 8 sizes"),
    "negative offset": ({"x": entry(-8, 0)}, "not two positions"),
    "one offset": ({"x": entry(data_offsets=[0])}, "not two positions"),
    "end before begin": ({"x": entry(8, 0)}, "needs 8 bytes by its shape and has -8"),
    "offset beyond the file": ({"x": entry(0, 8), "y": entry(8, 16)}, "8 bytes of data and its header describes 16"),
    "overlap": ({"x": entry(0, 8), "y": entry(4, 12)}, "'y' starts at byte 4 of the data and overlaps"),
    "the same place twice": ({"x": entry(0, 8), "y": entry(0, 8)}, "overlaps another"),
    "hole": ({"x": entry(0, 4, shape=[1]), "y": entry(8, 16)}, "'y' starts at byte 8 of the data and leaves a hole"),
    "hole at the beginning": ({"x": entry(4, 8, shape=[1])}, "leaves a hole"),
    "data left over": ({"x": entry(0, 4, shape=[1])}, "8 bytes of data and its header describes 4"),
    "unknown type": ({"x": entry(dtype="F128")}, "has the type 'F128'; known are F64"),
    "type is a list": ({"x": entry(dtype=[1])}, "has the type"),
    "a field too many": ({"x": entry(extra=1)}, "exactly dtype, shape and data_offsets"),
    "a field too few": ({"x": {"dtype": "F32", "shape": [2]}}, "exactly dtype, shape and data_offsets"),
    "entry is a number": ({"x": 5}, "exactly dtype, shape and data_offsets"),
    "metadata is a list": ({"__metadata__": [], "x": entry()}, "not an object of texts"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "x": entry()}, "something else than texts"),
    "header is a list": ([1, 2], "not a JSON object"),
    "header is not JSON": (b"{'x': 1}", "not readable JSON"),
    "header is not UTF-8": (b'{"\xff": 1}', "not readable JSON"),
    "header ends early": (b'{"x": ', "not readable JSON"),
    "a name twice": (b'{"x": {}, "x": {}}', "'x' is given twice"),
    "a field twice": (b'{"x": {"dtype": "F32", "dtype": "F32"}}', "'dtype' is given twice"),
    "nested deeply": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not readable JSON"),
    "nested objects": (b'{"x":' * 100_000, "not readable JSON"),
    "digits without end": (b'{"x": ' + b"9" * 100_000 + b"}", "not readable JSON"),
    "many keys and the last twice": (
        b"{" + b",".join(b'"%d":0' % i for i in range(60_000)) + b',"59999":0}',
        "'59999' is given twice",
    ),
}


def file_of(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_refused_before_anything_is_allocated(tmp_path: Path, kind: str) -> None:
    header, message = HOSTILE[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(header))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message):
            read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a whole safetensors file"),
        (b"\x02", "not a whole safetensors file"),
        (struct.pack("<Q", 0), "not a whole safetensors file"),
        (struct.pack("<Q", 100) + b"{}", "header should take 100 bytes and the file has 10"),
        (struct.pack("<Q", (1 << 64) - 1) + b"{}", "header should take 18,446,744,073,709,551,615 bytes"),
        (b"PK\x03\x04" + bytes(100), "not a whole safetensors file"),
        (struct.pack("<Q", 2 << 20) + bytes(2 << 20), "header of 2,097,152 bytes; at most 786,432"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        read_safetensors(path)


def test_numbers_that_are_not_finite_are_the_readers_affair(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x", {"x": StoredArray(data=np.float32([np.nan, np.inf]), dtype="F32")})
    assert np.isnan(read_safetensors(tmp_path / "x")["x"].data[0])


SOUND = file_of(
    {
        "__metadata__": {"format": "pt"},
        "a": entry(0, 8),
        "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
        "c": {"dtype": "I8", "shape": [4], "data_offsets": [20, 24]},
    },
    bytes(range(24)),
)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=4),
    length=st.integers(0, len(SOUND)) | st.just(len(SOUND)),
    more=st.binary(max_size=8),
)
@example(edits=[], length=len(SOUND), more=b"")
def test_a_spoilt_file_is_refused_or_read_soundly(tmp_path: Path, edits: Any, length: int, more: bytes) -> None:
    data = bytearray(SOUND)
    for position, value in edits:
        data[position] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(data[:length]) + more)
    try:
        stored = read_safetensors(path)
    except Gpt2Error:
        return
    # every byte after the header belongs to exactly one array
    header_bytes = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert b"".join(array.data.tobytes() for array in stored.values()) == path.read_bytes()[header_bytes:]
