"""GPT-2's blocks as operations of an ONNX graph.

Axes: B sequences, T tokens, S positions before them, H heads of width K, D embedding.
"""

from collections.abc import Callable, Sequence

import numpy as np

from gpt2.checkpoint.onnx_file import Graph
from gpt2.config import ModelConfig

Named = Callable[[str], str]  # from our name of an array to the graph's name of its float32 values
Linear = Callable[[str, str], str]  # from an input and our name of a map to the map's output

HIDDEN = -1e9  # added to the score of a masked position


def blocks(
    graph: Graph,
    config: ModelConfig,
    x_BTD: str,
    hidden: str,
    past: Sequence[tuple[str, str]],
    present: Sequence[tuple[str, str]],
    *,
    vector: Named,
    linear: Linear,
) -> str:
    """Every block and the last norm: [B, T, D] -> [B, T, D].

    Args:
        graph: receives the operations.
        config: of the model.
        x_BTD: the embedded tokens.
        hidden: the mask added to scores, broadcast to [B, H, T, S + T]: 0 or `HIDDEN`.
        past: each layer's earlier keys and values, [B, H, S, K].
        present: the names for these with the tokens' own appended, [B, H, S + T, K].
        vector: names a bias or the gain of a norm.
        linear: adds one of the four maps of a block.
    """
    H, K, D = config.n_head, config.head_width, config.n_embd
    op = graph.op
    scale = graph.constant("scale", np.float32(K**-0.5))

    def norm(x: str, name: str) -> str:
        gain, bias = vector(f"{name}.g"), vector(f"{name}.b")
        return op("LayerNormalization", x, gain, bias, epsilon=config.layer_norm_epsilon)

    def heads(x: str) -> str:
        return op("Transpose", op("Reshape", x, graph.whole(0, 0, H, K)), perm=[0, 2, 1, 3])

    for layer, (keys, values) in enumerate(past):
        parts = [f"h.{layer}.{part}" for part in "qkv"]
        op(
            "Split",
            linear(norm(x_BTD, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"),
            graph.whole(D, D, D),
            names=parts,
            axis=2,
        )
        q, k, v = map(heads, parts)
        keys = op("Concat", keys, k, names=[present[layer][0]], axis=2)
        values = op("Concat", values, v, names=[present[layer][1]], axis=2)
        scores = op("Mul", op("MatMul", q, op("Transpose", keys, perm=[0, 1, 3, 2])), scale)
        mixed = op("MatMul", op("Softmax", op("Add", scores, hidden), axis=-1), values)
        joined = op("Reshape", op("Transpose", mixed, perm=[0, 2, 1, 3]), graph.whole(0, 0, D))
        x_BTD = op("Add", x_BTD, linear(joined, f"h.{layer}.attn.c_proj"))
        inner = op("Gelu", linear(norm(x_BTD, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"), approximate="tanh")
        x_BTD = op("Add", x_BTD, linear(inner, f"h.{layer}.mlp.c_proj"))
    return norm(x_BTD, "ln_f")


def caches(graph: Graph, config: ModelConfig) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Declare each layer's earlier keys and values as inputs, and those with the tokens' own as outputs.

    The names are those that Optimum and transformers.js expect.
    """
    past, present = (
        [(f"{name}.{layer}.key", f"{name}.{layer}.value") for layer in range(config.n_layer)]
        for name in ("past_key_values", "present")
    )
    for name in (name for pair in past for name in pair):
        graph.given(name, "float32", ["batch", config.n_head, "before", config.head_width])
    for name in (name for pair in present for name in pair):
        graph.answer(name, "float32", ["batch", config.n_head, "total", config.head_width])
    return past, present


def not_before(graph: Graph, begin: str, end: str) -> str:
    """Whether a position, 0 to `end`, comes after a token, `begin` to `end`: [T, S + T]."""
    op = graph.op
    zero, one = graph.constant("zero", np.int64(0)), graph.constant("one", np.int64(1))
    positions, tokens = op("Range", zero, end, one), op("Range", begin, end, one)
    return op("Greater", op("Unsqueeze", positions, graph.whole(0)), op("Unsqueeze", tokens, graph.whole(1)))
