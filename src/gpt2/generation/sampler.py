"""Chooses the next token from what a backend returns for one row.

A sampler belongs to one request. It decides what to ask of the backend (the token itself if `seam.Draw` has all its
filters, the few best tokens if they suffice, else the logits) and applies the filters and the draw. It has no mutable
state, so rows may be chosen in any order: several samples of one prompt, or the rows of a draft.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2.backends.seam import Draw, Penalties, Result, Want
from gpt2.errors import GenerationError
from gpt2.generation import draws, filters
from gpt2.generation.noise import POSITION, Noise
from gpt2.generation.settings import Sampling

MAX_BEST = 256  # up to this, the backend's best-k costs less than moving and partitioning a whole row


class Choice(NamedTuple):
    """A token, its log-probability before filters (None unless requested), and the most likely tokens."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class Sampler:
    """The filters and draws of one request.

    Args:
        sampling: its settings.
        seed: of its draws.
        n_prompt: tokens of its prompt, which presence and frequency penalties do not count.
        n_ids: ids that may be generated: 0 to n_ids - 1. A model may have more, as padding.
        vocab_size: of the model.
        end_ids: banned before the minimum length.
        noise: keys its draws.
        constrained: whether `choose` gets the allowed tokens.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        seed: int,
        n_prompt: int,
        n_ids: int,
        vocab_size: int,
        end_ids: Sequence[int],
        noise: Noise = POSITION,
        constrained: bool = False,
    ) -> None:
        self._sampling = sampling
        self._seed = seed
        self._noise = noise
        self._n_prompt = n_prompt
        self._vocab_size = vocab_size
        self._all_ids = _range(n_ids)
        self._end_ids = np.array([token for token in end_ids if token < n_ids], dtype=np.int64)
        self._bias_ids = np.array(list(sampling.logit_bias), dtype=np.int64)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._wants_logprob = sampling.logprobs is not None or sampling.candidates > sampling.n
        self._n_top = sampling.logprobs or 0
        deciding = 1 if sampling.is_greedy else sampling.top_k
        best = max(deciding, self._n_top)
        self._temperature = 0.0 if sampling.is_greedy else filters.divisor(sampling.temperature)
        self._penalises = bool(
            sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty
        )
        self._looks_back = self._penalises or sampling.no_repeat_ngram > 0
        changes_here = bool(sampling.logit_bias) or sampling.no_repeat_ngram > 0 or constrained or noise.tilts
        has_few_best = best <= min(MAX_BEST, n_ids) and n_ids == vocab_size
        best_decides = deciding > 0 and has_few_best and not (changes_here or self._penalises)
        self._best = best if best_decides else 0
        self._draws_there = has_few_best and not (changes_here or self._wants_logprob or sampling.typical_p < 1)

    def want(self, seen: Sequence[int], sample: int | None = 0, draft: Sequence[int] = ()) -> Want:
        """What to ask of the backend for the row after `seen` and the row after each token of a draft.

        Args:
            seen: ids of prompt and continuation.
            sample: which of the request's samples draws; None: several draw from the same row.
            draft: proposed next tokens.
        """
        rows = 1 + len(draft)
        if not self._may_not_end(len(seen)):
            if self._draws_there and sample is not None:
                return Want(rows=rows, draw=self._draw_there(seen, sample, draft))
            if self._best:
                return Want(rows=rows, best=self._best)
        return Want(rows=rows, logits=True)

    def _draw_there(self, seen: Sequence[int], sample: int, draft: Sequence[int]) -> Draw:
        sampling, penalties = self._sampling, None
        if self._penalises:
            penalties = Penalties(
                text=[*seen, *draft] if draft else seen,
                n_prompt=self._n_prompt,
                repetition=sampling.repetition_penalty,
                presence=sampling.presence_penalty,
                frequency=sampling.frequency_penalty,
            )
        rows = range(1 + len(draft))
        return Draw(
            keys=[0 if sampling.is_greedy else self._key([*seen, *draft[:n]] if n else seen, sample) for n in rows],
            temperature=self._temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            penalties=penalties,
        )

    def rows_alike(self, n_seen: int) -> int | None:
        """How many rows, from the one after `n_seen` tokens on, want the same results; None: all."""
        if not (self._best or self._draws_there) or not self._may_not_end(n_seen):
            return None
        return self._sampling.min_tokens - (n_seen - self._n_prompt)

    def choose(
        self,
        result: Result,
        row: int,
        seen: Sequence[int],
        sample: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Choice:
        """The token that follows `seen` (prompt and continuation), from a row of the backend's result.

        Args:
            result: of the backend.
            row: of the result.
            seen: ids of prompt and continuation.
            sample: which of the request's samples it is.
            allowed: true for each id that may come next; ids beyond its end may not. None: all may.

        Raises:
            GenerationError: the filters or the constraint left no token.
        """
        if result.drawn_R is not None:
            return Choice(result.drawn_R[row], None, ())
        key = self._key(seen, sample)
        if result.logits_RV is None:
            assert result.best_ids_RK is not None
            assert result.best_logprobs_RK is not None
            return self._choose_from_best(result.best_ids_RK[row], result.best_logprobs_RK[row], key)
        logits_V = result.logits_RV[row, : len(self._all_ids)]
        filtered_V = self.change(logits_V, seen)
        if allowed is not None:
            filtered_V = filters.only(filtered_V, allowed)
        if filtered_V.max() == -np.inf:
            raise GenerationError(
                "The text cannot be continued: no token is left that the settings allow. "
                + ("Loosen no_repeat_ngram or min_tokens." if allowed is None else "Loosen the constraint.")
            )
        token = self._greedy(filtered_V, seen) if self._sampling.is_greedy else self._draw(filtered_V, key, seen)
        return self._report(token, logits_V, result.logits_RV[row])

    def change(self, logits_V: filters.Logits, seen: Sequence[int]) -> filters.Logits:
        """Apply the filters that change logits, in order, to the row after `seen`."""
        sampling = self._sampling
        seen_T = np.array(seen) if self._looks_back else self._all_ids[:0]
        if len(self._bias_ids):
            logits_V = filters.bias(logits_V, self._bias_ids, self._bias)
        if sampling.repetition_penalty != 1:
            logits_V = filters.repetition(logits_V, sampling.repetition_penalty, seen_T)
        if sampling.presence_penalty or sampling.frequency_penalty:
            presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
            logits_V = filters.presence_and_frequency(logits_V, presence, frequency, seen_T[self._n_prompt :])
        if sampling.no_repeat_ngram:
            logits_V = filters.no_repeat_ngram(logits_V, sampling.no_repeat_ngram, seen_T)
        if self._may_not_end(len(seen)):
            logits_V = filters.ban(logits_V, self._end_ids)
        return logits_V

    def _key(self, seen: Sequence[int], sample: int) -> int:
        return self._noise.key(seed=self._seed, sample=sample, seen=seen, n_prompt=self._n_prompt)

    def _may_not_end(self, n_seen: int) -> bool:
        return n_seen - self._n_prompt < self._sampling.min_tokens and len(self._end_ids) > 0

    def keep(self, row: filters.Row) -> filters.Row:
        """Apply the filters that drop tokens, in order, for a temperature above 0."""
        sampling = self._sampling
        ids, logits = row
        if sampling.temperature != 1:
            logits = filters.temperature(logits, sampling.temperature)
        row = (ids, logits)
        if sampling.top_k:
            row = filters.top_k(row, sampling.top_k)
        if sampling.top_p < 1:
            row = filters.top_p(row, sampling.top_p)
        if sampling.min_p > 0:
            row = filters.min_p(row, sampling.min_p)
        if sampling.typical_p < 1:
            row = filters.typical_p(row, sampling.typical_p)
        return row

    def _greedy(self, logits_V: filters.Logits, seen: Sequence[int]) -> int:
        if self._noise.tilts:
            _, logits_V = self._noise.tilt((self._all_ids, logits_V), seen, self._vocab_size)
        return int(logits_V.argmax())

    def _draw(self, logits_V: filters.Logits, key: int, seen: Sequence[int]) -> int:
        row = self.keep((self._all_ids, logits_V))
        if self._noise.tilts:
            row = self._noise.tilt(row, seen, self._vocab_size)
        return draws.draw(key, *row)

    def _choose_from_best(self, ids_K: filters.Ids, logprobs_K: filters.Logits, key: int) -> Choice:
        if self._sampling.is_greedy:
            token = int(ids_K[0])
        else:
            k = self._sampling.top_k
            ascending = ids_K[:k].argsort()
            row = (ids_K[:k][ascending].astype(np.int64), logprobs_K[:k][ascending])
            token = draws.draw(key, *self.keep(row))
        logprob = float(logprobs_K[ids_K == token][0]) if self._wants_logprob else None
        return Choice(token, logprob, tuple(zip(ids_K[: self._n_top].tolist(), logprobs_K.tolist(), strict=False)))

    def _report(self, token: int, logits_V: filters.Logits, padded_V: filters.Logits) -> Choice:
        if not self._wants_logprob:
            return Choice(token, None, ())
        normaliser = filters.log_normaliser(padded_V)
        top: tuple[tuple[int, float], ...] = ()
        if self._n_top:
            ids, logits = filters.top_k((self._all_ids, logits_V), self._n_top)
            order = np.argsort(-logits, kind="stable")
            top = tuple((int(ids[i]), float(logits[i]) - normaliser) for i in order)
        return Choice(token, float(logits_V[token]) - normaliser, top)


@lru_cache(maxsize=4)
def _range(n: int) -> NDArray[np.int64]:
    """0 to n - 1, one array for all samplers: a server may hold thousands of waiting ones."""
    ids = np.arange(n, dtype=np.int64)
    ids.flags.writeable = False
    return ids


def best_of_rows(result: Result) -> list[tuple[tuple[int, float], ...]]:
    """The best tokens of each row with their log-probabilities; empty if none were requested."""
    if result.best_ids_RK is None or result.best_logprobs_RK is None:
        return []
    rows = zip(result.best_ids_RK.tolist(), result.best_logprobs_RK.tolist(), strict=True)
    return [tuple(zip(ids, logprobs, strict=True)) for ids, logprobs in rows]
