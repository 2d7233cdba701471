"""Drafts from a smaller model with the same vocabulary, which draws with the target's noise.

If the two models nearly agree on a distribution, shared noise makes them agree on the token, so sampled text is
drafted about as well as greedy text. All texts of a step are drafted together, one token at a time.
"""

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gpt2.backends.seam import Backend, Result, Work
from gpt2.config import ModelConfig
from gpt2.errors import GenerationError
from gpt2.generation.drafting import Ask
from gpt2.generation.sequence import CHUNK_TOKENS, SlotSequence
from gpt2.tokenizer import Tokenizer

_BEHIND = 32  # tokens: a text further behind is first caught up, a chunk a step, and drafted later
_DEAR = 0.7  # of a step: a draft token that costs more saves nothing, which deserves a warning

log = logging.getLogger("gpt2")


@runtime_checkable
class Named(Protocol):
    """The part of `LanguageModel` that drafting needs."""

    name: str
    tokenizer: Tokenizer
    backend: Backend

    @property
    def config(self) -> ModelConfig:
        """The shape of the network."""
        ...


def drafter_of(smaller: Named, larger: Named, *, warned: set[str]) -> "ModelDrafter":
    """The drafter for `larger`; logs a warning if it costs as much as it saves.

    Args:
        smaller: drafts.
        larger: draws the tokens.
        warned: names already warned about, so that each warning comes once; updated.

    Raises:
        GenerationError: the two vocabularies differ.
    """
    sizes = smaller.config.vocab_size, larger.config.vocab_size
    if smaller.tokenizer.hash != larger.tokenizer.hash or sizes[0] != sizes[1]:
        raise GenerationError(
            f"{smaller.name} cannot draft for {larger.name}: their vocabularies, of {sizes[0]:,} and {sizes[1]:,} "
            f'ids, are not the same. Take a model with the same tokenizer, or draft="ngram".'
        )
    cost = cost_of(smaller.config, larger.config)
    if cost > _DEAR and smaller.name not in warned:
        warned.add(smaller.name)
        log.warning("%s is hardly smaller than %s: its guesses cost what they save", smaller.name, larger.name)
    return ModelDrafter(smaller.backend, cost=cost)


def cost_of(smaller: ModelConfig, larger: ModelConfig) -> float:
    """The cost of a step of the smaller model as a share of the larger's, from weights read and fixed overhead."""
    return (smaller.parameters + _STEP_PARAMETERS) / (larger.parameters + _STEP_PARAMETERS)


_STEP_PARAMETERS = 20_000_000  # a step's fixed overhead, in parameters read in that time


class ModelDrafter:
    """A smaller model, with a slot for each text.

    Args:
        backend: of the smaller model; it belongs to the caller, and its slots are freed.
        cost: see `Drafter`; computed by `cost_of`.
    """

    def __init__(self, backend: Backend, *, cost: float) -> None:
        self.cost = cost
        self._backend = backend
        self._texts: dict[object, _Text] = {}

    def draft(self, asks: Sequence[Ask]) -> list[list[int]]:
        """See `Drafter`."""
        texts = [self._follow(ask) for ask in asks]
        self._catch_up([text.sequence for text in texts])
        drafts: list[list[int]] = [[] for _ in asks]
        live = [i for i, text in enumerate(texts) if text.sequence.pending <= _BEHIND]
        while live := [i for i in live if len(drafts[i]) < asks[i].most and texts[i].sequence.room > 0]:
            work = [
                Work(
                    slot=texts[i].sequence.slot,
                    tokens=texts[i].sequence.next_ids(texts[i].sequence.pending),
                    want=asks[i].sampler.want(texts[i].sequence.ids, asks[i].sample),
                )
                for i in live
            ]
            drawn = zip(live, work, self._backend.step(work), strict=True)
            live = [i for i, piece, result in drawn if self._draw(asks[i], texts[i], piece, result, drafts[i])]
        return drafts

    def forget(self, text: object) -> None:
        """See `Drafter`."""
        if (known := self._texts.pop(text, None)) is not None:
            known.sequence.free()

    def slot_bytes(self, tokens: int) -> int:
        """See `Drafter`."""
        return self._backend.slot_bytes(min(tokens, self._backend.config.n_positions))

    def close(self) -> None:
        """See `Drafter`."""
        for text in list(self._texts):
            self.forget(text)

    def _follow(self, ask: Ask) -> "_Text":
        """Update the text; drafted tokens that were accepted stay computed."""
        text = self._texts.get(ask.text)
        if text is None:
            text = self._texts[ask.text] = _Text(SlotSequence(self._backend, ask.ids))
        else:
            text.sequence.follow(ask.ids, text.n_certain)
        text.n_certain = len(ask.ids)
        return text

    def _catch_up(self, sequences: Sequence[SlotSequence]) -> None:
        """Read a chunk of each text that is far behind: a new one, or one whose window has slid."""
        behind = [sequence for sequence in sequences if sequence.pending > _BEHIND]
        if behind:
            chunks = [sequence.next_ids(min(sequence.pending - 1, CHUNK_TOKENS)) for sequence in behind]
            work = [Work(slot=s.slot, tokens=chunk) for s, chunk in zip(behind, chunks, strict=True)]
            self._backend.step(work)
            for sequence, chunk in zip(behind, chunks, strict=True):
                sequence.advance(len(chunk))

    def _draw(self, ask: Ask, text: "_Text", piece: Work, result: Result, draft: list[int]) -> bool:
        """Add the token that the smaller model draws; False if it has none."""
        text.sequence.advance(len(piece.tokens))
        try:
            token = ask.sampler.choose(result, 0, text.sequence.ids, ask.sample).token
        except GenerationError:  # the filters left no token; the larger model decides whether that is an error
            return False
        text.sequence.ids.append(token)
        draft.append(token)
        return True


class _Text:
    """A slot, and how many of its ids belong to the text rather than to a draft."""

    def __init__(self, sequence: SlotSequence) -> None:
        self.sequence = sequence
        self.n_certain = 0
