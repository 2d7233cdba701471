"""The logit lens: what the model would predict next if it stopped after each layer.

The last layer norm and the head are applied to every depth of the residual stream (nostalgebraist 2020,
"interpreting GPT: the logit lens"). The last depth is the model's own prediction.

Axes: L depths, T tokens, K best tokens, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2.backends.head import Head
from gpt2.backends.seam import Backend, Floats, Ints, Trace, Want
from gpt2.errors import GenerationError
from gpt2.generation.settings import checked_number
from gpt2.inspect.pictures import MOST_COLUMNS, of_last, shaded
from gpt2.inspect.reading import Text, chosen, read_tokens, run
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.labels import label, unfinished


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lens:
    """What each depth predicts after each token.

    Column t is read at token t. The arrays about the actual next token are about token t + 1, so they lack the last
    column.

    Attributes:
        ids: the text's tokens.
        pieces: the label of each: its text, or its bytes if it is a part of a character before the last.
        depths: 0 is the embedding, i the output of block i.
        best_ids_LTK: the most likely next tokens, most likely first.
        best_logprobs_LTK: their log-probabilities, natural.
        guesses_LT: the label of the most likely one, if any were requested.
        ranks_LR: of the actual next token, R = T - 1 of them; 0 is the most likely.
        logprobs_LR: of the actual next token.
        entropies_LT: of the prediction, in nats.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    depths: tuple[int, ...]
    best_ids_LTK: Ints
    best_logprobs_LTK: Floats
    guesses_LT: tuple[tuple[str, ...], ...]
    ranks_LR: Ints
    logprobs_LR: Floats
    entropies_LT: Floats

    def html(self) -> str:
        """A picture, one row per depth: the guess after each token, darker if more certain."""
        if not self.guesses_LT:
            raise GenerationError("There is no picture of a lens without guesses: ask for best=1 at least.")
        first = max(0, len(self.ids) - MOST_COLUMNS)
        said = of_last(len(self.ids) - first, len(self.ids))
        return shaded(
            np.exp(self.best_logprobs_LTK[:, first:, 0]),
            [guesses[first:] for guesses in self.guesses_LT],
            rows=["embedding" if depth == 0 else f"block {depth}" for depth in self.depths],
            columns=self.pieces[first:],
            caption=f"what would come after each token, if the model stopped there{said}",
            most=1.0,
        )

    def _repr_html_(self) -> str | None:  # for notebooks
        return self.html() if self.guesses_LT else None


def logit_lens(
    backend: Backend,
    head: Head,
    tokenizer: Tokenizer,
    text: Text,
    *,
    depths: Sequence[int] | int | None = None,
    best: int = 10,
) -> Lens:
    """Read every depth of a text, or ids, through the head.

    Args:
        backend: any; every backend traces.
        head: of the same weights.
        tokenizer: of the model.
        text: within the context.
        depths: all by default.
        best: how many of the most likely tokens to keep.

    Raises:
        ContextError: the text is longer than the context.
        GenerationError: an empty text, no such depth, or `best` below 0.
    """
    best = checked_number("best", best, whole=True, limits={"least": 0})
    ids, pieces = read_tokens(backend.config, tokenizer, text)
    wanted = chosen("depth", depths, backend.config.n_layer + 1)
    L, T, K = len(wanted), len(ids), min(best, backend.config.vocab_size)
    traced = run(backend, ids, Want(rows=T, trace=Trace(residual=wanted)))
    want = Want(rows=T, best=best, targets=[*ids[1:], 0])  # the last token has no next one: its column is dropped
    lens = Lens(
        ids=ids,
        pieces=pieces,
        depths=wanted,
        best_ids_LTK=np.empty((L, T, K), np.int32),
        best_logprobs_LTK=np.empty((L, T, K), np.float32),
        guesses_LT=(),
        ranks_LR=np.empty((L, T - 1), np.int32),
        logprobs_LR=np.empty((L, T - 1), np.float32),
        entropies_LT=np.empty((L, T), np.float32),
    )
    for index, depth in enumerate(wanted):
        read = head.read(traced.residual[depth], want)
        assert read.target_ranks_R is not None
        assert read.target_logprobs_R is not None
        assert read.entropies_R is not None
        lens.ranks_LR[index], lens.logprobs_LR[index] = read.target_ranks_R[:-1], read.target_logprobs_R[:-1]
        lens.entropies_LT[index] = read.entropies_R
        if read.best_ids_RK is not None and read.best_logprobs_RK is not None:
            lens.best_ids_LTK[index], lens.best_logprobs_LTK[index] = read.best_ids_RK, read.best_logprobs_RK
    if not K:
        return lens
    rests_T = unfinished(tokenizer, ids)
    guesses_LT = tuple(
        tuple(label(tokenizer, guess, after=rest) for guess, rest in zip(guesses_T, rests_T, strict=True))
        for guesses_T in lens.best_ids_LTK[:, :, 0].tolist()
    )
    return replace(lens, guesses_LT=guesses_LT)
