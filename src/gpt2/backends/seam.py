"""The interface between callers of a GPT-2 and the backends that compute it.

A backend holds weights and key-value slots and does one thing: `step` appends tokens to slots and returns the
wanted results for the last rows of each. Decode (one token), chunked prefill (many), verification of a draft,
scoring (targets) and tracing are all this one call.

Axes: T tokens of one piece of work, R its last `rows`, V vocabulary, K best tokens, D embedding, S tokens in the slot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2.config import ModelConfig
from gpt2.errors import BackendError, ContextError, GenerationError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Which activations a step returns for its wanted rows.

    Attributes:
        residual: depths of the residual stream: 0 is the embedding, i the output of block i.
        attention: (layer, head) pairs, layers counted from 0.
    """

    residual: tuple[int, ...] = ()
    attention: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalties:
    """Penalties on tokens of the text so far, applied before a draw; `generation.filters` defines them.

    Attributes:
        text: prompt and continuation, up to the last row. An earlier row ignores what comes after it.
        n_prompt: tokens in the prompt.
        repetition: for every token in the text.
        presence: for every token in the continuation.
        frequency: for each occurrence of a token in the continuation.
    """

    text: Sequence[int]
    n_prompt: int
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Tokens to draw, each with the noise of its key; `generation.draws` defines it.

    Attributes:
        keys: one per row.
        temperature: 0 takes the most likely token; of equal ones, the lowest id.
        top_k: draw from this many most likely tokens; 0: from all. The draw uses logits, or log-probabilities if
            `top_k` is set and there are no penalties.
        top_p: of these, draw from those that `generation.filters.top_p` keeps.
        min_p: of these, draw from those that `generation.filters.min_p` keeps.
        penalties: applied to the logits first.
    """

    keys: Sequence[int]
    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    penalties: Penalties | None = None

    @property
    def from_best(self) -> int:
        """How many `best` tokens of a backend the draw needs; 0: it needs the logits."""
        if self.penalties is not None:
            return 0
        return 1 if self.temperature == 0 else self.top_k


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """What is wanted of the last `rows` tokens of a piece of work; the tokens before them only fill the slot.

    Attributes:
        rows: how many of the last tokens; 0 asks for nothing.
        logits: the logits of the next token.
        best: the log-probabilities of this many most likely next tokens.
        targets: the true next token of each row. The step returns its log-probability and rank and the row's
            entropy; no [R, V] array leaves the backend.
        draw: the next token of each row, drawn; or what it is drawn from, if the backend leaves drawing to the caller.
        trace: activations.
    """

    rows: int = 1
    logits: bool = False
    best: int = 0
    targets: Sequence[int] | None = None
    draw: Draw | None = None
    trace: Trace | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patch:
    """A vector that replaces the computed one in the residual stream; everything after it is computed from it.

    Attributes:
        depth: as in `Trace.residual`; a trace of that depth shows the new vector.
        row: index among the piece's tokens, from 0.
        value_D: the vector.
    """

    depth: int
    row: int
    value_D: Floats


CLOSED = "The model is closed and computes nothing any more. Open it anew."  # for any step on a closed backend
NOTHING = Want(rows=0)
NEXT_LOGITS = Want(rows=1, logits=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Tokens to append to a slot, and what is wanted of the last of them.

    With patches, the slot keeps the keys and values that the patched model computed.
    """

    slot: int
    tokens: Sequence[int]
    want: Want = NOTHING
    patches: Sequence[Patch] = ()


@dataclass(kw_only=True, slots=True)
class Result:
    """What a `Want` asked for; all other fields are None or empty. Log-probabilities are natural logarithms."""

    logits_RV: Floats | None = None
    best_ids_RK: Ints | None = None  # most likely first; equal logits: lower id first
    best_logprobs_RK: Floats | None = None
    target_logprobs_R: Floats | None = None
    target_ranks_R: Ints | None = None  # 0: no token has a larger logit, and no lower id an equal one
    entropies_R: Floats | None = None  # of the next-token distribution, in nats
    drawn_R: Sequence[int] | None = None
    residual: dict[int, Floats] = field(default_factory=dict)  # depth -> [R, D]
    attention: dict[tuple[int, int], Floats] = field(default_factory=dict)  # -> [R, S]


class Backend(Protocol):
    """What every backend offers. Only one thread may call at a time, except on the native backend, which locks.

    A slot holds the keys and values of one sequence, of at most `config.n_positions` tokens; the caller decides
    what to do when it is full.
    """

    name: str  # "reference", "torch" or "native"
    device: str  # "cpu", "cuda:0", "mps"
    weights: str  # "fp32", "bf16", "fp16", "int8" or "int4"
    config: ModelConfig
    intervenes: bool  # whether `Work.patches` are obeyed
    reason: str  # the choice and its reason, one sentence for people

    def new(self) -> int:
        """A new, empty slot."""
        ...

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens from `length` on."""
        ...

    def fork(self, slot: int) -> int:
        """A new slot that holds the same tokens."""
        ...

    def free(self, slot: int) -> None:
        """Free the slot; its number may be used again."""
        ...

    def bytes(self) -> int:
        """Memory that the slots hold now."""
        ...

    def slot_bytes(self, tokens: int) -> int:
        """The most by which `bytes` grows for a slot of this many tokens that shares nothing with other slots."""
        ...

    def step(self, work: Sequence[Work]) -> list[Result]:
        """Append every piece's tokens to its slot and return the results each wanted, in order.
        Slots are distinct; tokens are not empty and fit the context (`ContextError` otherwise, before anything
        changes); ids are in the vocabulary (`GenerationError`). Patches need a backend that `intervenes`
        (`BackendError`).
        """
        ...

    def close(self) -> None:
        """Release threads, device memory and all slots.

        Afterwards `free` does nothing and every step is refused (`BackendError`).
        """
        ...


def undrawn(work: Sequence[Work], *, only_penalised: bool = False) -> list[Work]:
    """The same work with each draw replaced by what it is drawn from, for a backend that does not draw.

    Args:
        work: of a step.
        only_penalised: keep draws without penalties.
    """
    return [
        piece if draw is None or (only_penalised and draw.penalties is None) else _undrawn(piece, draw)
        for piece, draw in ((piece, piece.want.draw) for piece in work)
    ]


def _undrawn(piece: Work, draw: Draw) -> Work:
    want = replace(piece.want, draw=None)
    if draw.from_best:
        return replace(piece, want=replace(want, best=max(want.best, draw.from_best)))
    return replace(piece, want=replace(want, logits=True))


class Source(Protocol):
    """What a backend reads its weights from; `checkpoint.Weights` is one."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        ...

    def float32(self, name: str) -> Floats:
        """The array with this OpenAI name, matrices as [in, out]; it may be read-only."""
        ...


def check(config: ModelConfig, length: Callable[[int], int], work: Sequence[Work], *, intervenes: bool = True) -> None:
    """Refuse impossible work before anything changes; every `step` begins with this.

    Raises:
        BackendError: there is a patch and the backend does not intervene.
        ContextError: a slot would hold more than `n_positions` tokens.
        GenerationError: a token or target is not in the vocabulary, or `best` is negative.
    """
    assert len({piece.slot for piece in work}) == len(work), "two pieces of work for one slot in one step"
    for piece in work:
        want, new, held = piece.want, len(piece.tokens), length(piece.slot)
        assert new > 0, "work without tokens"
        assert 0 <= want.rows <= new, f"{want.rows} rows wanted of {new} tokens"
        if want.best < 0:
            raise GenerationError(f"The number of best tokens must be at least 0: got {want.best}.")
        assert want.targets is None or len(want.targets) == want.rows, "one target a wanted row"
        assert want.draw is None or (len(want.draw.keys) == want.rows and want.draw.temperature >= 0), "a key a row"
        if want.trace is not None:
            assert all(0 <= depth <= config.n_layer for depth in want.trace.residual), "no such depth"
            assert all(
                0 <= layer < config.n_layer and 0 <= head < config.n_head for layer, head in want.trace.attention
            ), "no such head"
        if piece.patches and not intervenes:
            raise BackendError(
                "the residual stream cannot be patched: this backend only looks. Take the torch or reference backend."
            )
        for patch in piece.patches:
            assert 0 <= patch.depth <= config.n_layer, "no such depth"
            assert 0 <= patch.row < new, "no such row"
            assert patch.value_D.shape == (config.n_embd,), "a vector as wide as the residual stream"
        if held + new > config.n_positions:
            raise ContextError(
                f"{new:,} more tokens do not fit: the slot holds {held:,} and the model's context is "
                f"{config.n_positions:,}. Give fewer tokens, or let the window slide."
            )
        for token in (*piece.tokens, *(want.targets or ())):
            try:
                is_known = 0 <= token < config.vocab_size
            except TypeError:
                raise GenerationError(
                    f"there is no token {token!r:.60}: an id is a whole number. Give one text as a string, or its ids."
                ) from None
            if not is_known:
                raise GenerationError(
                    f"there is no token {token}: the vocabulary holds ids 0 to {config.vocab_size - 1:,}. "
                    f"Use the tokenizer that belongs to the model."
                )
