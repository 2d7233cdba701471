"""`gpt2_native.h` in Python: its structures, its constants and the types of its calls.

ctypes releases the GIL during a call and needs no Python headers, so one library serves every Python version. The C
header documents each field.

Axes: R wanted rows, V vocabulary, K best tokens, S tokens in the slot.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

FORMS = ("fp32", "bf16", "int8", "int4")  # in the order of the C enum
INT4_WHOLE = "int4 whole"  # next in the enum: int4 with the embedding in int4 too, as some files store it
ABI = 10
NO_MEMORY, NOT_FINITE = -2, -3  # return codes of failed calls
PAGE_TOKENS = 64  # kPage: positions of a key-value page


class Shape(ctypes.Structure):
    """gpt2_shape: of a model."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "n_inner")),
        ("layer_norm_epsilon", ctypes.c_float),
    ]


class Source(ctypes.Structure):
    """gpt2_source: where an array's numbers come from."""

    _fields_ = [
        ("values", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("group_scales", ctypes.c_void_p),
        ("input_stride", ctypes.c_int64),
        ("output_stride", ctypes.c_int64),
    ]


class Work(ctypes.Structure):
    """gpt2_work: one piece of a step. `Wanted` is its form with arrays."""

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
    """One piece of work and the arrays for its results; a result whose array is None is not computed."""

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


class Places:
    """Pieces of one token each, which draw the next, in memory reused from step to step.

    Reading the weights evicts everything else from the CPU caches, so all that Python touches between two steps comes
    from memory. NumPy arrays and ctypes structures made anew for each piece would be half of that.
    """

    def __init__(self, count: int) -> None:
        self.work = (Work * count)()
        self._tokens, self._keys = (ctypes.c_int32 * count)(), (ctypes.c_uint64 * count)()
        self._drawn = (ctypes.c_int32 * count)()
        self._pieces = list(self.work)
        for i, piece in enumerate(self._pieces):
            piece.token_count = piece.rows = 1
            piece.tokens, piece.drawn = (ctypes.addressof(array) + 4 * i for array in (self._tokens, self._drawn))
            piece.draw_keys = ctypes.addressof(self._keys) + 8 * i

    def __len__(self) -> int:
        return len(self._pieces)

    def put(
        self, i: int, slot: int, token: int, *, key: int, temperature: float, top_k: int, top_p: float, min_p: float
    ) -> None:
        """Set the token for a slot, and how to draw the next."""
        piece = self._pieces[i]
        piece.slot, self._tokens[i], self._keys[i] = slot, token, key
        piece.draw_temperature, piece.draw_top_k = temperature, top_k
        piece.draw_top_p, piece.draw_min_p = top_p, min_p

    def drawn(self, i: int) -> int:
        """The token that was drawn."""
        return self._drawn[i]


def source_of_floats(array: Floats, *, by_output: bool = False) -> Source:
    """A vector, or a matrix [in, out] (`by_output`: [out, in]). The array must outlive the source."""
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    width = array.shape[-1]
    return Source(
        values=array.ctypes.data, input_stride=1 if by_output else width, output_stride=width if by_output else 1
    )


def source_of_codes(codes: NDArray[np.int8], scales: Floats, *, by_output: bool = False) -> Source:
    """Stored int8 codes of a matrix, and one scale for each output. The arrays must outlive the source."""
    assert codes.dtype == np.int8
    assert codes.flags.c_contiguous
    assert scales.size == codes.shape[0 if by_output else 1]
    width = codes.shape[-1]
    return Source(
        codes=codes.ctypes.data,
        scales=scales.ctypes.data,
        input_stride=1 if by_output else width,
        output_stride=width if by_output else 1,
    )


def source_of_int4(codes_OI: NDArray[np.int8], scale_O: Floats, group_scale_OG: NDArray[np.uint8]) -> Source:
    """Stored int4 codes of a matrix by its outputs, -8..7, and their scales. The arrays must outlive the source."""
    assert codes_OI.dtype == np.int8
    assert group_scale_OG.dtype == np.uint8
    assert codes_OI.flags.c_contiguous
    assert group_scale_OG.flags.c_contiguous
    return Source(
        codes=codes_OI.ctypes.data,
        scales=scale_O.ctypes.data,
        group_scales=group_scale_OG.ctypes.data,
        input_stride=1,
        output_stride=codes_OI.shape[1],
    )


def work_of(piece: Wanted) -> Work:
    """A piece as a C struct: only wanted fields are set, the rest stay null.

    With many pieces this takes a noticeable part of a small model's step.
    """
    work = Work(slot=piece.slot, token_count=len(piece.tokens), tokens=piece.tokens.ctypes.data, rows=piece.rows)
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


# Fields with the same name in `Wanted` and `Work`, except those that nearly every piece has.
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


def declare(calls: Any) -> None:
    """Declare argument and result types: by default ctypes assumes int and truncates pointers."""
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in (
        ("gpt2_sources", text, []),
        ("gpt2_last_error", text, []),
        ("gpt2_levels", text, []),
        ("gpt2_engine_new", pointer, [pointer, integer, text, integer]),
        ("gpt2_engine_load", integer, [pointer, text, pointer]),
        ("gpt2_engine_piece", ctypes.c_int64, [pointer, integer, pointer]),
        ("gpt2_engine_checksum", ctypes.c_uint64, [pointer]),
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
