"""GPT-2, defined in NumPy: the page to learn it from, and the definition that all other code here must equal.

A GPT-2 reads T tokens and gives, after each of them, a score (logit) to every token that might come next. Each
token starts as a vector of D numbers, the residual stream. A block adds to it twice: what attention fetches
from earlier tokens, and what an MLP computes from each token alone. At the end the stream is compared with the
vector of every token in the vocabulary.

Axes: T tokens given now, S tokens so far with those already read (S >= T), V vocabulary, D embedding,
F the MLP's width, H heads, K = D / H the width of a head.

`arrays` holds the weights under OpenAI's names, all float32 or all float64; matrices are [in, out]. Results have
the same type. Layer norms come before attention and MLP, not after as in the first Transformer and GPT: that,
the norm at the end and the longer context are GPT-2's changes (Radford et al. 2019, "Language
Models are Unsupervised Multitask Learners", section 2.3; released code: openai/gpt-2, src/model.py).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt2.config import ModelConfig

Array = NDArray[Any]
Arrays = Mapping[str, Array]

# The one hook into the computation: it is called with each value, and what it returns is used instead.
# Returning the value unchanged traces it; returning another patches it; answering the keys and values of
# T new tokens with those of all S tokens so far makes a cache.
Site = Literal["residual", "keys", "values", "attention", "heads", "neurons"]
At = Callable[[Site, int, Array], Array]


def unchanged(site: Site, layer: int, value: Array) -> Array:
    """The hook that does nothing."""
    return value


def logits(config: ModelConfig, arrays: Arrays, ids_T: ArrayLike) -> Array:
    """Logits of the token after each token: [T] -> [T, V]. The head is the token embedding again ("tied")."""
    return hidden(config, arrays, ids_T) @ arrays["wte"].T  # [T, D] @ [D, V] -> [T, V]


def hidden(config: ModelConfig, arrays: Arrays, ids_T: ArrayLike, *, past: int = 0, at: At = unchanged) -> Array:
    """The residual stream after the last layer norm: [T] -> [T, D].

    Args:
        config: the shape.
        arrays: the weights.
        ids_T: token ids, at most `n_positions - past` of them.
        past: how many tokens were read before; `at` must then return their keys and values before the new ones.
        at: called as at("residual", depth, x_TD), depth 0 being the embedding and i the output of block i,
            and for layers counted from 0 as at("keys", layer, k_HTK), at("values", layer, v_HTK),
            at("attention", layer, weights_HTS), at("heads", layer, mixed_HTK) and at("neurons", layer, h_TF).
    """
    ids_T = np.asarray(ids_T)
    x_TD = arrays["wte"][ids_T] + arrays["wpe"][past : past + len(ids_T)]  # token + position
    x_TD = at("residual", 0, x_TD)
    for layer in range(config.n_layer):
        x_TD = block(config, arrays, layer, x_TD, at)  # [T, D] -> [T, D]
        x_TD = at("residual", layer + 1, x_TD)
    return layer_norm(x_TD, arrays["ln_f.g"], arrays["ln_f.b"], config.layer_norm_epsilon)  # [T, D]


def block(config: ModelConfig, arrays: Arrays, layer: int, x_TD: Array, at: At = unchanged) -> Array:
    """One transformer block, pre-norm: [T, D] -> [T, D]."""
    name, epsilon = f"h.{layer}", config.layer_norm_epsilon
    normed_TD = layer_norm(x_TD, arrays[f"{name}.ln_1.g"], arrays[f"{name}.ln_1.b"], epsilon)
    x_TD = x_TD + attention(config, arrays, layer, normed_TD, at)
    normed_TD = layer_norm(x_TD, arrays[f"{name}.ln_2.g"], arrays[f"{name}.ln_2.b"], epsilon)
    return x_TD + mlp(arrays, layer, normed_TD, at)


def attention(config: ModelConfig, arrays: Arrays, layer: int, x_TD: Array, at: At = unchanged) -> Array:
    """Causal multi-head self-attention: [T, D] -> [T, D] (Vaswani et al. 2017, section 3.2)."""
    name = f"h.{layer}.attn"
    qkv_TE = linear(x_TD, arrays[f"{name}.c_attn.w"], arrays[f"{name}.c_attn.b"])  # [T, D] -> [T, 3D]
    q_HTK, k_HTK, v_HTK = (heads(part_TD, config.n_head) for part_TD in np.split(qkv_TE, 3, axis=-1))
    k_HSK, v_HSK = at("keys", layer, k_HTK), at("values", layer, v_HTK)

    scores_HTS = q_HTK @ k_HSK.swapaxes(1, 2) / math.sqrt(config.head_width)  # [H, T, K] @ [H, K, S] -> [H, T, S]
    T, S = scores_HTS.shape[1:]
    future_TS = np.arange(S) > np.arange(S - T, S)[:, None]  # [S] > [T, 1] -> [T, S]
    weights_HTS = at("attention", layer, softmax(np.where(future_TS, -np.inf, scores_HTS)))

    mixed_HTK = at("heads", layer, weights_HTS @ v_HSK)  # [H, T, S] @ [H, S, K] -> [H, T, K]
    mixed_TD = mixed_HTK.swapaxes(0, 1).reshape(x_TD.shape)  # [H, T, K] -> [T, H, K] -> [T, D]
    return linear(mixed_TD, arrays[f"{name}.c_proj.w"], arrays[f"{name}.c_proj.b"])  # [T, D] -> [T, D]


def heads(x_TD: Array, n_head: int) -> Array:
    """Give each head its own slice of the width: [T, D] -> [H, T, K]."""
    return x_TD.reshape(len(x_TD), n_head, -1).swapaxes(0, 1)  # [T, D] -> [T, H, K] -> [H, T, K]


def mlp(arrays: Arrays, layer: int, x_TD: Array, at: At = unchanged) -> Array:
    """Two linear maps with GELU between them, for each token alone: [T, D] -> [T, D]."""
    name = f"h.{layer}.mlp"
    h_TF = gelu(linear(x_TD, arrays[f"{name}.c_fc.w"], arrays[f"{name}.c_fc.b"]))  # [T, D] -> [T, F]
    h_TF = at("neurons", layer, h_TF)
    return linear(h_TF, arrays[f"{name}.c_proj.w"], arrays[f"{name}.c_proj.b"])  # [T, F] -> [T, D]


def linear(x_TI: Array, w_IO: Array, b_O: Array) -> Array:
    """[T, in] @ [in, out] + [out] -> [T, out]."""
    return x_TI @ w_IO + b_O


def layer_norm(x_TD: Array, g_D: Array, b_D: Array, epsilon: float) -> Array:
    """Mean 0 and variance 1 along D, then gain and bias: [T, D] -> [T, D] (Ba et al. 2016, section 3)."""
    centred_TD = x_TD - x_TD.mean(axis=-1, keepdims=True)  # [T, D] - [T, 1]
    variance_T1 = (centred_TD * centred_TD).mean(axis=-1, keepdims=True)  # [T, 1], biased
    return centred_TD / np.sqrt(variance_T1 + epsilon) * g_D + b_D


def gelu(x: Array) -> Array:
    """GELU in its tanh form, any shape (Hendrycks and Gimpel 2016, section 2); the erf form is not GPT-2's."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def softmax(x: Array) -> Array:
    """Positive weights that sum to 1 along the last axis; subtracting the maximum keeps exp from overflowing."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
