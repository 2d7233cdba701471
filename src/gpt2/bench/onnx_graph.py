"""GPT-2 as an ONNX graph with its key-value cache as inputs and outputs, to measure onnxruntime.

    ids [B, T], past keys and values of each layer [B, H, S, K]  ->  logits of the last token [B, V], present ones

B sequences, T tokens, S positions before them, H heads of width K, D embedding, V vocabulary. The blocks are those of
`checkpoint.onnx`; here nothing is padded, and only the last token's logits are computed.
"""

from pathlib import Path

import numpy as np

from gpt2.checkpoint import Weights
from gpt2.checkpoint.onnx_file import Graph
from gpt2.checkpoint.onnx_graph import HIDDEN, blocks, caches, not_before


def write_onnx(path: Path, weights: Weights) -> None:
    """Write the graph and the weights, in fp32."""
    config = weights.config
    graph = Graph()
    op = graph.op

    def array(name: str) -> str:
        return graph.array(name, "float32", weights.stored(name).shape, lambda: [weights.float32(name)])

    def linear(x: str, name: str) -> str:
        return op("Add", op("MatMul", x, array(f"{name}.w")), array(f"{name}.b"))

    ids = graph.given("ids", "int64", ["batch", "tokens"])
    graph.answer("logits", "float32", ["batch", config.vocab_size])
    past, present = caches(graph, config)

    before = op("Squeeze", op("Shape", past[0][0], start=2, end=3), graph.whole(0))
    total = op("Add", before, op("Squeeze", op("Shape", ids, start=1, end=2), graph.whole(0)))
    minus, nothing = graph.constant("minus", np.float32(HIDDEN)), graph.constant("nothing", np.float32(0))
    hidden = op("Where", not_before(graph, before, total), minus, nothing)
    positions = op("Range", before, total, graph.constant("one", np.int64(1)))
    x_BTD = op("Add", op("Gather", array("wte"), ids), op("Gather", array("wpe"), positions))
    x_BTD = blocks(graph, config, x_BTD, hidden, past, present, vector=array, linear=linear)
    last = op("Gather", x_BTD, graph.constant("minus_one", np.int64(-1)), axis=1)
    turned = weights.stored("wte").shape[::-1]
    head = graph.array("head", "float32", turned, lambda: [weights.float32("wte").T])
    op("MatMul", last, head, names=["logits"])
    graph.write(path)
