"""The weights of one GPT-2: named arrays as they are stored, usually still in the file.

Every format is read into `Weights`, and every backend is built from them. Reading maps the file into memory, so
opening a model costs neither time nor memory until its values are touched.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.forms import FORM_OF_DTYPE, Floats, decode, encode, int8_scale_shape
from gpt2.checkpoint.names import shapes
from gpt2.config import ModelConfig
from gpt2.errors import MismatchError

BLOCK_VALUES = 2 << 20  # 8 MB in float32: large enough for full speed, small relative to any model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredArray:
    """One array as it is stored, usually a read-only view into a mapped file.

    Attributes:
        data: the stored numbers; BF16 as uint16, since NumPy has no such type.
        dtype: safetensors' name of the type: F32, F16, BF16, I8 and so on.
        scale: for weights in I8: float32, [rows, 1] or [1, columns], so that `values = data * scale`.
    """

    data: NDArray[Any]
    dtype: str
    scale: Floats | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return self.data.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the data and its scales."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def check_scales(self, name: str) -> None:
        """Refuse scales that do not fit the array called `name`.

        Raises:
            MismatchError: there is not one for each output.
        """
        if self.dtype != "I8":
            return
        if len(self.shape) != 2 or self.scale is None or self.scale.shape != int8_scale_shape(name, self.shape):
            raise MismatchError(f"{name} is stored as int8 without one scale for each of its outputs.")

    def float32(self) -> Floats:
        """The values in float32: the data itself if it is F32 (read-only if mapped), else a new array."""
        return decode(self.data, self.dtype, self.scale)

    def rows(self, begin: int, end: int) -> "StoredArray":
        """The part from `begin` to `end` of the first axis, without copying."""
        by_row = self.scale is not None and self.scale.shape[0] == self.data.shape[0] > 1
        scale = self.scale[begin:end] if self.scale is not None and by_row else self.scale
        return StoredArray(data=self.data[begin:end], dtype=self.dtype, scale=scale)

    def transposed(self) -> "StoredArray":
        """The matrix with its axes exchanged, without copying."""
        return StoredArray(data=self.data.T, dtype=self.dtype, scale=None if self.scale is None else self.scale.T)

    def blocks(self) -> Iterator["StoredArray"]:
        """The whole in pieces of a few megabytes; a mapped piece's memory is released after use."""
        if self.data.ndim == 0 or self.data.size == 0:
            yield self
            return
        step = max(1, BLOCK_VALUES // (self.data.size // self.data.shape[0]))
        for begin in range(0, self.data.shape[0], step):
            block = self.rows(begin, begin + step)
            yield block
            block.release()

    def rounded(self, dtype: str, name: str) -> Iterator[NDArray[Any]]:
        """The values in F32, F16 or BF16, in the same pieces: as stored, or rounded by `encode`."""
        for block in self.blocks():
            yield block.data if block.dtype == dtype else encode(block.float32(), dtype, name)

    def release(self) -> None:
        """Let the system drop the mapped pages behind the data; a later access reads them from the file again."""
        base: Any = self.data
        while isinstance(base, np.ndarray):
            base = base.base
        mapping: object = base.obj if isinstance(base, memoryview) else base
        if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = _address(self.data) - _address(np.frombuffer(mapping, np.uint8))
        start_of_page = start // mmap.PAGESIZE * mmap.PAGESIZE
        span = sum((n - 1) * stride for n, stride in zip(self.shape, self.data.strides, strict=True))
        end = start + span + self.data.itemsize  # for a transposed view, all rows that it spans
        mapping.madvise(mmap.MADV_DONTNEED, start_of_page, end - start_of_page)


class MadeArray(StoredArray):
    """An array whose values are computed on each access and not kept. A subclass defines `data`.

    It also defines `shape`, `nbytes` and `release`, and parts if they can be computed without the whole.
    """

    __slots__ = ()

    def __init__(self, *, dtype: str, **parts: Any) -> None:
        for name, value in {"dtype": dtype, "scale": None, **parts}.items():
            object.__setattr__(self, name, value)  # frozen, and without a `data` to set

    def rows(self, begin: int, end: int) -> StoredArray:
        """The part from `begin` to `end` of the first axis."""
        return self._made().rows(begin, end)

    def transposed(self) -> StoredArray:
        """The matrix with its axes exchanged."""
        return self._made().transposed()

    def blocks(self) -> Iterator[StoredArray]:
        """The whole in pieces of a few megabytes."""
        return self._made().blocks()

    def _made(self) -> StoredArray:
        return StoredArray(data=self.data, dtype=self.dtype)


def _address(array: NDArray[Any]) -> int:
    return array.__array_interface__["data"][0]


class Weights:
    """A configuration and every array it requires, by OpenAI's names; the head is tied to `wte`.

    Attributes:
        files: all that the arrays were read from, so that caches notice a change; empty if unknown, as for arrays in
            memory.

    Raises:
        MismatchError: an array is missing, unknown, or has a wrong shape or an invalid type.
    """

    def __init__(self, config: ModelConfig, arrays: Mapping[str, StoredArray]) -> None:
        check_names(arrays, config)
        wanted = shapes(config)
        for name, shape in wanted.items():
            _check_array(name, arrays[name], shape)
        self.config = config
        self.files: tuple[Path, ...] = ()
        self._arrays = {name: arrays[name] for name in wanted}

    @classmethod
    def from_arrays(cls, config: ModelConfig, arrays: Mapping[str, NDArray[Any]]) -> "Weights":
        """Weights of arrays in memory: float32, float16, or any other float type, which is rounded to float32.

        Raises:
            MismatchError: an array is not of floats, or the arrays are not those of `config`.
        """
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind != "f":
                raise MismatchError(f"{name} must be an array of floats: got {np.asarray(array).dtype}.")
        return cls(config, {name: _stored(np.asarray(array)) for name, array in arrays.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """OpenAI's names, in the order of the computation."""
        return tuple(self._arrays)

    @property
    def form(self) -> str:
        """The form in which the matrices are stored: fp32, fp16, bf16, int8 or int4; fp32 if they differ."""
        forms = self.forms
        return forms[0] if len(forms) == 1 else "fp32"

    @property
    def forms(self) -> tuple[str, ...]:
        """Every form in which a matrix is stored; with a merged adapter, the base's and fp32."""
        names = (name for name in self._arrays if name == "wte" or name.endswith(".w"))
        return tuple(dict.fromkeys(FORM_OF_DTYPE[self._arrays[name].dtype] for name in names))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays as they are stored."""
        return sum(array.nbytes for array in self._arrays.values())

    def stored(self, name: str) -> StoredArray:
        """One array as it is stored."""
        return self._arrays[name]

    def float32(self, name: str) -> Floats:
        """One array in float32: a view of the file if that holds float32, else a new array."""
        return self._arrays[name].float32()

    def __repr__(self) -> str:
        return f"Weights({self.form}, {self.nbytes:,} bytes, {self.config})"


def _stored(array: NDArray[Any]) -> StoredArray:
    if array.dtype == np.float16:
        return StoredArray(data=np.ascontiguousarray(array), dtype="F16")
    return StoredArray(data=np.ascontiguousarray(array, dtype=np.float32), dtype="F32")


def check_names(names: Iterable[str], config: ModelConfig) -> None:
    """Refuse names that are not exactly those of the configuration's arrays.

    Raises:
        MismatchError: a name is missing or unknown.
    """
    given, wanted = dict.fromkeys(names), shapes(config)
    unknown = [name for name in given if name not in wanted]
    if missing := [name for name in wanted if name not in given]:
        others = f" There are others, without a place in it: {_listed(unknown)}." if unknown else ""
        raise MismatchError(
            f"The weights are not complete: {_listed(missing)} missing of {len(wanted)} arrays.{others}"
        )
    if unknown:
        raise MismatchError(f"The weights hold what this GPT-2 has no place for: {_listed(unknown)}.")


def check_plain(config: ModelConfig, reader: str) -> None:
    """Refuse an unusual MLP width or epsilon, before writing for code that has no setting for them.

    Raises:
        MismatchError: the model has one.
    """
    if config.n_inner != 4 * config.n_embd or config.layer_norm_epsilon != 1e-5:
        raise MismatchError(
            f"The model cannot be written for {reader}, which knows only an MLP of {4 * config.n_embd} and an epsilon "
            f"of 1e-05: the model has {config.n_inner} and {config.layer_norm_epsilon}. Write it as hf."
        )


def _check_array(name: str, array: StoredArray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise MismatchError(
            f"{name} must have shape {list(shape)}, by the configuration: the weights hold {list(array.shape)}."
        )
    if array.dtype not in FORM_OF_DTYPE:
        raise MismatchError(
            f"{name} is stored as {array.dtype}; weights are F64, F32, F16, BF16, or I8 and I4 with scales."
        )
    array.check_scales(name)


def _listed(names: list[str]) -> str:
    return ", ".join(name[:80] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
