"""Beam search: the most likely continuation that a search of bounded width finds.

Equal to Hugging Face's `generate(num_beams=…, do_sample=False, early_stopping=False)`: each step ranks the
continuations of all beams together. Those that end are set aside with the score log-probability over
length ** length_penalty; the best others continue. The search ends when no running beam, at its current length,
scores better than the worst of `beams` finished ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpt2.backends.seam import NOTHING, Backend, Result, Want, Work
from gpt2.errors import GenerationError
from gpt2.generation import filters
from gpt2.generation.prompts import end_ids, prompt_ids, token_limit
from gpt2.generation.requests import FinishReason, Request
from gpt2.generation.sampler import Sampler
from gpt2.generation.sequence import CHUNK_TOKENS, SlotSequence
from gpt2.generation.settings import checked_number
from gpt2.tokenizer import Tokenizer

_PENALTIES = {"least": -30, "most": 30}  # keeps length ** penalty finite and above 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Beam:
    """One continuation found by beam search.

    Attributes:
        ids: generated, including the token that ended it.
        text: of the ids, without the token that ended it.
        score: log-probability over length ** length_penalty.
        finish_reason: "stop" at end-of-text or a stop id, "length" otherwise.
    """

    ids: tuple[int, ...]
    text: str
    score: float
    finish_reason: FinishReason

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids, under the name that samples use."""
        return self.ids


class _Step(NamedTuple):
    """A beam and the token that continues it; `logprob` is of the whole continuation."""

    logprob: float
    beam: int
    token: int


def beam_search(
    backend: Backend, tokenizer: Tokenizer, request: Request, *, beams: int, length_penalty: float = 1.0
) -> list[Beam]:
    """The `sampling.n` best continuations, best first.

    The settings that change logits apply, to log-probabilities (bias, penalties, n-grams, minimum length), and so do
    end tokens and overflow; temperature and later filters do not.

    Args:
        backend: runs the steps; `beams` slots are used, and freed.
        tokenizer: of the model.
        request: prompt and settings.
        beams: width of the search, at least `sampling.n`.
        length_penalty: above 0 favours longer texts; -30 to 30.

    Raises:
        ContextError: the prompt is longer than the context.
        GenerationError: fewer beams than `sampling.n`, stop strings, requested log-probabilities, a number out of
            bounds, or settings that leave no token.
    """
    sampling = request.sampling
    beams = checked_number("beams", beams, whole=True)
    length_penalty = checked_number("length_penalty", length_penalty, whole=False, limits=_PENALTIES)
    if beams < max(1, sampling.n):
        raise GenerationError(f"beams must be at least n, which are chosen from them: got {beams}, n={sampling.n}.")
    if sampling.stop:
        raise GenerationError(f"Beam search cannot end at stop strings: got {sampling.stop!r}. Use stop_ids.")
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        raise GenerationError(
            f"Beam search tells no log-probabilities of tokens: got logprobs={sampling.logprobs}, "
            f"prompt_logprobs={sampling.prompt_logprobs}. A beam has a score; `score` tells the rest of its text."
        )
    prompt = prompt_ids(request, tokenizer, backend.config)
    ends = end_ids(sampling, tokenizer)
    n_ids = min(tokenizer.vocab_size, backend.config.vocab_size)
    limit = token_limit(sampling, len(prompt), backend.config)
    sampler = Sampler(
        sampling, seed=0, n_prompt=len(prompt), n_ids=n_ids, vocab_size=backend.config.vocab_size, end_ids=sorted(ends)
    )
    ended: list[tuple[float, list[int]]] = []
    running = [SlotSequence(backend, prompt)]
    held = [*running]  # everything to free, wherever an interruption falls
    try:
        logprobs = [0.0]
        for n_tokens in range(1, limit + 1):
            rows = [
                sampler.change(_log_softmax(result, n_ids), sequence.ids)
                for sequence, result in zip(running, _read(backend, running), strict=True)
            ]
            steps = _best_steps(rows, logprobs, beams * max(2, 1 + len(ends)))
            if not steps:
                raise GenerationError("The text cannot be continued: no token is left that the settings allow.")
            ending = [step.token in ends or n_tokens == limit for step in steps]
            for step, ends_here in list(zip(steps, ending, strict=True))[:beams]:
                if ends_here:
                    ids = [*running[step.beam].ids[len(prompt) :], step.token]
                    ended.append((step.logprob / n_tokens**length_penalty, ids))
            ended = sorted(ended, key=lambda entry: -entry[0])[:beams]
            going_on = [step for step, ends_here in zip(steps, ending, strict=True) if not ends_here][:beams]
            if not going_on:
                break
            if len(ended) == beams and going_on[0].logprob / n_tokens**length_penalty <= ended[-1][0]:
                break
            running = _continue(running, going_on, held)
            held[:] = running
            logprobs = [step.logprob for step in going_on]
    finally:
        for sequence in held:
            sequence.free()
    return [_beam(ids, score, ends, tokenizer) for score, ids in ended[: sampling.n]]


def _read(backend: Backend, sequences: Sequence[SlotSequence]) -> list[Result]:
    """Compute the pending ids, the same number in each sequence; return the logits of each last row."""
    while True:
        pending = sequences[0].pending
        n = min(pending, CHUNK_TOKENS)
        want = Want(rows=1, logits=True) if n == pending else NOTHING
        assert all(sequence.pending == pending for sequence in sequences)
        work = [Work(slot=sequence.slot, tokens=sequence.next_ids(n), want=want) for sequence in sequences]
        results = backend.step(work)
        for sequence in sequences:
            sequence.advance(n)
        if n == pending:
            return results


def _log_softmax(result: Result, n_ids: int) -> filters.Logits:
    assert result.logits_RV is not None
    padded_V = result.logits_RV[0]
    return padded_V[:n_ids] - np.float32(filters.log_normaliser(padded_V))


def _best_steps(rows: Sequence[filters.Logits], logprobs: Sequence[float], n: int) -> list[_Step]:
    """The n best continuations of all beams, best first; ties go to the earlier beam, then the lower id."""
    best = [filters.top_k((np.arange(len(row_V)), row_V), n) for row_V in rows]
    beams = np.repeat(np.arange(len(rows)), [len(ids) for ids, _ in best])
    tokens = np.concatenate([ids for ids, _ in best])
    totals = np.concatenate([np.float64(logprob) + values for logprob, (_, values) in zip(logprobs, best, strict=True)])
    order = np.argsort(-totals, kind="stable")[:n]
    order = order[totals[order] > -np.inf]
    return list(map(_Step, totals[order].tolist(), beams[order].tolist(), tokens[order].tolist()))


def _continue(running: Sequence[SlotSequence], steps: Sequence[_Step], held: list[SlotSequence]) -> list[SlotSequence]:
    """The beams of the next step: a beam's first child takes its slot, each other child a fork, added to `held`."""
    children: list[SlotSequence] = []
    taken: set[int] = set()
    for step in steps:
        child = running[step.beam]
        if step.beam in taken:
            child = child.fork()
            held.append(child)
        children.append(child)
        taken.add(step.beam)
    for beam, sequence in enumerate(running):
        if beam not in taken:
            sequence.free()
    for child, step in zip(children, steps, strict=True):
        child.ids.append(step.token)
    return children


def _beam(ids: list[int], score: float, ends: frozenset[int], tokenizer: Tokenizer) -> Beam:
    stopped = ids[-1] in ends
    text = tokenizer.decode(ids[:-1] if stopped else ids)
    return Beam(ids=tuple(ids), text=text, score=score, finish_reason="stop" if stopped else "length")
