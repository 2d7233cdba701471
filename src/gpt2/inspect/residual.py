"""The residual stream: each token's vector, from the embedding through every block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.backends.seam import Backend, Floats, Trace, Want
from gpt2.inspect.reading import Text, chosen, read_tokens, run
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Activations:
    """The residual stream at some depths.

    Attributes:
        ids: the text's tokens.
        pieces: the label of each: its text, or its bytes if it is a part of a character before the last.
        depths: 0 is the embedding, i the output of block i.
        residual_LTD: in the order of `depths`, before the last layer norm.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    depths: tuple[int, ...]
    residual_LTD: Floats


def activations(
    backend: Backend, tokenizer: Tokenizer, text: Text, *, depths: Sequence[int] | int | None = None
) -> Activations:
    """Trace the residual stream of a text, or ids.

    Args:
        backend: any; every backend traces.
        tokenizer: of the model.
        text: within the context.
        depths: all by default.

    Raises:
        ContextError: the text is longer than the context.
        GenerationError: an empty text, or no such depth.
    """
    ids, pieces = read_tokens(backend.config, tokenizer, text)
    wanted = chosen("depth", depths, backend.config.n_layer + 1)
    result = run(backend, ids, Want(rows=len(ids), trace=Trace(residual=wanted)))
    residual_LTD = np.empty((len(wanted), len(ids), backend.config.n_embd), np.float32)
    for index, depth in enumerate(wanted):
        residual_LTD[index] = result.residual[depth]
    return Activations(ids=ids, pieces=pieces, depths=wanted, residual_LTD=residual_LTD)
