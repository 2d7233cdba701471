"""Neurons: how active each hidden unit of the MLPs is at each token.

A neuron detects a pattern in the residual stream and, if it finds it, adds a vector of its own to the stream (Geva et
al. 2021, "Transformer feed-forward layers are key-value memories").

Axes: L layers, T tokens, F neurons of an MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.backends.definition import Definition
from gpt2.backends.seam import Floats
from gpt2.errors import GenerationError
from gpt2.generation.settings import checked_number
from gpt2.inspect.pictures import MOST_COLUMNS, of_last, shaded
from gpt2.inspect.reading import Text, chosen, place, read_tokens
from gpt2.tokenizer import Tokenizer

_MOST_BYTES = 1 << 30  # all neurons over the whole context: 151 MB for gpt2, 1.3 GB for gpt2-xl
_SHOWN = 12  # neurons in a picture


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neurons:
    """The neurons of some layers, after GELU: at least -0.17, and mostly near 0.

    Attributes:
        ids: the text's tokens.
        pieces: the label of each: its text, or its bytes if it is a part of a character before the last.
        layers: counted from 0.
        neurons_LTF: in the order of `layers`.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    layers: tuple[int, ...]
    neurons_LTF: Floats

    def of(self, layer: int, neuron: int) -> Floats:
        """One neuron over the text: [T].

        Raises:
            GenerationError: its layer was not requested, or there is no such neuron.
        """
        [neuron] = chosen("neuron", checked_number("neuron", neuron, whole=True), self.neurons_LTF.shape[2])
        return self.neurons_LTF[place("layer", layer, self.layers), :, neuron]

    def strongest(self, count: int = 10) -> list[tuple[int, int]]:
        """The (layer, neuron) pairs that are most active at any token except the first, most active first.

        At the first token the same few neurons dominate in every text, and more than any elsewhere.
        """
        count = checked_number("count", count, whole=True, limits={"least": 0})
        return self._strongest(count, 1)

    def _strongest(self, count: int, first: int) -> list[tuple[int, int]]:
        first = min(first, len(self.ids) - 1)  # a text of one token has only that one
        most_LF = self.neurons_LTF[:, first:].max(axis=1)
        order = np.argsort(-most_LF, axis=None, kind="stable")[:count].tolist()
        return [(self.layers[place // most_LF.shape[1]], place % most_LF.shape[1]) for place in order]

    def html(self) -> str:
        """A picture, one row per neuron: those most active at the tokens shown, not counting the text's first."""
        first = max(0, len(self.ids) - MOST_COLUMNS)
        pairs = self._strongest(_SHOWN, max(1, first))
        values_RT = np.array([self.of(*pair)[first:] for pair in pairs])
        return shaded(
            values_RT,
            [[f"{value:.1f}" if value >= 0.5 else "" for value in row] for row in values_RT.tolist()],
            rows=[f"{layer}.{neuron}" for layer, neuron in pairs],
            columns=self.pieces[first:],
            caption=f"the most active neurons, layer.neuron{of_last(len(self.ids) - first, len(self.ids))}",
            most=float(values_RT.max(initial=0)),
        )

    def _repr_html_(self) -> str:  # for notebooks
        return self.html()


def neurons(
    definition: Definition, tokenizer: Tokenizer, text: Text, *, layer: Sequence[int] | int | None = None
) -> Neurons:
    """Compute the neurons of a text, or ids.

    Args:
        definition: of the model.
        tokenizer: of the model.
        text: within the context.
        layer: one or several; all by default.

    Raises:
        ContextError: the text is longer than the context.
        GenerationError: an empty text, no such layer, or more than 1 GB of neurons.
    """
    config = definition.config
    ids, pieces = read_tokens(config, tokenizer, text)
    layers = chosen("layer", layer, config.n_layer)
    n_bytes = 4 * len(layers) * len(ids) * config.n_inner
    if n_bytes > _MOST_BYTES:
        raise GenerationError(
            f"The neurons of {len(layers)} layers cannot be had at once: over {len(ids):,} tokens they take "
            f"{n_bytes / 1e9:.1f} GB, and 1.1 GB are allowed. Name layers, or give a shorter text."
        )
    seen = definition.look(ids, "neurons", layers=layers)
    neurons_LTF = np.empty((len(layers), len(ids), config.n_inner), np.float32)
    for index, each in enumerate(layers):
        neurons_LTF[index] = seen["neurons", each]
    return Neurons(ids=ids, pieces=pieces, layers=layers, neurons_LTF=neurons_LTF)
