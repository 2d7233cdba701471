"""GPT-2 as an ONNX graph with its key-value cache as inputs and outputs: what onnxruntime and OpenVINO are measured on.

    ids [B, T], past keys and values of each layer [B, H, S, K]  ->  logits of the last token [B, V], present ones

B sequences, T tokens, S positions before them, H heads of width K, D embedding, V vocabulary. Needs the package onnx.
"""

from pathlib import Path
from typing import Any

import numpy as np

from gpt2.checkpoint import Weights


def write_onnx(path: Path, weights: Weights) -> None:
    """Write the graph and the weights, in fp32, to one file; 1.9 GB is the most that a file of ONNX holds."""
    import onnx  # pyright: ignore[reportMissingImports]
    from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

    config = weights.config
    H, K, D = config.n_head, config.head_width, config.n_embd
    nodes: list[Any] = []
    constants: dict[str, Any] = {}

    def constant(name: str, value: Any) -> str:
        constants.setdefault(name, numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def array(name: str) -> str:
        return constant(name, weights.float32(name))

    def op(kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind}_{len(nodes)}_{number}" for number in range(outputs)]
        nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def integers(*values: int) -> str:
        return constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def linear(x: str, name: str) -> str:
        return op("Add", op("MatMul", x, array(f"{name}.w")), array(f"{name}.b"))

    def norm(x: str, name: str) -> str:
        return op("LayerNormalization", x, array(f"{name}.g"), array(f"{name}.b"), epsilon=config.layer_norm_epsilon)

    def heads(x: str) -> str:
        return op("Transpose", op("Reshape", x, integers(0, 0, H, K)), perm=[0, 2, 1, 3])

    past = [f"past_{number}" for number in range(2 * config.n_layer)]
    present: list[str] = []
    length = op("Squeeze", op("Shape", "ids", start=1, end=2), integers(0))
    before = op("Squeeze", op("Shape", past[0], start=2, end=3), integers(0))
    total = op("Add", before, length)
    zero, one = constant("zero", np.int64(0)), constant("one", np.int64(1))
    positions = op("Range", before, total, one)
    keys = op("Range", zero, total, one)
    hidden = op("Greater", op("Unsqueeze", keys, integers(0)), op("Unsqueeze", positions, integers(1)))
    mask = op("Where", hidden, constant("minus", np.float32(-1e9)), constant("nothing", np.float32(0)))

    x = op("Add", op("Gather", array("wte"), "ids"), op("Gather", array("wpe"), positions))
    for layer in range(config.n_layer):
        qkv = linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn")
        q, k, v = map(heads, op("Split", qkv, integers(D, D, D), outputs=3, axis=2))
        k = op("Concat", past[2 * layer], k, axis=2)
        v = op("Concat", past[2 * layer + 1], v, axis=2)
        present += [k, v]
        scores = op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = op("Add", op("Mul", scores, constant("scale", np.float32(K**-0.5))), mask)
        mixed = op("Transpose", op("MatMul", op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        x = op("Add", x, linear(op("Reshape", mixed, integers(0, 0, D)), f"h.{layer}.attn.c_proj"))
        inner = op("Gelu", linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"), approximate="tanh")
        x = op("Add", x, linear(inner, f"h.{layer}.mlp.c_proj"))
    last = op("Gather", norm(x, "ln_f"), constant("minus_one", np.int64(-1)), axis=1)
    logits = op("MatMul", last, constant("head", weights.float32("wte").T))

    shape = ["batch", H, "before", K]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in past]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", config.vocab_size])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", H, "total", K]) for name in present]
    graph = helper.make_graph(nodes, "gpt2", inputs, outputs, list(constants.values()))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
