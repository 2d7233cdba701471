"""The shape of a GPT-2, seven numbers, and the published sizes.

Field names are those of the published `config.json`. Training, sampling and files have no settings here.
"""

from dataclasses import dataclass

from gpt2.errors import ConfigError, Gpt2Error

PUBLISHED_VOCAB_SIZE = 50257
PUBLISHED_N_POSITIONS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The shape of a GPT-2 (Radford et al. 2019, section 2.3).

    Attributes:
        n_layer: number of transformer blocks.
        n_head: attention heads per block; divides `n_embd`.
        n_embd: width of the residual stream.
        n_positions: length of the context, in tokens.
        vocab_size: number of token ids.
        n_inner: width of the MLP; 0 means `4 * n_embd`, and is resolved at once.
        layer_norm_epsilon: added to the variance in every layer norm.

    Raises:
        ConfigError: a value that no GPT-2 can have.
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int = PUBLISHED_N_POSITIONS
    vocab_size: int = PUBLISHED_VOCAB_SIZE
    n_inner: int = 0
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size"):
            _check_count(name, getattr(self, name), least=1)
        _check_count("n_inner", self.n_inner, least=0)
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd must be a multiple of n_head: got n_embd={self.n_embd}, n_head={self.n_head}. "
                f"Choose a number of heads that divides the width."
            )
        _check_epsilon(self.layer_norm_epsilon)
        if self.n_inner == 0:
            object.__setattr__(self, "n_inner", 4 * self.n_embd)

    @property
    def head_width(self) -> int:
        """Width of one attention head, `n_embd / n_head`."""
        return self.n_embd // self.n_head

    @property
    def parameters(self) -> int:
        """Number of trained parameters; the head is tied to the embedding, which counts once."""
        d, f = self.n_embd, self.n_inner
        attention = d * 3 * d + 3 * d + d * d + d
        mlp = d * f + f + f * d + d
        layer_norm = 2 * d
        blocks = self.n_layer * (attention + mlp + 2 * layer_norm)
        return (self.vocab_size + self.n_positions) * d + blocks + layer_norm


def _check_count(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number: got {value!r}.")
    if not least <= value <= 1 << 24:
        raise ConfigError(f"{name} must lie between {least} and {1 << 24}: got {value}.")


def _check_epsilon(value: object) -> None:
    if not isinstance(value, float | int) or not 0.0 < value < 1.0:
        raise ConfigError(f"layer_norm_epsilon must be a number between 0 and 1: got {value!r}. GPT-2's own is 1e-5.")


def truth_of(name: str, given: object, error: type[Gpt2Error]) -> bool:
    """The truth value that a caller gave for the boolean setting `name`.

    Raises:
        error: it has none, like an array of several values.
    """
    try:
        return bool(given)
    except Exception:  # a foreign `__bool__` may raise anything
        raise error(f"{name} is True or False: got {given!r:.60}.") from None


# Radford et al. 2019, table 2; heads from the released hparams.json files.
PUBLISHED = {
    "gpt2": ModelConfig(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": ModelConfig(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": ModelConfig(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": ModelConfig(n_layer=48, n_head=25, n_embd=1600),
}


def published_with_sizes() -> str:
    """The published models, each with its number of parameters, by which OpenAI's own code names them."""
    return ", ".join(f"{name} ({config.parameters / 1e6:.0f}M)" for name, config in PUBLISHED.items())
