"""Direct logit attribution: how much each part of the model adds to a token's logit.

The residual stream before the last layer norm is a sum: the embedding, and the outputs of each head and each MLP
(Elhage et al. 2021, "A mathematical framework for transformer circuits"). The norm divides the sum by one number and
the head is linear, so the logit is a sum over the same parts. Only direct effects count: a head that acts through
other parts is visible to `ablate`, not here.

Axes: L layers, H heads, K width of a head, F neurons of an MLP, D embedding.
"""

from dataclasses import dataclass

import numpy as np

from gpt2.backends.definition import Definition
from gpt2.backends.seam import Floats
from gpt2.errors import BackendError
from gpt2.generation.settings import checked_number
from gpt2.inspect.pictures import by_part
from gpt2.inspect.reading import Text, one_token, read_tokens
from gpt2.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attribution:
    """What each part adds to the logit of `answer` after a text, or to its lead over the logit of `against`.

    A part adds to the logits of all tokens at once, and only differences between logits matter, so the numbers are
    more informative with `against`.

    Attributes:
        ids: the text's tokens.
        pieces: the label of each: its text, or its bytes if it is a part of a character before the last.
        answer: the token whose logit is divided.
        against: another token, or None.
        token: contribution of the last token's embedding.
        position: contribution of its position embedding.
        heads_LH: of each head.
        neurons_LF: of each neuron of the MLPs.
        mlps_L: of each MLP: its neurons and its bias.
        biases: the rest, which is the same after any text: biases of attention and of the last norm.
        total: the logit, or difference of logits: the sum of all these except the neurons.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    answer: int
    against: int | None
    token: float
    position: float
    heads_LH: Floats
    neurons_LF: Floats
    mlps_L: Floats
    biases: float
    total: float

    def strongest(self, count: int = 10) -> list[tuple[str, float]]:
        """The parts that add or subtract most, by name ("head 3.7": fourth layer, eighth head), strongest first."""
        count = checked_number("count", count, whole=True, limits={"least": 0})
        parts = {"token": self.token, "position": self.position}
        parts |= {f"head {layer}.{head}": float(value) for (layer, head), value in np.ndenumerate(self.heads_LH)}
        parts |= {f"mlp {layer}": float(value) for layer, value in enumerate(self.mlps_L)}
        return sorted(parts.items(), key=lambda part: -abs(part[1]))[:count]

    def html(self) -> str:
        """A picture, one row per layer: what each head and the MLP add."""
        what = "the logit of the answer" if self.against is None else "how far the answer's logit is above the other's"
        return by_part(
            self.heads_LH,
            self.mlps_L,
            caption=f"what each part adds to {what}, {self.total:.2f} in all: the token's embedding {self.token:.2f}, "
            f"its position {self.position:.2f}, biases {self.biases:.2f}",
        )

    def _repr_html_(self) -> str:  # for notebooks
        return self.html()


def attribute(
    definition: Definition, tokenizer: Tokenizer, text: Text, *, answer: str | int, against: str | int | None = None
) -> Attribution:
    """Divide the logit of the token after a text among the parts of the model.

    Args:
        definition: of the model.
        tokenizer: of the model.
        text: within the context, or ids.
        answer: one token, as its text (usually with a space before it) or id.
        against: another token; without it, the answer's logit itself is divided.

    Raises:
        ContextError: the text is longer than the context.
        GenerationError: an empty text, or an answer that is not one token.
        BackendError: the weights are damaged.
    """
    config, arrays = definition.config, definition.arrays
    ids, pieces = read_tokens(config, tokenizer, text)
    target = one_token(tokenizer, answer, config.vocab_size)
    other = None if against is None else one_token(tokenizer, against, config.vocab_size)
    seen = definition.look(ids, "residual", "heads", "neurons", rows=slice(-1, None))
    [last_D] = seen["residual", config.n_layer]
    read = (last_D, arrays["ln_f.g"], arrays["ln_f.b"], *(arrays["wte"][t] for t in (target, other) if t is not None))
    if not all(np.isfinite(each).all() for each in read):
        raise BackendError("the logit is no finite number: the weights are damaged. Fetch or convert them anew.")

    # The logit is w . (g (x - mean x) / s + b), which is x . direction + w . b, once s is known.
    w_D = arrays["wte"][target] - (0 if other is None else arrays["wte"][other])
    direction_D = arrays["ln_f.g"] * w_D
    scale = np.sqrt(last_D.var() + config.layer_norm_epsilon)
    direction_D = (direction_D - direction_D.mean()) / scale

    heads_LH = np.empty((config.n_layer, config.n_head), np.float32)
    neurons_LF = np.empty((config.n_layer, config.n_inner), np.float32)
    mlps_L = np.empty(config.n_layer, np.float32)
    biases = float(w_D @ arrays["ln_f.b"])
    for layer in range(config.n_layer):
        of_heads_HK = (arrays[f"h.{layer}.attn.c_proj.w"] @ direction_D).reshape(config.n_head, -1)  # [D, D] @ [D]
        heads_LH[layer] = (seen["heads", layer][:, 0] * of_heads_HK).sum(axis=-1)
        neurons_LF[layer] = seen["neurons", layer][0] * (arrays[f"h.{layer}.mlp.c_proj.w"] @ direction_D)
        mlps_L[layer] = neurons_LF[layer].sum() + arrays[f"h.{layer}.mlp.c_proj.b"] @ direction_D
        biases += float(arrays[f"h.{layer}.attn.c_proj.b"] @ direction_D)
    token = float(arrays["wte"][ids[-1]] @ direction_D)
    position = float(arrays["wpe"][len(ids) - 1] @ direction_D)
    return Attribution(
        ids=ids,
        pieces=pieces,
        answer=target,
        against=other,
        token=token,
        position=position,
        heads_LH=heads_LH,
        neurons_LF=neurons_LF,
        mlps_L=mlps_L,
        biases=biases,
        total=token + position + float(heads_LH.sum()) + float(mlps_L.sum()) + biases,
    )
