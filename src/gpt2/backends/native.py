"""The C++ engine as a backend: the fastest on a CPU, in fp32, bf16, int8 and int4.

On one machine, in one form and at one instruction level, a sequence gives the same bytes alone or in a batch,
however its prompt is chunked, with a cached or recomputed prefix, and on any number of threads.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gpt2.backends import packed
from gpt2.backends.balance import query_key_scales
from gpt2.backends.forks import whole_lock
from gpt2.backends.seam import Floats, Result, Source, Work, check
from gpt2.config import ModelConfig
from gpt2.errors import BackendError
from gpt2.machine import available_memory_bytes, physical_cores, usable_cores
from gpt2.native.interface import (
    FORMS,
    INT4_WHOLE,
    PAGE_TOKENS,
    Places,
    Wanted,
    source_of_codes,
    source_of_floats,
    source_of_int4,
)
from gpt2.native.library import Engine, Library, choose_level

_CACHED_BYTES = 64 << 20  # last-level cache of many desktops: reading weights below this size is free

log = logging.getLogger("gpt2")


class NativeBackend:
    """The engine behind the seam; see `seam.Backend` for what its methods promise.

    Args:
        weights: what to run; every array is packed at once and not needed afterwards.
        form: one of "auto", "fp32", "bf16", "int8", "int4"; `choose_form` resolves "auto".
        threads: by default one per physical core that this process may use.

    Raises:
        BackendError: the engine was not built, or cannot hold the weights in that form.
    """

    def __init__(self, weights: Source, *, form: str = "auto", threads: int | None = None) -> None:
        library = Library.load()
        level = choose_level(library)
        why = ""
        if form == "auto":
            form, why = choose_form(weights, available_memory_bytes())
        if form not in FORMS:
            raise BackendError(
                f"the native engine cannot compute in {form}: it knows {', '.join(FORMS)}. Take one of these."
            )
        cores = usable_cores()
        threads = threads or min(physical_cores(), cores)
        if threads > cores:
            log.warning("%d threads share %d cores: fewer threads would be faster", threads, cores)
        self.name = "native"
        self.device = "cpu"
        self.weights = form
        self.level = level
        self.threads = threads
        self.config: ModelConfig = weights.config
        self.intervenes = False
        self.reason = f"{level} kernels on {threads} thread{'s' if threads > 1 else ''}{why and f', {form} {why}'}"
        self._lengths: dict[int, int] = {}
        self._page_bytes = 0
        self._places = Places(1)
        self._turn = whole_lock()  # threads may share a model, but the engine takes one call at a time
        whole = form == _stored_form(weights, "wte") == "int4"
        with self._turn:
            self._engine = Engine(
                library,
                shape=asdict(weights.config),
                form=INT4_WHOLE if whole else form,
                level=level,
                threads=threads,
            )
            try:
                _fill(self._engine, weights, form)
            except BaseException:
                self._engine.close()
                raise
        self.weights_bytes = sum(map(len, self._engine.pieces()))  # packed

    def new(self) -> int:
        """A new, empty slot."""
        with self._turn:
            slot = self._engine.new_slot()
            self._lengths[slot] = 0
            return slot

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return self._lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens from `length` on."""
        assert 0 <= length <= self._lengths[slot], "a slot can only be cut shorter"
        with self._turn:
            self._engine.truncate(slot, length)
            self._lengths[slot] = length

    def fork(self, slot: int) -> int:
        """A new slot that holds the same tokens; the two share memory until one of them grows."""
        with self._turn:
            other = self._engine.fork(slot)
            self._lengths[other] = self._lengths[slot]
            return other

    def free(self, slot: int) -> None:
        """Give the slot back."""
        with self._turn:
            if self._engine.is_closed:  # closing freed all slots
                return
            try:
                self._engine.free_slot(slot)
            finally:
                del self._lengths[slot]

    def bytes(self) -> int:
        """Memory that the slots hold at present."""
        with self._turn:
            return self._engine.slots_bytes()

    def slot_bytes(self, tokens: int) -> int:
        """The most that a slot of this many tokens takes: whole pages."""
        if not self._page_bytes:  # only the engine knows its cache layout: measure one token
            with self._turn:  # keeps other threads' slots out of the measurement
                held, slot = self.bytes(), self.new()
                try:
                    self.step([Work(slot=slot, tokens=[0])])
                    self._page_bytes = self.bytes() - held
                finally:
                    self.free(slot)
        return self._page_bytes * -(-tokens // PAGE_TOKENS)

    def step(self, work: Sequence[Work]) -> list[Result]:
        """Append every piece's tokens to its slot and return the results each wanted, in order."""
        check(self.config, self.length, work, intervenes=self.intervenes)
        with self._turn:
            if all(map(_draws_next, work)):
                return self._draw_next(work)
            wanted = [self._wanted(piece) for piece in work]
            self._engine.step(wanted)
            for piece in work:
                self._lengths[piece.slot] += len(piece.tokens)
        return [_result(piece, arrays) for piece, arrays in zip(work, wanted, strict=True)]

    def close(self) -> None:
        """Give back memory and threads; the backend cannot be used afterwards."""
        with self._turn:
            self._engine.close()  # the engine then refuses every step; slots keep only their length

    def _draw_next(self, work: Sequence[Work]) -> list[Result]:
        """The fast path for plain decoding, by far the most common step, with minimal overhead."""
        if len(work) > len(self._places):
            self._places = Places(len(work))
        places = self._places
        for i, piece in enumerate(work):
            draw = piece.want.draw
            assert draw is not None
            places.put(
                i,
                piece.slot,
                int(piece.tokens[0]),
                key=draw.keys[0],
                temperature=draw.temperature,
                top_k=min(draw.top_k, self.config.vocab_size),
                top_p=draw.top_p,
                min_p=draw.min_p,
            )
        self._engine.draw(places, len(work))
        for piece in work:
            self._lengths[piece.slot] += 1
        return [Result(drawn_R=[places.drawn(i)]) for i in range(len(work))]

    def _wanted(self, piece: Work) -> Wanted:
        """Output arrays for what the piece wants."""
        want, R, V = piece.want, piece.want.rows, self.config.vocab_size
        wanted = Wanted(slot=piece.slot, tokens=np.ascontiguousarray(piece.tokens, np.int32), rows=R)
        if want.logits:
            wanted.logits = np.empty((R, V), np.float32)
        if K := min(want.best, V):
            wanted.best_ids, wanted.best_logprobs = np.empty((R, K), np.int32), np.empty((R, K), np.float32)
        if want.targets is not None:
            wanted.targets = np.ascontiguousarray(want.targets, np.int32)
            wanted.target_logprobs, wanted.entropies = np.empty(R, np.float32), np.empty(R, np.float32)
            wanted.target_ranks = np.empty(R, np.int32)
        if want.draw is not None:
            wanted.draw_keys, wanted.drawn = np.array(want.draw.keys, np.uint64), np.empty(R, np.int32)
            wanted.draw_temperature, wanted.draw_top_k = want.draw.temperature, min(want.draw.top_k, V)
            wanted.draw_top_p, wanted.draw_min_p = want.draw.top_p, want.draw.min_p
            if (penalties := want.draw.penalties) is not None:
                wanted.text, wanted.prompt_count = np.array(penalties.text, np.int32), penalties.n_prompt
                wanted.repetition_penalty = penalties.repetition
                wanted.presence_penalty, wanted.frequency_penalty = penalties.presence, penalties.frequency
        if want.trace and want.trace.residual:
            wanted.residual_depths = np.array(want.trace.residual, np.int32)
            wanted.residual = np.empty((len(want.trace.residual), R, self.config.n_embd), np.float32)
        if want.trace and want.trace.attention:
            S = self._lengths[piece.slot] + len(piece.tokens)
            wanted.attention_heads = np.array(want.trace.attention, np.int32)
            wanted.attention = np.empty((len(want.trace.attention), R, S), np.float32)
        return wanted


def _draws_next(piece: Work) -> bool:
    """Whether the piece is one token and wants only the draw of the next."""
    want, draw = piece.want, piece.want.draw
    return (
        draw is not None
        and draw.penalties is None
        and len(piece.tokens) == want.rows == 1
        and not (want.logits or want.best or want.targets or want.trace)
    )


def _result(piece: Work, arrays: Wanted) -> Result:
    result = Result(
        logits_RV=arrays.logits,
        best_ids_RK=arrays.best_ids,
        best_logprobs_RK=arrays.best_logprobs,
        target_logprobs_R=arrays.target_logprobs,
        target_ranks_R=arrays.target_ranks,
        entropies_R=arrays.entropies,
        drawn_R=None if arrays.drawn is None else arrays.drawn.tolist(),
    )
    if piece.want.trace and arrays.residual is not None:
        result.residual = dict(zip(piece.want.trace.residual, arrays.residual, strict=True))
    if piece.want.trace and arrays.attention is not None:
        result.attention = dict(zip(piece.want.trace.attention, arrays.attention, strict=True))
    return result


def choose_form(weights: Source, available_bytes: int) -> tuple[str, str]:
    """Resolve "auto", with the reason: a smaller form once the weights outgrow the caches, since it is then faster.

    Weights whose every matrix is stored in int8 or int4 keep that form, losslessly. Otherwise reading weights
    dominates the cost of generating, and int8 changes the perplexity by less than half a percent. int4 changes it
    more, so it is chosen only if int8 would not fit. Scoring still runs in fp32, on a backend of its own.

    Args:
        weights: what will run.
        available_bytes: available memory; 0 if unknown.
    """
    int8_bytes = weights.config.parameters
    stored = getattr(weights, "form", None)
    if available_bytes and 1.2 * int8_bytes > available_bytes:
        return "int4", f"to fit {available_bytes / 1e9:.1f} GB of memory"
    if stored in ("int8", "int4"):
        return stored, "as stored"
    if 4 * int8_bytes > _CACHED_BYTES:
        return "int8", "for speed"
    return "fp32", "for weights this small"


def _fill(engine: Engine, weights: Source, form: str) -> None:
    """Restore what an earlier process packed; otherwise pack, and keep the result for the next process."""
    kept = packed.place(getattr(weights, "files", ()), weights.config, form)
    if kept and packed.restore(engine, *kept):
        return
    _load(engine, weights, form)
    if kept:
        packed.keep(engine, *kept)


def _load(engine: Engine, weights: Source, form: str) -> None:
    """Give the engine every array, one at a time."""
    names = ["wte", "wpe", "ln_f.g", "ln_f.b"]
    scales: dict[str, Floats] = {}  # per matrix; they apply to its outputs and its bias
    for layer in range(weights.config.n_layer):
        matrix, bias = (f"h.{layer}.attn.c_attn.{kind}" for kind in "wb")
        is_packed_from_floats = form in ("int8", "int4") and _stored_form(weights, matrix) is None
        if is_packed_from_floats and (scale_O := query_key_scales(weights, layer)) is not None:
            scales |= {matrix: scale_O, bias: scale_O}
        names += [f"h.{layer}.{part}.{kind}" for part in ("ln_1", "ln_2") for kind in "gb"]
        names += [
            f"h.{layer}.{part}.{kind}"
            for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            for kind in "wb"
        ]
    for name in names:
        source, alive = _source(weights, name, form, scales.get(name))
        engine.load(name, source)
        del alive  # the engine has packed it


def _source(weights: Source, name: str, form: str, scale_O: Floats | None = None) -> tuple[Any, list[Any]]:
    """The stored codes if they are in this form, else floats with outputs multiplied by `scale_O`.

    Also returns the arrays that must outlive the source.
    """
    embedding = name == "wte"
    stored = _stored(weights, name)
    if stored is not None and stored.dtype == "I4" and form == "int4":
        codes, groups = stored.codes(), np.ascontiguousarray(stored.group_scale)
        scales = np.ascontiguousarray(stored.scale, np.float32)
        return source_of_int4(codes, scales, groups), [codes, scales, groups]
    matrix = embedding or name.endswith(".w")
    if stored is not None and stored.dtype == "I8" and matrix and (form == "int8" or (embedding and form == "int4")):
        codes, scales = np.ascontiguousarray(stored.data), np.ascontiguousarray(stored.scale, np.float32)
        return source_of_codes(codes, scales, by_output=embedding), [codes, scales]
    values = np.ascontiguousarray(weights.float32(name))
    if scale_O is not None:
        values = values * scale_O
    return source_of_floats(values, by_output=embedding), [values]


def _stored(weights: Source, name: str) -> Any:
    """The array as stored, if the source can tell."""
    stored = getattr(weights, "stored", None)
    return stored(name) if stored else None


def _stored_form(weights: Source, name: str) -> str | None:
    """The integer form that an array is stored in, if any."""
    array = _stored(weights, name)
    return {"I8": "int8", "I4": "int4"}.get(array.dtype) if array is not None else None
