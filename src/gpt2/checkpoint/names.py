"""The one table of names: OpenAI's, Hugging Face's, and the shape of each array.

OpenAI's names are those of the released TensorFlow files without the leading `model/` and with dots for slashes;
Hugging Face's are those of `GPT2Model`, without the `transformer.` that `GPT2LMHeadModel` puts before them.
Both store a matrix as [in, out], so no file of either is ever transposed.

Axes: V vocabulary, T positions, D embedding, Q queries, keys and values side by side (3 D), F width of the MLP.
"""

from gpt2.config import ModelConfig

_BEFORE_BLOCKS = (
    ("wte", "wte.weight", "VD"),
    ("wpe", "wpe.weight", "TD"),
)
_BLOCK = (
    ("h.{i}.ln_1.g", "h.{i}.ln_1.weight", "D"),
    ("h.{i}.ln_1.b", "h.{i}.ln_1.bias", "D"),
    ("h.{i}.attn.c_attn.w", "h.{i}.attn.c_attn.weight", "DQ"),
    ("h.{i}.attn.c_attn.b", "h.{i}.attn.c_attn.bias", "Q"),
    ("h.{i}.attn.c_proj.w", "h.{i}.attn.c_proj.weight", "DD"),
    ("h.{i}.attn.c_proj.b", "h.{i}.attn.c_proj.bias", "D"),
    ("h.{i}.ln_2.g", "h.{i}.ln_2.weight", "D"),
    ("h.{i}.ln_2.b", "h.{i}.ln_2.bias", "D"),
    ("h.{i}.mlp.c_fc.w", "h.{i}.mlp.c_fc.weight", "DF"),
    ("h.{i}.mlp.c_fc.b", "h.{i}.mlp.c_fc.bias", "F"),
    ("h.{i}.mlp.c_proj.w", "h.{i}.mlp.c_proj.weight", "FD"),
    ("h.{i}.mlp.c_proj.b", "h.{i}.mlp.c_proj.bias", "D"),
)
_AFTER_BLOCKS = (
    ("ln_f.g", "ln_f.weight", "D"),
    ("ln_f.b", "ln_f.bias", "D"),
)

ARRAYS_PER_BLOCK = len(_BLOCK)
BLOCK_NAMES = tuple(openai.removeprefix("h.{i}.") for openai, _, _ in _BLOCK)


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every array of a GPT-2 by OpenAI's name, in the order of the computation, with its shape."""
    sizes = {
        "V": config.vocab_size,
        "T": config.n_positions,
        "D": config.n_embd,
        "Q": 3 * config.n_embd,
        "F": config.n_inner,
    }
    return {openai: tuple(sizes[axis] for axis in axes) for openai, _, axes in _table(config.n_layer)}


def huggingface_names(n_layer: int) -> dict[str, str]:
    """OpenAI's name of every array -> Hugging Face's, without the `transformer.` prefix."""
    return {openai: huggingface for openai, huggingface, _ in _table(n_layer)}


def _table(n_layer: int) -> list[tuple[str, str, str]]:
    blocks = [
        (openai.format(i=i), huggingface.format(i=i), axes)
        for i in range(n_layer)
        for openai, huggingface, axes in _BLOCK
    ]
    return [*_BEFORE_BLOCKS, *blocks, *_AFTER_BLOCKS]
