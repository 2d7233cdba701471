"""Scores a text of any length under the model, token by token.

A text longer than the context is scored with a sliding window: each token exactly once, and each after the first
window with at least `n_positions - stride` tokens of context.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gpt2.backends.seam import Backend, Floats, Result, Want, Work
from gpt2.config import ModelConfig
from gpt2.errors import ContextError, GenerationError
from gpt2.generation.prompts import check_ids, ids_of
from gpt2.generation.sampler import best_of_rows
from gpt2.generation.sequence import CHUNK_TOKENS
from gpt2.generation.settings import check_function, checked_number
from gpt2.tokenizer import IncrementalDecoder, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A text's tokens and how likely the model found each.

    Every tuple has one entry per token. The first token's is None if it was not scored.

    Attributes:
        text: the text that was scored.
        ids: its tokens.
        pieces: the text of each token by itself; a part of a character is U+FFFD.
        completed: the text that each token makes whole; nothing of a part of a character before its last. Joined, the
            text.
        logprobs: natural logarithm of the probability of each token after those before it.
        ranks: how many tokens were more likely; 0 is the model's first guess.
        entropies: entropy of the model's distribution at the token, in nats.
        best: the most likely tokens there and their log-probabilities, likeliest first, if requested.
        n_bytes: UTF-8 bytes of the tokens that were scored.
    """

    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    completed: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    entropies: tuple[float | None, ...]
    best: tuple[tuple[tuple[int, float], ...], ...]
    n_bytes: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids, under the name that samples use."""
        return self.ids

    @property
    def n_scored(self) -> int:
        """Tokens that were scored."""
        return sum(logprob is not None for logprob in self.logprobs)

    @property
    def logprob(self) -> float:
        """The log-probability of the whole text: the sum over its scored tokens."""
        return math.fsum(logprob for logprob in self.logprobs if logprob is not None)

    @property
    def perplexity(self) -> float:
        """Per token."""
        return _exp(-self.logprob / self.n_scored)

    @property
    def perplexity_per_word(self) -> float:
        """Per whitespace-separated word; NaN if there is none."""
        n_words = len(self.text.split())
        return _exp(-self.logprob / n_words) if n_words else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode one byte of UTF-8 text."""
        return -self.logprob / math.log(2) / self.n_bytes

    def html(self) -> str:
        """The text as HTML, coloured by how unexpected each token was."""
        from gpt2.generation.coloured import coloured

        return coloured(self)

    def _repr_html_(self) -> str:  # for notebooks
        return self.html()


def score(
    backend: Backend,
    tokenizer: Tokenizer,
    text: str | Iterable[int],
    *,
    stride: int | None = None,
    score_first: bool = True,
    best: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Score:
    """Score a text, or ids.

    Args:
        backend: runs the steps; its slot is freed.
        tokenizer: of the model.
        text: at least one token; two if the first is left unscored.
        stride: tokens by which the window moves, 1 to `n_positions`; half the context by default. A smaller stride
            gives each token more context, and takes longer.
        score_first: put the end-of-text token before the text, so that its first token is scored as a beginning.
        best: how many of the most likely tokens to report at each position.
        progress: called now and then with the number of tokens scored and the total.

    Raises:
        GenerationError: nothing to score, an id outside the vocabulary, a stride outside its range, or no
            end-of-text token before the first token.
    """
    n_positions = backend.config.n_positions
    moved: int = default_stride(n_positions) if stride is None else checked_number("stride", stride, whole=True)
    best = checked_number("best", best, whole=True, limits={"least": 0})
    if not 1 <= moved <= n_positions:
        raise GenerationError(f"stride must lie between 1 and the context of {n_positions:,} tokens: got {moved}.")
    check_function("progress", progress)
    ids = ids_of(text, tokenizer, backend.config.vocab_size, done="scored", where="the text")
    context = beginning(tokenizer, score_first=score_first)
    if len(ids) + len(context) < 2:
        least = 2 - len(context)
        raise GenerationError(f"The text cannot be scored: it has {len(ids)} tokens. Give at least {least}.")

    sums = _Columns()
    unscored = 0 if score_first else 1
    for result in slide(backend, context + ids, stride=moved, best=best):
        sums.add(result)
        progress(len(sums.logprobs), len(ids) - unscored)
    return Score(
        text=text if isinstance(text, str) else tokenizer.decode(ids),
        ids=tuple(ids),
        pieces=tuple(tokenizer.decode([token]) for token in ids),
        completed=_completed(tokenizer, ids),
        logprobs=(*[None] * unscored, *sums.logprobs),
        ranks=(*[None] * unscored, *sums.ranks),
        entropies=(*[None] * unscored, *sums.entropies),
        best=(*[()] * unscored, *sums.best) if best else ((),) * len(ids),
        n_bytes=sum(len(tokenizer.token_bytes(token)) for token in ids[unscored:]),
    )


def _completed(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    decoder = IncrementalDecoder(tokenizer)
    *texts, last = map(decoder.push, ids)
    return (*texts, last + decoder.finish())


def logits(backend: Backend, ids: Iterable[int]) -> Floats:
    """The logits of the token after each of `ids`: [T, V].

    Raises:
        ContextError: more ids than the context.
        GenerationError: an id outside the vocabulary, or none at all.
    """
    ids = ids_of_logits(ids, backend.config)
    slot = backend.new()
    try:
        [result] = backend.step([Work(slot=slot, tokens=ids, want=Want(rows=len(ids), logits=True))])
    finally:
        backend.free(slot)
    assert result.logits_RV is not None
    return result.logits_RV


def ids_of_logits(ids: Iterable[int], config: ModelConfig) -> list[int]:
    """The checked ids to compute logits for.

    Raises:
        ContextError: more ids than the context.
        GenerationError: an id outside the vocabulary, none at all, or not ids.
    """
    is_one = not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0  # pyright: ignore[reportUnnecessaryIsInstance]
    if is_one or isinstance(ids, str | bytes):
        raise GenerationError(f"Logits are of token ids, as tokenizer.encode makes them of a text: got {ids!r:.60}.")
    ids = check_ids(ids, config.vocab_size, "the text")
    if not ids:
        raise GenerationError("There are no logits of no tokens: give at least 1 id.")
    if len(ids) > config.n_positions:
        raise ContextError(
            f"The model has no logits of so long a text: it has {len(ids):,} tokens, and the context is "
            f"{config.n_positions:,}. Give a part of it."
        )
    return ids


def beginning(tokenizer: Tokenizer, *, score_first: bool) -> list[int]:
    """The ids put before a text: the end-of-text token if its first token is to be scored, else none.

    Raises:
        GenerationError: the tokenizer has none.
    """
    if not score_first:
        return []
    if tokenizer.eot is None:
        raise GenerationError(
            "The first token cannot be scored: this tokenizer has no end-of-text token to put before it. "
            "Leave it unscored (score_first=False)."
        )
    return [tokenizer.eot]


def default_stride(n_positions: int) -> int:
    """The default number of tokens by which the window moves: half the context."""
    return max(1, n_positions // 2)


def computed_tokens(n_tokens: int, *, stride: int, n_positions: int) -> int:
    """Tokens that `slide` computes to score `n_tokens`: each window recomputes part of the one before."""
    n_more_windows = max(0, math.ceil((n_tokens - n_positions) / stride))
    return n_tokens + n_more_windows * (n_positions - stride)


def slide(
    backend: Backend, ids: Sequence[int], *, stride: int, best: int = 0, logits: bool = False
) -> Iterator[Result]:
    """Results whose rows, in order, score ids[1:]; with `logits`, at most 128 rows at a time."""
    n_positions, n_rows = backend.config.n_positions, len(ids) - 1
    done = 0  # rows scored; row i is the prediction of ids[i + 1]
    slot = backend.new()
    try:
        for start in range(0, n_rows, stride):
            end = min(start + n_positions, n_rows)
            backend.truncate(slot, 0)
            for first in range(start, end, CHUNK_TOKENS):
                after = min(first + CHUNK_TOKENS, end)
                rows = max(0, after - max(first, done))
                targets = ids[after - rows + 1 : after + 1]
                want = Want(rows=rows, targets=targets, best=best, logits=logits) if rows else Want(rows=0)
                (result,) = backend.step([Work(slot=slot, tokens=ids[first:after], want=want)])
                if rows:
                    yield result
            done = end
            if done == n_rows:
                break
    finally:
        backend.free(slot)


@dataclass(slots=True)
class _Columns:
    logprobs: list[float] = field(default_factory=list[float])
    ranks: list[int] = field(default_factory=list[int])
    entropies: list[float] = field(default_factory=list[float])
    best: list[tuple[tuple[int, float], ...]] = field(default_factory=list[tuple[tuple[int, float], ...]])

    def add(self, result: Result) -> None:
        assert result.target_logprobs_R is not None
        assert result.target_ranks_R is not None
        assert result.entropies_R is not None
        self.logprobs += result.target_logprobs_R.tolist()
        self.ranks += result.target_ranks_R.tolist()
        self.entropies += result.entropies_R.tolist()
        self.best += best_of_rows(result)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
