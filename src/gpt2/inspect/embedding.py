"""Embeds a text as one vector: the last layer's states after the last layer norm, pooled over tokens.

GPT-2 was not trained for this: texts of similar meaning tend to have similar vectors, but a model made for search does
better. The last token has seen the whole text; the mean keeps more of its words.

Axes: N texts, T tokens, D embedding.
"""

from collections.abc import Iterable

import numpy as np

from gpt2.backends.head import Head
from gpt2.backends.seam import Backend, Floats
from gpt2.errors import GenerationError
from gpt2.generation.prompts import said_of
from gpt2.inspect.reading import Text
from gpt2.inspect.residual import activations
from gpt2.tokenizer import Tokenizer


def embed(
    backend: Backend, head: Head, tokenizer: Tokenizer, texts: str | Iterable[Text], *, pooling: str = "mean"
) -> Floats:
    """A text as a vector, [D], or several as rows, [N, D].

    Args:
        backend: any.
        head: of the same model.
        tokenizer: of the same model.
        texts: one text, or several texts or ids, each within the context.
        pooling: the mean over the tokens, or the last token's state.

    Raises:
        ContextError: a text is longer than the context.
        GenerationError: an empty text, or no such pooling.
    """
    if isinstance(texts, str | bytes):
        return embed(backend, head, tokenizer, [texts], pooling=pooling)[0]
    if not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) == 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise GenerationError(f"What is to be embedded is a text or several: got {texts!r:.60}.")
    texts = list(texts)
    if not isinstance(pooling, str) or pooling not in ("mean", "last"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise GenerationError(f"Tokens cannot be pooled by {pooling!r}: say mean or last.")
    vectors_ND = np.empty((len(texts), backend.config.n_embd), np.float32)
    for n, text in enumerate(texts):
        with said_of(f"text {n + 1:,} of {len(texts):,}" if len(texts) > 1 else ""):
            [last_TD] = activations(backend, tokenizer, text, depths=backend.config.n_layer).residual_LTD
        states_TD = head.normed(last_TD)
        vectors_ND[n] = states_TD.mean(axis=0) if pooling == "mean" else states_TD[-1]
    return vectors_ND
