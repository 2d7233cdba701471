"""The C interface in Python: finding the library, its structures, and engines and matrices as objects.

Everything here mirrors `gpt2_native.h`, which says what each call means. ctypes releases the interpreter's lock
for the length of a call, and needs no header of Python: one library serves every version.

Axes: R wanted rows, V vocabulary, K best tokens, D embedding, S tokens in the slot, N rows, I inputs, O outputs.
"""

import ctypes
import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.errors import BackendError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

FORMS = ("fp32", "bf16", "int8", "int4")  # in the order of the C enumeration
INT4_WHOLE = "int4 whole"  # the next: int4 with the embedding in int4 too, as a file may hold it
ABI = 7
PAGE_TOKENS = 64  # of a slot's keys and values: kPage

_HOW_TO_GET_IT = (
    "Install a C++17 compiler (Debian: apt install g++; macOS: xcode-select --install; Windows: the Visual Studio "
    "build tools) and install the package again (in a checkout: make clean demo); until then NumPy computes"
)


_BUILD_AGAIN = "Build it again: pip install --no-deps --editable . in the checkout, or install the package anew"

_log = logging.getLogger("gpt2")


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "n_inner")),
        ("layer_norm_epsilon", ctypes.c_float),
    ]


class _Source(ctypes.Structure):
    _fields_ = [
        ("values", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("group_scales", ctypes.c_void_p),
        ("input_stride", ctypes.c_int64),
        ("output_stride", ctypes.c_int64),
    ]


class _Work(ctypes.Structure):
    _fields_ = [
        ("slot", ctypes.c_int32),
        ("token_count", ctypes.c_int32),
        ("tokens", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("best", ctypes.c_int32),
        ("logits", ctypes.c_void_p),
        ("best_ids", ctypes.c_void_p),
        ("best_logprobs", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("target_logprobs", ctypes.c_void_p),
        ("target_ranks", ctypes.c_void_p),
        ("entropies", ctypes.c_void_p),
        ("draw_keys", ctypes.c_void_p),
        ("drawn", ctypes.c_void_p),
        ("draw_temperature", ctypes.c_float),
        ("draw_top_k", ctypes.c_int32),
        ("draw_top_p", ctypes.c_double),
        ("draw_min_p", ctypes.c_double),
        ("text", ctypes.c_void_p),
        ("text_count", ctypes.c_int32),
        ("prompt_count", ctypes.c_int32),
        ("repetition_penalty", ctypes.c_float),
        ("presence_penalty", ctypes.c_double),
        ("frequency_penalty", ctypes.c_double),
        ("residual_count", ctypes.c_int32),
        ("residual_depths", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("attention_count", ctypes.c_int32),
        ("attention_heads", ctypes.c_void_p),
        ("attention", ctypes.c_void_p),
    ]


@dataclass(kw_only=True, slots=True)
class Wanted:
    """One piece of work, with the arrays its results are written to; those that are None are not computed."""

    slot: int
    tokens: Ints
    rows: int = 0
    logits: Floats | None = None  # [R, V]
    best_ids: Ints | None = None  # [R, K]
    best_logprobs: Floats | None = None  # [R, K]
    targets: Ints | None = None  # [R]
    target_logprobs: Floats | None = None  # [R]
    target_ranks: Ints | None = None  # [R]
    entropies: Floats | None = None  # [R]
    draw_keys: NDArray[np.uint64] | None = None  # [R]
    drawn: Ints | None = None  # [R]
    draw_temperature: float = 1.0
    draw_top_k: int = 0
    draw_top_p: float = 1.0
    draw_min_p: float = 0.0
    text: Ints | None = None  # up to the last row
    prompt_count: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    residual_depths: Ints | None = None
    residual: Floats | None = None  # [depths, R, D]
    attention_heads: Ints | None = None  # [heads, 2]: layer, head
    attention: Floats | None = None  # [heads, R, S]


class Library:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        try:
            self._calls: Any = ctypes.CDLL(str(path))
            abi = self._calls.gpt2_abi()
        except (OSError, AttributeError) as error:
            raise BackendError(f"the native engine at {path} cannot be loaded: {error}. {_HOW_TO_GET_IT}.") from error
        if abi != ABI:
            raise BackendError(
                f"the native engine at {path} has interface {abi}, not {ABI}: it was built from another version. "
                f"{_BUILD_AGAIN}."
            )
        self.path = path
        _declare(self._calls)
        self._levels = tuple(self._calls.gpt2_levels().decode().split(","))
        if missing := self.error():
            _log.warning("%s", missing)

    @staticmethod
    @cache
    def load() -> "Library":
        """The library of this installation, or the one that the environment's GPT2_NATIVE_LIBRARY names.

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

    @property
    def levels(self) -> tuple[str, ...]:
        """The instruction levels that this build has and this machine can run, fastest first."""
        return self._levels

    def error(self) -> str:
        """What went wrong in the last call of this thread that failed."""
        return self._calls.gpt2_last_error().decode(errors="replace")

    @property
    def calls(self) -> Any:
        """The C functions."""
        return self._calls


def asked_level() -> str | None:
    """The instruction level that the environment's GPT2_ISA names, if it does."""
    return os.environ.get("GPT2_ISA") or None


def choose_level(library: Library, wanted: str | None = None) -> str:
    """The level to run: `wanted`, or the environment's GPT2_ISA, or the fastest.

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
    """The weights of one GPT-2, packed, and its slots. One caller at a time."""

    def __init__(self, library: Library, *, shape: dict[str, Any], form: str, level: str, threads: int) -> None:
        self._library, self._calls = library, library.calls
        self._handle: int | None = self._calls.gpt2_engine_new(
            ctypes.byref(_Shape(**shape)), (*FORMS, INT4_WHOLE).index(form), level.encode(), threads
        )
        if not self._handle:
            raise BackendError(f"the native engine cannot hold this model in {form}: {library.error()}.")

    def load(self, name: str, source: "_Source") -> None:
        """Pack or copy one array."""
        self._check(self._calls.gpt2_engine_load(self._handle, name.encode(), ctypes.byref(source)))

    def pieces(self) -> Iterator[memoryview]:
        """What loading fills, in place: to be kept, and to be put back instead of loading. Valid until `close`."""
        data = ctypes.c_void_p()
        for index in count():
            if (size := self._calls.gpt2_engine_piece(self._handle, index, ctypes.byref(data))) < 0:
                return
            if size:
                assert data.value is not None
                yield memoryview((ctypes.c_ubyte * size).from_address(data.value)).cast("B")

    def new_slot(self) -> int:
        """A new, empty slot."""
        return self._check(self._calls.gpt2_slot_new(self._handle))

    def truncate(self, slot: int, length: int) -> None:
        """Cut a slot shorter."""
        self._check(self._calls.gpt2_slot_truncate(self._handle, slot, length))

    def fork(self, slot: int) -> int:
        """A new slot with the same tokens; pages are shared until one of them writes."""
        return self._check(self._calls.gpt2_slot_fork(self._handle, slot))

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        self._check(self._calls.gpt2_slot_free(self._handle, slot))

    def slots_bytes(self) -> int:
        """Bytes of the pages that slots hold; shared pages count once."""
        return self._calls.gpt2_slots_bytes(self._handle)

    def step(self, wanted: Sequence[Wanted]) -> None:
        """One forward step; results go to the arrays of `wanted`.

        Raises:
            BackendError: memory ran out, or the weights are damaged.
        """
        work = (_Work * len(wanted))(*(_work(piece) for piece in wanted))
        self._check(self._calls.gpt2_step(self._handle, work, len(wanted)))

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
        if code == -3:
            raise BackendError(
                "logits, keys or values are not finite numbers: the weights are damaged. Fetch or convert them anew."
            )
        raise BackendError(f"the native engine failed: {self._library.error()}.")


class Matrix:
    """One packed matrix, to look at a weight form by itself."""

    def __init__(
        self, library: Library, source: "_Source", *, level: str, form: str, inputs: int, outputs: int
    ) -> None:
        self._calls, self._inputs, self._outputs = library.calls, inputs, outputs
        self._handle: int | None = self._calls.gpt2_matrix_new(
            level.encode(), FORMS.index(form), inputs, outputs, ctypes.byref(source), None
        )
        if not self._handle:
            raise BackendError(f"a matrix of {inputs} x {outputs} cannot be packed as {form}: {library.error()}.")

    def weights(self) -> Floats:
        """What the packed weights mean: [I, O]."""
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
    """Attention of a single head, to look at it by itself: the last R of S positions, [R, D].

    Raises:
        BackendError: keys and values are not [S, D], or there are fewer than rows or more than the form sums.
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


def source_of_floats(array: Floats, *, by_output: bool = False) -> _Source:
    """A vector, or a matrix [in, out] (`by_output`: [out, in]). The array must outlive the source."""
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    width = array.shape[-1]
    return _Source(
        values=array.ctypes.data, input_stride=1 if by_output else width, output_stride=width if by_output else 1
    )


def source_of_codes(codes: NDArray[np.int8], scales: Floats, *, by_output: bool = False) -> _Source:
    """Stored int8 codes of a matrix, and one scale for each output. The arrays must outlive the source."""
    assert codes.dtype == np.int8
    assert codes.flags.c_contiguous
    assert scales.size == codes.shape[0 if by_output else 1]
    width = codes.shape[-1]
    return _Source(
        codes=codes.ctypes.data,
        scales=scales.ctypes.data,
        input_stride=1 if by_output else width,
        output_stride=width if by_output else 1,
    )


def source_of_int4(codes_OI: NDArray[np.int8], scale_O: Floats, group_scale_OG: NDArray[np.uint8]) -> _Source:
    """Stored int4 codes of a matrix by its outputs, -8..7, and their scales. The arrays must outlive the source."""
    assert codes_OI.dtype == np.int8
    assert group_scale_OG.dtype == np.uint8
    assert codes_OI.flags.c_contiguous
    assert group_scale_OG.flags.c_contiguous
    return _Source(
        codes=codes_OI.ctypes.data,
        scales=scale_O.ctypes.data,
        group_scales=group_scale_OG.ctypes.data,
        input_stride=1,
        output_stride=codes_OI.shape[1],
    )


def _work(piece: Wanted) -> _Work:
    """Only what is wanted is filled in; the rest stays null. With many pieces, part of a small model's step is this."""
    work = _Work(slot=piece.slot, token_count=len(piece.tokens), tokens=piece.tokens.ctypes.data, rows=piece.rows)
    if piece.best_ids is not None and piece.best_logprobs is not None:
        work.best = piece.best_ids.shape[1]
        work.best_ids, work.best_logprobs = piece.best_ids.ctypes.data, piece.best_logprobs.ctypes.data
    if piece.draw_keys is not None:
        work.draw_temperature, work.draw_top_k = piece.draw_temperature, piece.draw_top_k
        work.draw_top_p, work.draw_min_p = piece.draw_top_p, piece.draw_min_p
    if piece.text is not None:
        work.text_count, work.prompt_count = len(piece.text), piece.prompt_count
        work.repetition_penalty = piece.repetition_penalty
        work.presence_penalty, work.frequency_penalty = piece.presence_penalty, piece.frequency_penalty
    if piece.residual_depths is not None:
        work.residual_count = len(piece.residual_depths)
    if piece.attention_heads is not None:
        work.attention_count = len(piece.attention_heads)
    for name in _ARRAYS:
        if (array := getattr(piece, name)) is not None:
            setattr(work, name, array.ctypes.data)
    return work


# Of `Wanted` and `_Work`, by their common names; what nearly every piece has is not among them.
_ARRAYS = (
    "logits",
    "targets",
    "target_logprobs",
    "target_ranks",
    "entropies",
    "draw_keys",
    "drawn",
    "text",
    "residual_depths",
    "residual",
    "attention_heads",
    "attention",
)


def _find() -> Path:
    if named := os.environ.get("GPT2_NATIVE_LIBRARY"):
        return Path(named)
    name = {"win32": "libgpt2_native.dll", "darwin": "libgpt2_native.dylib"}.get(sys.platform, "libgpt2_native.so")
    path = Path(__file__).with_name(name)
    if not path.is_file():
        raise BackendError(f"the native engine was not built with this installation. {_HOW_TO_GET_IT}.")
    return path


def _hash_of_sources(folder: Path) -> str:
    """What `gpt2_sources` of a library built from these says; empty beside an installed one, which has none."""
    files = sorted((file for kind in ("*.cpp", "*.h") for file in folder.glob(kind)), key=lambda file: file.name)
    lines = "".join(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest() if files else ""


def _declare(calls: Any) -> None:
    """Types of arguments and results: ctypes takes everything for an int otherwise, and cuts pointers short."""
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in (
        ("gpt2_sources", text, []),
        ("gpt2_last_error", text, []),
        ("gpt2_levels", text, []),
        ("gpt2_engine_new", pointer, [pointer, integer, text, integer]),
        ("gpt2_engine_load", integer, [pointer, text, pointer]),
        ("gpt2_engine_piece", ctypes.c_int64, [pointer, integer, pointer]),
        ("gpt2_engine_free", None, [pointer]),
        ("gpt2_slot_new", integer, [pointer]),
        ("gpt2_slot_truncate", integer, [pointer, integer, integer]),
        ("gpt2_slot_fork", integer, [pointer, integer]),
        ("gpt2_slot_free", integer, [pointer, integer]),
        ("gpt2_slots_bytes", ctypes.c_int64, [pointer]),
        ("gpt2_step", integer, [pointer, pointer, integer]),
        ("gpt2_matrix_new", pointer, [text, integer, integer, integer, pointer, pointer]),
        ("gpt2_matrix_read", None, [pointer, integer, pointer]),
        ("gpt2_matrix_apply", integer, [pointer, pointer, integer, pointer]),
        ("gpt2_matrix_free", None, [pointer]),
        ("gpt2_attend", integer, [text, integer, integer, integer, integer, pointer, pointer, pointer, pointer]),
    ):
        function = getattr(calls, name)
        function.restype, function.argtypes = result, arguments
