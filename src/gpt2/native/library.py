"""The compiled library: finds it, chooses a level, and wraps its engines and matrices as objects.

`interface.py` has the structures; `gpt2_native.h` documents each call.

Axes: R rows, D width of a head, S positions, N rows of a matrix's input, I inputs, O outputs.
"""

import ctypes
import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.errors import BackendError
from gpt2.native.interface import (
    ABI,
    FORMS,
    INT4_WHOLE,
    NO_MEMORY,
    NOT_FINITE,
    Floats,
    Places,
    Shape,
    Source,
    Wanted,
    Work,
    declare,
    work_of,
)

_HOW_TO_GET_IT = (
    "Install a C++17 compiler (Debian: apt install g++; macOS: xcode-select --install; Windows: the Visual Studio "
    "build tools) and install the package again (in a checkout: make clean demo); until then NumPy computes"
)
_BUILD_AGAIN = "Build it again: pip install --no-deps --editable . in the checkout, or install the package anew"

_log = logging.getLogger("gpt2")


class Library:
    """The loaded library.

    Attributes:
        path: its file.
        calls: the C functions.
        levels: the instruction levels in this build that this machine can run, fastest first.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.calls: Any = ctypes.CDLL(str(path))
            abi = self.calls.gpt2_abi()
        except (OSError, AttributeError) as error:
            raise BackendError(f"the native engine at {path} cannot be loaded: {error}. {_HOW_TO_GET_IT}.") from error
        if abi != ABI:
            raise BackendError(
                f"the native engine at {path} has interface {abi}, not {ABI}: it was built from another version. "
                f"{_BUILD_AGAIN}."
            )
        self.path = path
        declare(self.calls)
        self.levels: tuple[str, ...] = tuple(self.calls.gpt2_levels().decode().split(","))
        if missing := self.error():
            _log.warning("%s", missing)

    @staticmethod
    @cache
    def load() -> "Library":
        """The library of this installation, or the one that the environment variable GPT2_NATIVE_LIBRARY names.

        Raises:
            BackendError: there is none, or it cannot be loaded.
        """
        path = _find()
        library = Library(path)
        built_from, written = library.calls.gpt2_sources().decode(), _hash_of_sources(path.parent)
        if built_from and written and built_from != written:
            _log.warning(
                "the native engine at %s was built from other source than lies beside it: what runs is not what is "
                "written. %s.",
                path,
                _BUILD_AGAIN,
            )
        return library

    def error(self) -> str:
        """The message of this thread's last failed call."""
        return self.calls.gpt2_last_error().decode(errors="replace")


def asked_level() -> str | None:
    """The instruction level in the environment variable GPT2_ISA, if set."""
    return os.environ.get("GPT2_ISA") or None


def choose_level(library: Library, wanted: str | None = None) -> str:
    """The level to run: `wanted`, else the environment variable GPT2_ISA, else the fastest.

    Raises:
        BackendError: this build or machine does not have it.
    """
    wanted = wanted or asked_level() or library.levels[0]
    if wanted not in library.levels:
        raise BackendError(
            f"the instruction level {wanted!r} cannot be had: this build and machine have {', '.join(library.levels)}. "
            f"Choose one of these, or leave --isa and GPT2_ISA out."
        )
    return wanted


class Engine:
    """The packed weights of one GPT-2, and its slots. Only one thread may call at a time."""

    def __init__(self, library: Library, *, shape: dict[str, Any], form: str, level: str, threads: int) -> None:
        self._library, self._calls = library, library.calls
        self._handle: int | None = self._calls.gpt2_engine_new(
            ctypes.byref(Shape(**shape)), (*FORMS, INT4_WHOLE).index(form), level.encode(), threads
        )
        if not self._handle:
            raise BackendError(f"the native engine cannot hold this model in {form}: {library.error()}.")

    @property
    def handle(self) -> int:
        """The C handle, checked because using a freed one would crash the process.

        Raises:
            BackendError: it is closed.
        """
        if self._handle is None:
            raise BackendError("The model is closed and computes nothing any more. Open it anew.")
        return self._handle

    @property
    def is_closed(self) -> bool:
        """Whether everything was freed."""
        return self._handle is None

    def load(self, name: str, source: Source) -> None:
        """Pack or copy one array."""
        self._check(self._calls.gpt2_engine_load(self.handle, name.encode(), ctypes.byref(source)))

    def pieces(self) -> Iterator[memoryview]:
        """Views of the memory that loading fills, to save it and restore it instead of loading. Valid until `close`."""
        data = ctypes.c_void_p()
        for index in count():
            if (size := self._calls.gpt2_engine_piece(self.handle, index, ctypes.byref(data))) < 0:
                return
            if size:
                assert data.value is not None
                yield memoryview((ctypes.c_ubyte * size).from_address(data.value)).cast("B")

    def checksum(self) -> int:
        """A 64-bit checksum of all pieces."""
        return self._calls.gpt2_engine_checksum(self.handle)

    def new_slot(self) -> int:
        """A new, empty slot."""
        return self._check(self._calls.gpt2_slot_new(self.handle))

    def truncate(self, slot: int, length: int) -> None:
        """Cut a slot shorter."""
        self._check(self._calls.gpt2_slot_truncate(self.handle, slot, length))

    def fork(self, slot: int) -> int:
        """A new slot with the same tokens; pages are shared until one of them writes."""
        return self._check(self._calls.gpt2_slot_fork(self.handle, slot))

    def free_slot(self, slot: int) -> None:
        """Free a slot."""
        self._check(self._calls.gpt2_slot_free(self.handle, slot))

    def slots_bytes(self) -> int:
        """Bytes of the pages that slots hold; shared pages count once."""
        return 0 if self.is_closed else self._calls.gpt2_slots_bytes(self.handle)

    def step(self, wanted: Sequence[Wanted]) -> None:
        """Run one forward step; results go to the arrays of `wanted`.

        Raises:
            BackendError: memory ran out, or the weights are damaged.
        """
        work = (Work * len(wanted))(*(work_of(piece) for piece in wanted))
        self._check(self._calls.gpt2_step(self.handle, work, len(wanted)))

    def draw(self, places: Places, count: int) -> None:
        """Run one step for the first `count` of `places`."""
        self._check(self._calls.gpt2_step(self.handle, places.work, count))

    def close(self) -> None:
        """Free everything; safe to repeat."""
        handle, self._handle = self._handle, None
        if handle:
            self._calls.gpt2_engine_free(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _check(self, code: int) -> int:
        if code >= 0:
            return code
        if code == NOT_FINITE:
            raise BackendError(
                "logits, keys or values are not finite numbers: the weights are damaged. Fetch or convert them anew."
            )
        short = MemoryError() if code == NO_MEMORY else None  # which passes, as nothing else here does
        raise BackendError(f"the native engine failed: {self._library.error()}.") from short


class Matrix:
    """One packed matrix, to test a weight form by itself."""

    def __init__(self, library: Library, source: Source, *, level: str, form: str, inputs: int, outputs: int) -> None:
        self._calls, self._inputs, self._outputs = library.calls, inputs, outputs
        self._handle: int | None = self._calls.gpt2_matrix_new(
            level.encode(), FORMS.index(form), inputs, outputs, ctypes.byref(source), None
        )
        if not self._handle:
            raise BackendError(f"a matrix of {inputs} x {outputs} cannot be packed as {form}: {library.error()}.")

    def weights(self) -> Floats:
        """The packed weights as floats: [I, O]."""
        weights_OI = np.empty((self._outputs, self._inputs), np.float32)
        for o in range(self._outputs):
            self._calls.gpt2_matrix_read(self._handle, o, weights_OI[o].ctypes.data)
        return weights_OI.T

    def apply(self, x_NI: Floats) -> Floats:
        """[N, I] -> [N, O]."""
        x_NI = np.ascontiguousarray(x_NI, np.float32)
        y_NO = np.empty((len(x_NI), self._outputs), np.float32)
        assert self._calls.gpt2_matrix_apply(self._handle, x_NI.ctypes.data, len(x_NI), y_NO.ctypes.data) == 0
        return y_NO

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._calls.gpt2_matrix_free(handle)


def attend(library: Library, *, level: str, form: str, q_RD: Floats, k_SD: Floats, v_SD: Floats) -> Floats:
    """Attention of a single head, to test it by itself: the last R of S positions, [R, D].

    Raises:
        BackendError: keys and values are not [S, D], or S is smaller than R or too large for the form's sums.
    """
    q_RD, k_SD, v_SD = (np.ascontiguousarray(x, np.float32) for x in (q_RD, k_SD, v_SD))
    (R, D), S = q_RD.shape, len(k_SD)
    if k_SD.shape != (S, D) or v_SD.shape != (S, D):
        raise BackendError(
            f"queries of {D} numbers cannot attend to keys {k_SD.shape} and values {v_SD.shape}. "
            f"Give both as [positions, {D}]."
        )
    out_RD = np.empty((R, D), np.float32)
    arrays = (x.ctypes.data for x in (q_RD, k_SD, v_SD, out_RD))
    if library.calls.gpt2_attend(level.encode(), FORMS.index(form), D, S, R, *arrays):
        raise BackendError(f"{R} rows cannot attend to {S} positions in {form}: {library.error()}.")
    return out_RD


def _find() -> Path:
    if named := os.environ.get("GPT2_NATIVE_LIBRARY"):
        return Path(named)
    name = {"win32": "libgpt2_native.dll", "darwin": "libgpt2_native.dylib"}.get(sys.platform, "libgpt2_native.so")
    path = Path(__file__).with_name(name)
    if not path.is_file():
        raise BackendError(f"the native engine was not built with this installation. {_HOW_TO_GET_IT}.")
    return path


def _hash_of_sources(folder: Path) -> str:
    """What `gpt2_sources` returns for a library built from these sources; empty in an installation without sources."""
    files = sorted((file for kind in ("*.cpp", "*.h") for file in folder.glob(kind)), key=lambda file: file.name)
    lines = "".join(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest() if files else ""
