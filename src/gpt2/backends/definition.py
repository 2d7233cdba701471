"""GPT-2's definition on a model's weights, for traces and interventions that no backend offers.

It runs `model/reference.py` in NumPy and fp32, without a cache, and exposes its hook `at`.

Axes: T tokens, D embedding, V vocabulary.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gpt2.backends.head import Head
from gpt2.backends.seam import Floats, Source
from gpt2.errors import GenerationError
from gpt2.model import reference
from gpt2.model.reference import Array, At, Site

__all__ = ["Array", "Arrays", "At", "Definition", "Site"]


class Arrays(dict[str, Array]):
    """A model's arrays by OpenAI's names, each fetched on first use; also a `Source`."""

    def __init__(self, weights: Source) -> None:
        super().__init__()
        self.config = weights.config
        self._weights = weights

    def __missing__(self, name: str) -> Array:
        self[name] = array = self._weights.float32(name)
        return array

    def float32(self, name: str) -> Array:
        """See `Source`."""
        return self[name]


class Definition:
    """A model whose every intermediate value can be read and changed.

    Attributes:
        config: its shape.
        arrays: its weights, read when first used.
        head: its last layer norm and tied embedding.
    """

    def __init__(self, weights: Source) -> None:
        self.config = weights.config
        self.arrays = Arrays(weights)
        self.head = Head(self.arrays)

    def logits(self, ids: Sequence[int], at: At) -> Floats:
        """The next-token logits after each of `ids`, [T, V], with the hook `at` applied.

        Raises:
            GenerationError: `at` returned no array of the value's shape.
        """

        def checked(site: Site, layer: int, value: Array) -> Array:
            shape = value.shape
            used: Any = at(site, layer, value)  # user code, which easily forgets `return value`
            may_grow = site in ("keys", "values")  # by the keys or values of earlier tokens
            if not isinstance(used, np.ndarray) or (used.shape != shape and not may_grow):
                got = f"an array of {used.shape}" if isinstance(used, np.ndarray) else f"{used!r:.60}"
                raise GenerationError(
                    f"What `at` returned cannot be used as {site} {layer}: got {got}. "
                    f"It must return an array of {shape}: `value`, where nothing is to change."
                )
            return used

        with _quiet():
            return reference.hidden(self.config, self.arrays, ids, at=checked) @ self.arrays["wte"].T

    def look(
        self, ids: Sequence[int], *sites: Site, layers: Collection[int] | None = None, rows: slice = slice(None)
    ) -> dict[tuple[Site, int], Floats]:
        """The values of one run at these sites, keyed by site and layer (or depth).

        Args:
            ids: the text's tokens.
            sites: named as in the definition.
            layers: all by default.
            rows: which tokens.
        """
        seen: dict[tuple[Site, int], Floats] = {}

        def keep(site: Site, layer: int, value: Array) -> Array:
            if site in sites and (layers is None or layer in layers):
                seen[site, layer] = value[..., rows, :].copy()
            return value

        with _quiet():
            reference.hidden(self.config, self.arrays, ids, at=keep)
        return seen

    def go_on(self, layer: int, x_TD: Floats, at: At) -> Floats:
        """Run the blocks from `layer` on: the residual stream after the last block, [T, D]."""
        with _quiet():
            for each in range(layer, self.config.n_layer):
                x_TD = reference.block(self.config, self.arrays, each, x_TD, at)
        return x_TD


def _quiet() -> np.errstate:
    """Silence overflow from damaged weights: the result is NaN, which its reader refuses."""
    return np.errstate(over="ignore", invalid="ignore")
