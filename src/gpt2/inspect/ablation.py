"""Ablation: how the answer changes without a head, or without the MLP of a layer.

Each in turn outputs nothing, or its output for another text, and everything after it is computed again, so indirect
effects count too (Michel et al. 2019, "Are sixteen heads really better than one?"; with another text Wang et al. 2022,
"Interpretability in the wild").

Axes: L layers, H heads, T tokens, D embedding.
"""

from dataclasses import dataclass

import numpy as np

from gpt2.backends.definition import Array, Definition, Site
from gpt2.backends.seam import Floats, Want
from gpt2.inspect.pictures import by_part
from gpt2.inspect.reading import Text, one_token, read_pair
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ablation:
    """The natural log-probability of the answer, and what each ablation adds to it: negative if the part was needed.

    Attributes:
        pieces: of the text that was run.
        source_pieces: of the text whose values were substituted; empty if parts were set to zero.
        answer: the token whose probability is measured.
        before: its log-probability after the unchanged text.
        heads_LH: effect of changing one head, at all tokens.
        mlps_L: effect of changing all neurons of one MLP, at all tokens.
    """

    pieces: tuple[str, ...]
    source_pieces: tuple[str, ...]
    answer: int
    before: float
    heads_LH: Floats
    mlps_L: Floats

    def html(self) -> str:
        """A picture, one row per layer: what changing each head and the MLP adds to the log-probability."""
        done = "exchanged" if self.source_pieces else "silent"
        return by_part(
            self.heads_LH,
            self.mlps_L,
            caption=f"log-probability of the answer: {self.before:.2f}; what is added where one part is {done}",
        )

    def _repr_html_(self) -> str:  # for notebooks
        return self.html()


def ablate(
    definition: Definition, tokenizer: Tokenizer, text: Text, *, answer: str | int, source: Text | None = None
) -> Ablation:
    """Run a text without each head and each MLP in turn.

    This takes layers times (heads + 1) partial runs: for 124M, as much as some 80 whole ones.

    Args:
        definition: of the model.
        tokenizer: of the model.
        text: within the context, or ids.
        answer: one token, as its text (usually with a space before it) or id.
        source: a text with as many tokens, from which each part takes its values. Without it, a part is set to 0, and
            only the bias of its layer stays.

    Raises:
        ContextError: the text is longer than the context.
        GenerationError: an empty text, texts of different lengths, or an answer that is not one token.
        BackendError: the weights are damaged.
    """
    config = definition.config
    (ids, pieces), (source_ids, source_pieces) = read_pair(config, tokenizer, text, text if source is None else source)
    target = one_token(tokenizer, answer, config.vocab_size)
    residual = definition.look(ids, "residual")
    others = {} if source is None else definition.look(source_ids, "heads", "neurons")
    want = Want(rows=1, targets=[target])

    def logprob(last_TD: Floats) -> float:
        read = definition.head.read(last_TD[-1:], want)
        assert read.target_logprobs_R is not None
        return float(read.target_logprobs_R[0])

    def without(site: Site, layer: int, part: int | slice) -> float:
        def change(at: Site, at_layer: int, value: Array) -> Array:
            if (at, at_layer) != (site, layer):
                return value
            changed = value.copy()
            changed[part] = others[site, layer][part] if others else 0
            return changed

        return logprob(definition.go_on(layer, residual["residual", layer], change)) - before

    before = logprob(residual["residual", config.n_layer])
    heads_LH = np.array(
        [[without("heads", layer, head) for head in range(config.n_head)] for layer in range(config.n_layer)],
        np.float32,
    )
    mlps_L = np.array([without("neurons", layer, slice(None)) for layer in range(config.n_layer)], np.float32)
    return Ablation(
        pieces=pieces,
        source_pieces=() if source is None else source_pieces,
        answer=target,
        before=before,
        heads_LH=heads_LH,
        mlps_L=mlps_L,
    )
