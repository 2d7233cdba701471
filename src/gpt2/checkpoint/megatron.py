"""Megatron-LM's GPT-2: its names, and the order in which it keeps queries, keys and values.

A matrix is [out, in]. The file's `checkpoint_version` tells the order of the rows of `query_key_value`: 0 keeps
queries, keys and values one after the other, as GPT-2 does; 1 puts the three numbers of each place of each head side by
side; from 2 on the three of each head (NVIDIA/Megatron-LM v2.4, megatron/checkpointing.py,
fix_query_key_value_ordering). All have the same shape, so no check of shapes would find a wrong order. The training
settings (`args`) give the model's shape; older files have none, and a `config.json` beside them must give it.

Axes: D embedding, S queries, keys and values, H heads, K width of a head.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gpt2.checkpoint import weights
from gpt2.checkpoint.checkpoint import described_config
from gpt2.checkpoint.weights import MadeArray, StoredArray
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError

NAME = "megatron"
FILE = "model_optim_rng.pt"
PREFIX = "language_model."

_LATEST = "latest_checkpointed_iteration.txt"
_PARTS = {
    "input_layernorm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.dense": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.dense_h_to_4h": "mlp.c_fc",
    "mlp.dense_4h_to_h": "mlp.c_proj",
}
_IN_BLOCK = re.compile(r"layers\.(\d+)\.(?:self_)?((?:attention|mlp)\.\w+|\w+_layernorm)\.(weight|bias)")
_OUTSIDE = {
    "embedding.word_embeddings.weight": "wte.weight",
    "embedding.position_embeddings.weight": "wpe.weight",
    "final_layernorm.weight": "ln_f.weight",
    "final_layernorm.bias": "ln_f.bias",
    "word_embeddings_for_head.weight": "lm_head.weight",  # the last stage's copy of the tied embedding
}
_SIZES = {
    "num_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "padded_vocab_size": "vocab_size",
}
# Settings that would make it another model than GPT-2, and the values that turn them off.
_OTHER: dict[str, tuple[object, ...]] = {
    "apply_residual_connection_post_layernorm": (False, None),
    "untie_embeddings_and_output_weights": (False, None),
    "position_embedding_type": ("learned_absolute", "absolute", None),
    "normalization": ("LayerNorm", None),
    "apply_layernorm_1p": (False, None),
    "squared_relu": (False, None),
    "swiglu": (False, None),
    "num_experts": (None,),
    "tensor_model_parallel_size": (1, None),
    "pipeline_model_parallel_size": (1, None),
    "model_parallel_size": (1, None),
}


def file_in(folder: Path) -> Path | None:
    """The file in a checkpoint's folder (`release`, `iter_0001000`), or in the newest of a folder of several."""
    folders = [folder, folder / "release"]
    if (folder / _LATEST).is_file():
        with (folder / _LATEST).open("rb") as file:
            newest = file.read(40).decode("ascii", errors="replace").strip()
        if newest.isdecimal():
            folders.insert(1, folder / f"iter_{int(newest):07}")
    for place in folders:
        found = place / "mp_rank_00" / FILE
        if found.is_file() and found.parent.resolve().is_relative_to(folder.resolve()):
            return found
    return None


def check_whole(file: Path) -> None:
    """Refuse a file that is one of several parts of a model.

    Raises:
        MismatchError: it is a part.
    """
    folder = file.parent
    if re.fullmatch(r"mp_rank_\d\d(_\d{3})?", folder.name):
        parts = [entry.name for entry in folder.parent.iterdir() if entry.name.startswith("mp_rank_")]
        if len(parts) > 1:
            raise MismatchError(
                f"{file} is one of the {len(parts)} parts that a model was divided into. Put them together with "
                f"Megatron's own tools/checkpoint first."
            )


def config_of(settings: Mapping[str, Any], file: Path) -> ModelConfig:
    """The shape of the model by its `args`.

    Raises:
        FormatError: they are incomplete.
        MismatchError: they ask for something that GPT-2 does not have.
    """
    for key, without in _OTHER.items():
        if (value := settings.get(key)) not in without:
            raise MismatchError(f"{file} asks for what GPT-2 has not, or cannot be read: {key} is {value!r:.60}.")
    if missing := [key for key in _SIZES if key not in settings]:
        raise FormatError(f"{file} does not say {missing[0]} in its args.")
    return described_config(
        file,
        **{ours: settings[theirs] for theirs, ours in _SIZES.items()},
        n_inner=settings.get("ffn_hidden_size") or 0,
        layer_norm_epsilon=settings.get("layernorm_epsilon", 1e-5),
    )


def has_tanh_gelu(settings: Mapping[str, Any]) -> bool:
    """Whether the model was trained with GPT-2's form of GELU, which Megatron's fused kernel also computes."""
    return settings.get("openai_gelu") is True or settings.get("bias_gelu_fusion") is True


def ordering(version: object, file: Path) -> str:
    """The order of the rows of `query_key_value`, as axes, outermost first.

    Raises:
        FormatError: the version is unknown.
    """
    known: dict[float | None, str] = {None: "SHK", 0: "SHK", 1: "HKS", 2: "HSK", 3: "HSK"}
    if not isinstance(version, int | float | None) or isinstance(version, bool) or version not in known:
        raise FormatError(f"{file} has the checkpoint_version {version!r:.40}; known are 0, 1, 2 and 3.")
    return known[version]


def renamed(arrays: Mapping[str, StoredArray], n_head: int, order: str, file: Path) -> dict[str, StoredArray]:
    """Arrays by Hugging Face's names, matrices as [in, out], queries, keys and values in GPT-2's order.

    Raises:
        FormatError: an array occurs twice.
        MismatchError: a shape does not fit the heads.
    """
    found: dict[str, StoredArray] = {}
    for theirs, array in arrays.items():
        inner = re.sub(rf"^{re.escape(PREFIX)}(transformer\.|encoder\.)?", "", theirs)
        block = _IN_BLOCK.fullmatch(inner)
        if block is None or block[2] not in _PARTS:
            name, ours = _OUTSIDE.get(inner, theirs), array
        else:
            name = f"h.{block[1]}.{_PARTS[block[2]]}.{block[3]}"
            if name.partition(".attn.c_attn.")[1] and order != "SHK":
                ours = _reordered(array, n_head, order, theirs, file)
            else:
                ours = array.transposed() if len(array.shape) == 2 else array
        if name in found:
            raise FormatError(f"{file} is damaged: {theirs[:80]!r} is there under another name too.")
        found[name] = ours
    return found


def _reordered(array: StoredArray, n_head: int, order: str, name: str, file: Path) -> StoredArray:
    rows = array.shape[0] if array.shape else 0
    if len(array.shape) not in (1, 2) or not rows or rows % (3 * n_head):
        raise MismatchError(f"{file}: {name[:80]!r} of {list(array.shape)} does not fit {n_head:,} heads.")
    sizes = {"S": 3, "H": n_head, "K": rows // (3 * n_head)}
    split = array.data.reshape(*(sizes[axis] for axis in order), *array.shape[1:])
    view_SHK = split.transpose(*(order.index(axis) for axis in "SHK"), *range(3, split.ndim))
    if len(array.shape) == 1:
        return StoredArray(data=view_SHK.reshape(-1), dtype=array.dtype)
    return ReorderedArray(view_SHK.transpose(3, 0, 1, 2), array.dtype)


class ReorderedArray(MadeArray):
    """A matrix [D, S H K] whose columns are in another order in the file; reordered on access.

    Args:
        view_DSHK: the mapped numbers.
        dtype: their type.
    """

    __slots__ = ("_view_DSHK",)

    def __init__(self, view_DSHK: NDArray[Any], dtype: str) -> None:
        super().__init__(dtype=dtype, _view_DSHK=view_DSHK)

    @property
    def data(self) -> NDArray[Any]:  # pyright: ignore[reportIncompatibleVariableOverride] - made anew each time
        """The numbers in order, copied."""
        return self._view_DSHK.reshape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        rows, *columns = self._view_DSHK.shape
        return rows, columns[0] * columns[1] * columns[2]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self._view_DSHK.nbytes

    def rows(self, begin: int, end: int) -> "ReorderedArray":
        """The part from `begin` to `end` of the first axis, not yet reordered."""
        return ReorderedArray(self._view_DSHK[begin:end], self.dtype)

    def blocks(self) -> Iterator[StoredArray]:
        """The whole in reordered pieces of a few megabytes."""
        step = max(1, weights.BLOCK_VALUES // self.shape[1])
        for begin in range(0, self.shape[0], step):
            yield StoredArray(data=self.rows(begin, begin + step).data, dtype=self.dtype)
        self.release()

    def release(self) -> None:
        """Let the system forget the mapped pages behind the numbers."""
        StoredArray(data=self._view_DSHK, dtype=self.dtype).release()
