"""GPT-2 as OpenVINO runs language models: keys and values are states of the request, which its attention reads.

    ids [B, T], positions [T], rows [B], the order of the sequences in the cache  ->  logits of the last token [B, V]

B sequences, T tokens, H heads of width K, D embedding, V vocabulary. Needs the package openvino.
"""

from importlib import import_module
from typing import Any

import numpy as np

from gpt2.checkpoint import Weights


def openvino_model(weights: Weights) -> Any:
    """The graph with its weights in fp32, for OpenVINO's compiler or a weight compressor."""
    openvino: Any = import_module("openvino")
    ops: Any = import_module("openvino.opset13")
    config = weights.config
    H, K, D = config.n_head, config.head_width, config.n_embd
    numbers, floats = np.int64, np.float32

    ids = ops.parameter([-1, -1], numbers, name="ids")
    positions = ops.parameter([-1], numbers, name="positions")
    rows = ops.parameter([-1], np.int32, name="rows")

    def whole(*values: int) -> Any:
        return ops.constant(np.array(values, numbers))

    def array(name: str) -> Any:
        return ops.constant(np.ascontiguousarray(weights.float32(name)))

    def linear(x: Any, name: str) -> Any:
        columns = ops.constant(np.ascontiguousarray(weights.float32(f"{name}.w").T))
        return ops.add(ops.matmul(x, columns, False, True), array(f"{name}.b"))

    def norm(x: Any, name: str) -> Any:
        flat = ops.mvn(x, whole(-1), True, config.layer_norm_epsilon, "inside_sqrt")
        return ops.add(ops.multiply(flat, array(f"{name}.g")), array(f"{name}.b"))

    def heads(x: Any) -> Any:
        return ops.transpose(ops.reshape(x, whole(0, 0, H, K), True), whole(0, 2, 1, 3))

    zero = ops.constant(np.int64(0))
    batch = ops.gather(ops.shape_of(ids), whole(0), zero)
    empty = ops.broadcast(ops.constant(floats(0)), ops.concat([batch, whole(H, 0, K)], 0))
    assigned: list[Any] = []

    def kept(new: Any, name: str) -> Any:
        """The state `name` with `new` appended: [B, H, S + T, K]."""
        before = ops.read_value(empty, name, floats, openvino.PartialShape([-1, H, -1, K]))
        after = ops.concat([ops.gather(before, rows, zero), new], 2)
        assigned.append(ops.assign(after, name))
        return after

    last = ops.gather(positions, ops.constant(np.int64(-1)), zero)
    keys = ops.range(zero, ops.add(last, ops.constant(np.int64(1))), ops.constant(np.int64(1)), "i64")
    hidden = ops.greater(ops.unsqueeze(keys, whole(0)), ops.unsqueeze(positions, whole(1)))
    mask = ops.select(hidden, ops.constant(floats(np.finfo(floats).min)), ops.constant(floats(0)))
    mask = ops.unsqueeze(mask, whole(0, 1))

    wte = array("wte")
    x = ops.add(ops.gather(wte, ids, zero), ops.gather(array("wpe"), positions, zero))
    for layer in range(config.n_layer):
        qkv = ops.variadic_split(linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 2, whole(D, D, D))
        q, k, v = (heads(qkv.output(number)) for number in range(3))
        k, v = kept(k, f"h.{layer}.k"), kept(v, f"h.{layer}.v")
        mixed = ops.scaled_dot_product_attention(q, k, v, mask)
        mixed = ops.reshape(ops.transpose(mixed, whole(0, 2, 1, 3)), whole(0, 0, D), True)
        x = ops.add(x, linear(mixed, f"h.{layer}.attn.c_proj"))
        inner = ops.gelu(linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"), "TANH")
        x = ops.add(x, linear(inner, f"h.{layer}.mlp.c_proj"))
    ended = ops.gather(norm(x, "ln_f"), ops.constant(np.int64(-1)), ops.constant(np.int64(1)))
    logits = ops.matmul(ended, wte, False, True)
    return openvino.Model([ops.result(logits)], assigned, [ids, positions, rows], "gpt2")
