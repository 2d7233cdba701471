"""Activation patching: which part of the residual stream carries the information that decides the answer.

Two texts with equally many tokens differ in something that matters, such as a name. Putting one text's vector, at
one depth and position, into the run of the other changes the answer; how much tells whether that information was
there (Meng et al. 2022, "Locating and editing factual associations in GPT", section 2.1, which disturbs the text
with noise instead).

Axes: L depths, P positions, T tokens, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.backends.seam import Backend, Floats, Patch, Trace, Want, Work
from gpt2.inspect.pictures import MOST_COLUMNS, of_last, shaded
from gpt2.inspect.reading import Text, chosen, one_token, read_pair, run
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patching:
    """The natural log-probability of the answer, without a patch and with one vector replaced.

    Attributes:
        pieces: of the text that was run.
        source_pieces: of the text that the vectors came from.
        answer: the token whose probability is measured.
        depths: of the replaced vectors: 0 is the embedding, i the output of block i.
        positions: of the replaced vectors' tokens.
        before: after the unchanged text.
        source: after the source.
        after_LP: after the text, with the source's vector at that depth and position.
    """

    pieces: tuple[str, ...]
    source_pieces: tuple[str, ...]
    answer: int
    depths: tuple[int, ...]
    positions: tuple[int, ...]
    before: float
    source: float
    after_LP: Floats

    @property
    def effect(self) -> Floats:
        """What each patch adds to the log-probability of the answer: [L, P]."""
        return self.after_LP - np.float32(self.before)

    def html(self) -> str:
        """A picture by depth (a row) and token: what the patch adds to the log-probability of the answer."""
        first = max(0, len(self.positions) - MOST_COLUMNS)
        effect_LP = self.effect[:, first:]
        return shaded(
            effect_LP,
            [[f"{value:.2f}" if abs(value) >= 0.005 else "" for value in row] for row in effect_LP.tolist()],
            rows=["embedding" if depth == 0 else f"block {depth}" for depth in self.depths],
            columns=[self.pieces[position] for position in self.positions[first:]],
            caption=f"log-probability of the answer: {self.before:.2f} in the text, {self.source:.2f} in the source; "
            f"what each exchange adds{of_last(effect_LP.shape[1], len(self.positions))}",
            most=abs(self.source - self.before),
        )

    def _repr_html_(self) -> str:  # for notebooks
        return self.html()


def patch(
    backend: Backend,
    tokenizer: Tokenizer,
    text: Text,
    *,
    source: Text,
    answer: str | int,
    depths: Sequence[int] | int | None = None,
    positions: Sequence[int] | int | None = None,
) -> Patching:
    """Run a text with single vectors replaced by those of another.

    Args:
        backend: one that intervenes: torch or reference.
        tokenizer: of the model.
        text: the text to run, or ids.
        source: the text that vectors come from, with as many tokens.
        answer: one token, as its text (usually with a space before it) or id.
        depths: all by default.
        positions: all by default.

    Raises:
        BackendError: the backend does not intervene.
        ContextError: the text is longer than the context.
        GenerationError: texts of different lengths, an answer that is not one token, no such depth or position.
    """
    (ids, pieces), (source_ids, source_pieces) = read_pair(backend.config, tokenizer, text, source)
    target = one_token(tokenizer, answer, backend.config.vocab_size)
    at_depths = chosen("depth", depths, backend.config.n_layer + 1)
    at_positions = chosen("position", positions, len(ids))

    after_source = run(
        backend, source_ids, Want(rows=len(ids), trace=Trace(residual=at_depths), targets=[target] * len(ids))
    )
    alike = next((t for t, pair in enumerate(zip(ids, source_ids, strict=True)) if pair[0] != pair[1]), len(ids))
    after_LP = np.empty((len(at_depths), len(at_positions)), np.float32)
    want = Want(rows=1, targets=[target])
    held = backend.new()
    try:
        [plain] = backend.step([Work(slot=held, tokens=ids, want=want)])
        assert plain.target_logprobs_R is not None
        for p in sorted(range(len(at_positions)), key=lambda p: -at_positions[p]):
            position = at_positions[p]
            if position < alike:  # before this, both texts have the same vectors
                after_LP[:, p] = plain.target_logprobs_R[0]
                continue
            backend.truncate(held, position)  # patches do not affect earlier positions
            patches = [Patch(depth=d, row=0, value_D=after_source.residual[d][position]) for d in at_depths]
            after_LP[:, p] = _after_each(backend, held, ids[position:], patches, want)
    finally:
        backend.free(held)
    assert after_source.target_logprobs_R is not None
    return Patching(
        pieces=pieces,
        source_pieces=source_pieces,
        answer=target,
        depths=at_depths,
        positions=at_positions,
        before=float(plain.target_logprobs_R[0]),
        source=float(after_source.target_logprobs_R[-1]),
        after_LP=after_LP,
    )


def _after_each(backend: Backend, held: int, ids: Sequence[int], patches: Sequence[Patch], want: Want) -> list[float]:
    """The target's log-probability after a slot's tokens and `ids`, for each patch by itself."""
    slots: list[int] = []
    try:
        slots.extend(backend.fork(held) for _ in patches)  # keeps the forks made before one fails
        work = [
            Work(slot=slot, tokens=ids, want=want, patches=(one,)) for slot, one in zip(slots, patches, strict=True)
        ]
        results = backend.step(work)
    finally:
        for slot in slots:
            backend.free(slot)
    logprobs: list[float] = []
    for result in results:
        assert result.target_logprobs_R is not None
        logprobs.append(float(result.target_logprobs_R[0]))
    return logprobs
