"""ONNX: a model for onnxruntime in any language, for Optimum, and for transformers.js in a web page.

A Hugging Face folder in which `onnx/` takes the place of the weights. It holds the graph, under transformers.js's name
for its precision. Inputs and outputs are those that both libraries expect of a decoder with its past:

    input_ids [B, T], attention_mask [B, S + T], position_ids [B, T], past_key_values.N.key and .value [B, H, S, K]
    -> logits [B, T, V], present.N.key and .value [B, H, S + T, K]

The mask is 0 where a sequence is padded. fp32 and int4 hold the same values as the `hf` format in that form, except
that int4 keeps `wpe` in fp32. fp16 rounds the matrices, but not the vectors or `wpe`. All forms compute in fp32.

Axes: B sequences, T tokens, S positions before them, H heads of width K, D embedding, V vocabulary; G groups of 32
inputs, O outputs of a map.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.folder import ONNX_FOLDER, fill_settings
from gpt2.checkpoint.forms import EMBEDDINGS
from gpt2.checkpoint.int4 import GROUP_INPUTS, Int4Array, to_int4
from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.onnx_file import DATA_SUFFIX, FLOAT, Graph
from gpt2.checkpoint.onnx_graph import HIDDEN, blocks, caches, not_before
from gpt2.checkpoint.unfinished import Journal
from gpt2.checkpoint.weights import Weights
from gpt2.errors import MismatchError

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

FORMS = ("fp32", "fp16", "int4")
_FILE_OF_FORM = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int4": "model_q4.onnx"}
_GROUP_BYTES = GROUP_INPUTS // 2


def fill(
    folder: Path, weights: Weights, tokenizer: "Tokenizer | None", *, form: str, journal: Journal | None = None
) -> None:
    """Write the files of a model into an existing folder.

    Raises:
        MismatchError: the vocabulary is not the model's, or a width does not fit int4.
        OSError: the disk is full or the folder cannot be written.
    """
    config = weights.config
    if form == "int4" and (config.n_embd % GROUP_INPUTS or config.n_inner % GROUP_INPUTS):
        raise MismatchError(
            f"The model cannot be stored as int4: its widths {config.n_embd} and {config.n_inner} are not multiples of "
            f"{GROUP_INPUTS}. Choose fp16."
        )
    fill_settings(folder, config, tokenizer)
    file = folder / _FILE_OF_FORM[form]
    _graph(weights, form).write(file, journal)
    (folder / ONNX_FOLDER).mkdir()  # moved at the end: a journal knows only files directly in the folder
    for written in (file, file.with_name(file.name + DATA_SUFFIX)):
        if written.is_file():
            written.rename(folder / ONNX_FOLDER / written.name)


def _graph(weights: Weights, form: str) -> Graph:
    config = weights.config
    graph = Graph()
    op = graph.op
    ids = graph.given("input_ids", "int64", ["batch", "tokens"])
    mask = graph.given("attention_mask", "int64", ["batch", "total"])
    positions = graph.given("position_ids", "int64", ["batch", "tokens"])
    graph.answer("logits", "float32", ["batch", "tokens", config.vocab_size])
    past, present = caches(graph, config)

    before = op("Squeeze", op("Shape", past[0][0], start=2, end=3), graph.whole(0))
    total = op("Squeeze", op("Shape", mask, start=1, end=2), graph.whole(0))
    padded = op("Unsqueeze", op("Equal", mask, graph.constant("zero", np.int64(0))), graph.whole(1, 2))
    unseen = op("Or", not_before(graph, before, total), padded)
    hidden = op("Where", unseen, graph.constant("hidden", np.float32(HIDDEN)), graph.constant("seen", np.float32(0)))
    arrays = _Int4(graph, weights) if form == "int4" else _Floats(graph, weights, form)
    x_BTD = op("Add", arrays.embedded(ids), op("Gather", arrays.vector("wpe"), positions))
    x_BTD = blocks(graph, config, x_BTD, hidden, past, present, vector=arrays.vector, linear=arrays.linear)
    arrays.head(x_BTD, ids)
    return graph


class _Floats:
    """The arrays of a model in fp32, or its matrices in fp16."""

    def __init__(self, graph: Graph, weights: Weights, form: str) -> None:
        self._graph = graph
        self._weights = weights
        self._dtype = "float16" if form == "fp16" else "float32"

    def vector(self, name: str) -> str:
        """A bias, a gain, or `wpe`."""
        return self._stored(name, "float32")

    def _stored(self, name: str, dtype: str) -> str:
        kind = {"float16": "F16", "float32": "F32"}[dtype]
        pieces = partial(self._weights.stored(name).rounded, kind, name)
        return self._graph.array(name, dtype, shapes(self._weights.config)[name], pieces)

    def _matrix(self, name: str) -> str:
        """Its values in float32; onnxruntime converts them once, when it opens the file."""
        stored = self._stored(name, self._dtype)
        return stored if self._dtype == "float32" else self._graph.once("Cast", stored, to=FLOAT)

    def linear(self, x: str, name: str) -> str:
        """x w + b."""
        op = self._graph.op
        return op("Add", op("MatMul", x, self._matrix(f"{name}.w")), self.vector(f"{name}.b"))

    def embedded(self, ids_BT: str) -> str:
        """Rows of `wte`: [B, T, D]."""
        return self._graph.op("Gather", self._matrix("wte"), ids_BT)

    def head(self, x_BTD: str, ids_BT: str) -> None:
        """The logits."""
        graph, config = self._graph, self._weights.config
        rows = graph.op("Reshape", x_BTD, graph.whole(-1, config.n_embd))
        logits = graph.op("Gemm", rows, self._matrix("wte"), transB=1)
        shape = graph.op("Concat", graph.op("Shape", ids_BT), graph.whole(config.vocab_size), axis=0)
        graph.op("Reshape", logits, shape, names=["logits"])


class _Int4(_Floats):
    """The arrays of a model, its matrices in groups of 32 codes with one scale each."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        super().__init__(graph, weights, "fp32")
        self._rounded: dict[str, Int4Array] = {}  # kept from the codes until the scales, which come next in the file

    def linear(self, x: str, name: str) -> str:
        """x w + b."""
        return self._graph.op("Add", self._product(x, f"{name}.w"), self.vector(f"{name}.b"))

    def embedded(self, ids_BT: str) -> str:
        """Rows of `wte`, stored as two codes a byte, the even input in the lower half: [B, T, D]."""
        op, graph = self._graph.op, self._graph
        (codes, scales), n_embd = self._parts("wte"), self._weights.config.n_embd
        groups = n_embd // GROUP_INPUTS
        bytes_BTGP = op("Gather", codes, ids_BT)
        low = op("BitwiseAnd", bytes_BTGP, graph.constant("low", np.uint8(15)))
        high = op("BitShift", bytes_BTGP, graph.constant("four", np.uint8(4)), direction="RIGHT")
        pairs = op("Concat", *(op("Unsqueeze", half, graph.whole(-1)) for half in (low, high)), axis=-1)
        whole = op("Sub", op("Cast", pairs, to=FLOAT), graph.constant("eight", np.float32(8)))
        whole_BTGI = op("Reshape", whole, graph.whole(0, 0, groups, GROUP_INPUTS))
        scales_VG = op("Reshape", scales, graph.whole(-1, groups))
        scales_BTG = op("Unsqueeze", op("Gather", scales_VG, ids_BT), graph.whole(-1))
        return op("Reshape", op("Mul", whole_BTGI, scales_BTG), graph.whole(0, 0, n_embd))

    def head(self, x_BTD: str, ids_BT: str) -> None:
        """The logits."""
        self._product(x_BTD, "wte", names=["logits"])

    def _product(self, x: str, name: str, **names: Any) -> str:
        outputs, inputs = self._sides(name)
        sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": GROUP_INPUTS}
        return self._graph.op("MatMulNBits", x, *self._parts(name), domain="com.microsoft", **sizes, **names)

    def _sides(self, name: str) -> tuple[int, int]:
        shape = shapes(self._weights.config)[name]
        return (shape[0], shape[1]) if name in EMBEDDINGS else (shape[1], shape[0])

    def _parts(self, name: str) -> tuple[str, str]:
        """Codes, uint8 [O, G, 16], each plus 8; and scales, [O * G]."""
        outputs, inputs = self._sides(name)
        groups = inputs // GROUP_INPUTS
        codes = self._graph.array(
            f"{name}.codes", "uint8", (outputs, groups, _GROUP_BYTES), lambda: [self._round(name).data]
        )
        scales = self._graph.array(f"{name}.scales", "float32", (outputs * groups,), lambda: self._scales(name))
        return codes, scales

    def _round(self, name: str) -> Int4Array:
        if name not in self._rounded:
            array = self._weights.stored(name)
            self._rounded[name] = to_int4(array, name, by_output=name in EMBEDDINGS)
            array.release()
        return self._rounded[name]

    def _scales(self, name: str) -> Iterator[NDArray[Any]]:
        array = self._round(name)
        yield array.scale * array.group_scale.astype(np.float32)
        del self._rounded[name]
