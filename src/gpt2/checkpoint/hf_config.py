"""Hugging Face's `config.json`, to and from a `ModelConfig`.

A configuration can ask for much that GPT-2 does not have. Whatever changes the mathematics is refused by name: a model
that runs wrong is worse than one that does not run.
"""

from collections.abc import Mapping
from typing import Any

from gpt2.checkpoint.checkpoint import described_config
from gpt2.config import PUBLISHED, ModelConfig
from gpt2.errors import FormatError, MismatchError

DTYPE_NAME = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "int4": "int4"}

# `GPT2Config`'s defaults for missing keys: the smallest published model.
_DEFAULTS = PUBLISHED["gpt2"]
# `GPT2Config`'s aliases.
_OTHER_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
}
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


def config_from_json(raw: object, source: str) -> ModelConfig:
    """Read the parsed `config.json` that came from `source`.

    Raises:
        MismatchError: it describes another model than GPT-2, or an unsupported variant of it.
        FormatError: a value has the wrong type.
    """
    if not isinstance(raw, dict):
        raise FormatError(f"{source} is not a JSON object.")
    fields: dict[str, Any] = raw
    for difference in _differences(fields):
        raise MismatchError(f"{source} asks for what GPT-2 has not: {difference}. Such a model cannot be run here.")
    epsilon = fields.get("layer_norm_epsilon", _DEFAULTS.layer_norm_epsilon)
    if not isinstance(epsilon, (int, float)):
        raise FormatError(f"{source}: layer_norm_epsilon must be a number: got {str(epsilon)[:40]!r}.")
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    return described_config(
        source,
        **{name: _count(fields, name, source) for name in names},
        n_inner=0 if fields.get("n_inner") is None else fields["n_inner"],
        layer_norm_epsilon=epsilon,
    )


def _differences(fields: Mapping[str, Any]) -> list[str]:
    """Everything in a configuration that is not GPT-2, in words."""
    found: list[str] = []
    if fields.get("model_type") != "gpt2":
        found.append(f"model_type is {_shown(fields.get('model_type'))}, not 'gpt2'")
    if (activation := fields.get("activation_function", "gelu_new")) not in _TANH_GELU:
        found.append(f"activation_function is {_shown(activation)}, not the tanh form of GELU ({_TANH_GELU[0]})")
    for key, ours in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
        ("tie_word_embeddings", True),
    ):
        if (value := fields.get(key, ours)) is not ours:
            found.append(f"{key} is {_shown(value)}, not {ours}")
    if fields.get("pruned_heads"):
        found.append("pruned_heads is not empty")
    if fields.get("quantization_config"):
        found.append("quantization_config is set: the weights are packed by another library")
    return found


def _count(fields: Mapping[str, Any], name: str, source: str) -> Any:
    """A size under either of its names; `ModelConfig` checks the value."""
    other = _OTHER_NAMES.get(name)
    if other is None or other not in fields:
        return fields.get(name, getattr(_DEFAULTS, name))
    if fields.get(name, fields[other]) != fields[other]:
        raise FormatError(f"{source}: {name} is {_shown(fields[name])} and {other} is {_shown(fields[other])}.")
    return fields[other]


def _shown(value: object) -> str:
    return repr(value)[:60]


def config_to_json(config: ModelConfig, *, form: str, eot: int | None) -> dict[str, Any]:
    """The `config.json` of a model stored in `form`, key by key as Hugging Face writes it."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None if config.n_inner == 4 * config.n_embd else config.n_inner,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": DTYPE_NAME[form],
    }
