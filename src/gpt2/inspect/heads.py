"""Attention: how much each token attends to each token before it, by layer and head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.backends.seam import Backend, Floats, Trace, Want
from gpt2.errors import GenerationError
from gpt2.generation.settings import checked_number
from gpt2.inspect.pictures import MOST_CELLS, MOST_COLUMNS, of_last, shaded, small
from gpt2.inspect.reading import Text, chosen, place, read_tokens, run
from gpt2.tokenizer import Tokenizer

_MOST_BYTES = 1 << 30  # all of gpt2's 144 heads over its whole context are 604 MB


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attention:
    """Attention weights of some heads.

    Attributes:
        ids: the text's tokens.
        pieces: the label of each: its text, or its bytes if it is a part of a character before the last.
        layers: counted from 0.
        heads: of each of these layers.
        rows: positions of the attending tokens.
        weights_LHRT: their weights over all tokens; a row sums to 1, and is 0 for later tokens.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    rows: range
    weights_LHRT: Floats

    def of(self, layer: int, head: int) -> Floats:
        """The weights of one head: [R, T].

        Raises:
            GenerationError: its layer or head was not requested.
        """
        return self.weights_LHRT[place("layer", layer, self.layers), place("head", head, self.heads)]

    def html(self) -> str:
        """A picture: for one head a table with a row per attending token; for several a small square each."""
        pairs = [(layer, head) for layer in self.layers for head in self.heads]
        first = max(0, len(self.ids) - MOST_COLUMNS)
        first_row = max(0, first - self.rows.start)
        n_rows, columns = len(self.rows) - first_row, self.pieces[first:]
        said = of_last(len(columns), len(self.ids))
        if len(pairs) > 1:
            pairs, all_pairs = pairs[: max(1, MOST_CELLS // (n_rows * len(columns)))], pairs
            squares = (small(self.of(*pair)[first_row:, first:], caption=f"{pair[0]}.{pair[1]}") for pair in pairs)
            if len(pairs) < len(all_pairs):
                said += f"; {len(pairs)} of {len(all_pairs)} heads"
            said = f"Each square is a head, layer.head; its rows look at its columns{said}. Name one for more."
            return f"<div><p>{said}</p>{''.join(squares)}</div>"
        weights_RT = self.of(*pairs[0])[first_row:, first:]
        return shaded(
            weights_RT,
            [[f"{weight:.2f}".lstrip("0") if weight >= 0.05 else "" for weight in row] for row in weights_RT.tolist()],
            rows=[self.pieces[row] for row in self.rows[first_row:]],
            columns=columns,
            caption=f"layer {pairs[0][0]}, head {pairs[0][1]}: what each token (a row) takes from each before it{said}",
            most=1.0,
        )

    def _repr_html_(self) -> str:  # for notebooks
        return self.html()


def attention(
    backend: Backend,
    tokenizer: Tokenizer,
    text: Text,
    *,
    layer: Sequence[int] | int | None = None,
    head: Sequence[int] | int | None = None,
    last: int | None = None,
) -> Attention:
    """Trace the attention weights of a text, or ids.

    Args:
        backend: any; every backend traces.
        tokenizer: of the model.
        text: within the context.
        layer: one or several; all by default.
        head: one or several; all by default.
        last: only the rows of this many tokens at the end; all by default.

    Raises:
        ContextError: the text is longer than the context.
        GenerationError: an empty text, no such layer, head or row, or more than 1 GB of weights.
    """
    ids, pieces = read_tokens(backend.config, tokenizer, text)
    layers = chosen("layer", layer, backend.config.n_layer)
    heads = chosen("head", head, backend.config.n_head)
    T = len(ids)
    R = T if last is None else checked_number("last", last, whole=True)
    if not 1 <= R <= T:
        raise GenerationError(f"The last {R:,} rows cannot be had: the text has {T:,} tokens. Ask for 1 to {T:,}.")
    n_bytes = 4 * len(layers) * len(heads) * R * T
    if n_bytes > _MOST_BYTES:
        raise GenerationError(
            f"The attention of {len(layers)} layers of {len(heads)} heads cannot be had at once: over {R:,} rows of "
            f"{T:,} tokens it takes {n_bytes / 1e9:.1f} GB, and 1.1 GB are allowed. Name layers, heads or `last`."
        )
    wanted = tuple((layer, head) for layer in layers for head in heads)
    result = run(backend, ids, Want(rows=R, trace=Trace(attention=wanted)))
    weights_LHRT = np.empty((len(layers), len(heads), R, T), np.float32)
    for index, pair in enumerate(wanted):
        weights_LHRT[divmod(index, len(heads))] = result.attention.pop(pair)
    return Attention(
        ids=ids, pieces=pieces, layers=layers, heads=heads, rows=range(T - R, T), weights_LHRT=weights_LHRT
    )
