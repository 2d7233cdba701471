"""The definition as a backend: `model/reference.py` with a cache, in float32 on the CPU.

It needs only NumPy, so it runs without a compiler or PyTorch. Each piece of work is computed separately, so its
results are the same bytes alone or in a batch.

Axes: T tokens of one piece of work, R its last `rows`, S tokens in the slot, C the slot's capacity,
L layers, H heads, K width of a head, V vocabulary, D embedding.
"""

from collections.abc import Sequence

import numpy as np

from gpt2.backends.definition import Arrays
from gpt2.backends.readout import read_out
from gpt2.backends.seam import CLOSED, Floats, Patch, Result, Source, Trace, Work, check, undrawn
from gpt2.config import ModelConfig
from gpt2.errors import BackendError
from gpt2.model import reference
from gpt2.model.reference import Array, Site

_CHUNK_TOKENS = 128  # chunk of a long text: attention's [H, T, S] stays in the CPU cache
_LEAST_CAPACITY = 32


class ReferenceBackend:
    """NumPy behind the seam; see `seam.Backend` for what its methods promise.

    Args:
        weights: read array by array as the first step needs them.
        form: "auto" or "fp32".
        threads: has no effect: NumPy's matrix library chooses, and `reason` says so.

    Raises:
        BackendError: a form other than fp32.
    """

    def __init__(self, weights: Source, *, form: str = "auto", threads: int | None = None) -> None:
        if form not in ("auto", "fp32"):
            raise BackendError(
                f"the reference backend cannot compute in {form}: it knows fp32 only. Leave the form away."
            )
        self.name = "reference"
        self.device = "cpu"
        self.weights = "fp32"
        self.config: ModelConfig = weights.config
        self.intervenes = True
        self.reason = "NumPy, on as many threads as its matrix library takes"
        if threads is not None:
            self.reason += f" (not {threads}: that is set by OPENBLAS_NUM_THREADS and the like, before Python starts)"
        self._arrays = Arrays(weights)
        self._head_DV = np.ascontiguousarray(weights.float32("wte").T)  # 1.4 times as fast for one row
        self._slots: dict[int, _KeyValues] = {}

    def new(self) -> int:
        """A new, empty slot."""
        return self._add(_KeyValues(self.config))

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return self._slot(slot).length

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens from `length` on."""
        held = self._slot(slot)
        assert 0 <= length <= held.length, "a slot can only be cut shorter"
        held.length = length

    def fork(self, slot: int) -> int:
        """A new slot that holds the same tokens."""
        return self._add(self._slot(slot).copy())

    def free(self, slot: int) -> None:
        """Give the slot back."""
        if self._is_closed:  # closing freed all slots
            return
        del self._slots[slot]

    def bytes(self) -> int:
        """Memory that the slots hold at present."""
        return sum(slot.kv.nbytes for slot in self._slots.values())

    def slot_bytes(self, tokens: int) -> int:
        """The most that a slot of this many tokens takes; its array grows by doubling."""
        config = self.config
        capacity = min(config.n_positions, max(2 * tokens, _LEAST_CAPACITY))
        return 2 * config.n_layer * config.n_embd * 4 * capacity

    def step(self, work: Sequence[Work]) -> list[Result]:
        """Append every piece's tokens to its slot and return the results each wanted, in order."""
        check(self.config, self.length, work)
        with np.errstate(over="ignore", invalid="ignore"):  # `read_out` refuses damaged weights
            return [self._run(piece) for piece in undrawn(work)]

    def close(self) -> None:
        """Release everything; the backend cannot be used afterwards."""
        self._slots.clear()
        self._arrays.clear()
        self._head_DV = np.empty((0, 0), np.float32)

    @property
    def _is_closed(self) -> bool:
        return not self._head_DV.size

    def _slot(self, number: int) -> "_KeyValues":
        if self._is_closed:
            raise BackendError(CLOSED)
        return self._slots[number]

    def _add(self, slot: "_KeyValues") -> int:
        if self._is_closed:
            raise BackendError(CLOSED)
        number = next(n for n in range(len(self._slots) + 1) if n not in self._slots)
        self._slots[number] = slot
        return number

    def _run(self, piece: Work) -> Result:
        slot, want = self._slots[piece.slot], piece.want
        first = slot.length + len(piece.tokens) - want.rows  # the first wanted token's position
        slot.reserve(slot.length + len(piece.tokens))
        view = _View(want.trace or Trace(), piece.patches, slot, first, slot.length + len(piece.tokens))
        ids_T = np.asarray(piece.tokens, np.int64)
        hidden: list[Array] = []
        for start in range(0, len(ids_T), _CHUNK_TOKENS):
            chunk_T = ids_T[start : start + _CHUNK_TOKENS]
            x_TD = reference.hidden(self.config, self._arrays, chunk_T, past=slot.length, at=view.at)
            hidden.append(x_TD[max(0, first - slot.length) :])
            slot.length += len(chunk_T)
        result = read_out(want, np.concatenate(hidden), lambda x_ND: x_ND @ self._head_DV, self.config.vocab_size)
        result.residual, result.attention = view.residual, view.attention
        return result


class _KeyValues:
    """Keys and values of one sequence, in an array that doubles when it is full."""

    def __init__(self, config: ModelConfig) -> None:
        self.length = 0
        self.kv = np.empty((2, config.n_layer, config.n_head, 0, config.head_width), np.float32)  # [2, L, H, C, K]
        self._most = config.n_positions

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens."""
        capacity = self.kv.shape[3]
        if capacity < length:
            old = self.kv
            shape = (*old.shape[:3], min(self._most, max(length, 2 * capacity, _LEAST_CAPACITY)), old.shape[4])
            self.kv = np.empty(shape, np.float32)
            self.kv[..., : self.length, :] = old[..., : self.length, :]

    def copy(self) -> "_KeyValues":
        """A copy with its own memory."""
        other = object.__new__(_KeyValues)
        other.length, other._most, other.kv = self.length, self._most, self.kv[..., : self.length, :].copy()
        return other


class _View:
    """The hook for one piece of work: stores keys and values, traces rows from `first` on, applies patches."""

    def __init__(self, trace: Trace, patches: Sequence[Patch], slot: _KeyValues, first: int, total: int) -> None:
        self._slot, self._first = slot, first
        self._patches = [(patch.depth, slot.length + patch.row, patch.value_D) for patch in patches]
        self._D = slot.kv.shape[2] * slot.kv.shape[4]
        R = total - first
        self.residual: dict[int, Floats] = {depth: np.empty((R, self._D), np.float32) for depth in trace.residual}
        self.attention: dict[tuple[int, int], Floats] = {
            head: np.zeros((R, total), np.float32) for head in trace.attention
        }

    def at(self, site: Site, layer: int, value: Array) -> Array:
        """The hook that `reference.hidden` calls."""
        past = self._slot.length
        if site == "keys" or site == "values":
            kept_HCK = self._slot.kv[0 if site == "keys" else 1, layer]
            kept_HCK[:, past : past + value.shape[1]] = value
            return kept_HCK[:, : past + value.shape[1]]
        T = value.shape[-2]  # the chunk: positions past to past + T
        if site == "residual":
            for depth, position, patch_D in self._patches:
                if depth == layer and past <= position < past + T:
                    value[position - past] = patch_D
        skip = max(0, self._first - past)
        if skip < T:
            rows = slice(past + skip - self._first, past + T - self._first)
            if site == "residual" and layer in self.residual:
                self.residual[layer][rows] = value[skip:]
            elif site == "attention":
                for (of_layer, head), weights_RS in self.attention.items():
                    if of_layer == layer:
                        weights_RS[rows, : value.shape[-1]] = value[head, skip:]
        return value
