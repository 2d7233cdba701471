"""GGUF files of architecture gpt2, llama.cpp's form of a GPT-2: one file with weights and vocabulary.

Matrices are [out, in]. F32, F16 and BF16 are used as stored; block types are expanded to float32 on use. Vectors and
positions are written as F32 whatever the matrices are, as in llama.cpp's own converter.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.checkpoint import Checkpoint, described_config
from gpt2.checkpoint.folder_files import inside
from gpt2.checkpoint.forms import NUMPY_TYPE
from gpt2.checkpoint.gguf_array import ExpandingArray
from gpt2.checkpoint.gguf_blocks import BLOCK_VALUES, DECODERS, ENCODERS, expand_blocks
from gpt2.checkpoint.gguf_file import MAGIC, TYPES, Tensor, Unwritten, read_gguf, write_gguf
from gpt2.checkpoint.names import ARRAYS_PER_BLOCK, shapes
from gpt2.checkpoint.unfinished import ArrayFile
from gpt2.checkpoint.weights import StoredArray, Weights
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError, TokenizerError

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

NAME = "gguf"
SUFFIX = ".gguf"
FORMS = ("fp32", "fp16", "bf16", "q8_0", "q4_0")

_ARCHITECTURE = "gpt2"
_TYPE_OF_FORM = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPE_OF_FORM = {"fp32": 0, "fp16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # llama.h, enum llama_ftype
_KEYS = {
    "n_positions": "gpt2.context_length",
    "n_embd": "gpt2.embedding_length",
    "n_inner": "gpt2.feed_forward_length",
    "n_layer": "gpt2.block_count",
    "n_head": "gpt2.attention.head_count",
    "layer_norm_epsilon": "gpt2.attention.layer_norm_epsilon",
}
_PARTS = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_f": "output_norm",
}
_HEAD = "output.weight"
# The largest relative difference that rounding makes in a row; two independently trained matrices differ by about 1.4.
_ROUNDING = {"F32": 0.0, "F16": 2**-10, "BF16": 2**-7, "Q2_K": 0.6}
_ROUNDING_OF_BLOCKS = 0.3
_NORMAL, _CONTROL, _ADDED, _UNUSED = 1, 3, 4, 5  # llama.h, enum llama_token_type


def matches(path: Path) -> bool:
    """Whether `path` is a GGUF file, or a folder with one and no other."""
    file = _file(path)
    if file is None:
        return False
    with file.open("rb") as stream:
        return stream.read(4) == MAGIC


def _file(path: Path) -> Path | None:
    if path.is_dir():
        found = sorted(file for file in path.glob(f"*{SUFFIX}") if file.is_file())
        return found[0] if len(found) == 1 else None
    return path if path.is_file() else None


def read(path: Path) -> Checkpoint:
    """Open a file; its vocabulary is that of the checkpoint.

    Raises:
        FormatError: it is damaged, truncated or hostile, or stores tensors in a type that is not read.
        MismatchError: it is a sound file, but not a GPT-2.
        OSError: it cannot be opened.
    """
    file = _file(path)
    assert file is not None
    if path.is_dir():
        inside(path, file.name)
    metadata, tensors = read_gguf(file)
    notes = ["matrices transposed from [out, in] to [in, out]"]
    config = _config(metadata, tensors, file)
    if config.n_layer * ARRAYS_PER_BLOCK > len(tensors):  # before any list of that length is made
        raise MismatchError(f"{file} holds {len(tensors)} tensors, too few for its {config.n_layer:,} layers.")
    head = tensors.pop(_HEAD, None)
    if head is not None:
        tensors["token_embd.weight"], note = _one_of(head, tensors["token_embd.weight"], file)
        notes.append(note)
    ours = {_their_name(name): name for name in shapes(config)}
    if missing := [name for name in ours if name not in tensors]:
        raise MismatchError(f"{file} is not a whole GPT-2: it has no {missing[0]}.")
    if unknown := [name for name in tensors if name not in ours]:
        raise MismatchError(f"{file} holds what this GPT-2 has no place for: {unknown[0][:80]!r}.")
    for name, shape in shapes(config).items():
        theirs = tensors[_their_name(name)].shape
        if name != "wte" and theirs != (shape[::-1] if name.endswith(".w") else shape):
            raise MismatchError(f"{file}: {_their_name(name)} has the shape {list(theirs)}, not that of its metadata.")
    expanded = tuple(sorted({tensor.type for tensor in tensors.values()} & DECODERS.keys()))
    if expanded:
        notes.append(f"precision from {', '.join(expanded)} to fp32: the rounding stays")
    arrays = {ours[name]: _stored(tensor, ours[name]) for name, tensor in tensors.items()}
    n_tokens = _true_vocab_size(metadata, config.vocab_size)
    if n_tokens < config.vocab_size:
        notes.append(f"vocabulary cut from {config.vocab_size:,} rows to the {n_tokens:,} that are tokens")
        arrays["wte"] = arrays["wte"].rows(0, n_tokens)
        config = replace(config, vocab_size=n_tokens)
    return Checkpoint(
        weights=Weights(config, arrays),
        path=path,
        format=NAME,
        notes=tuple(notes),
        vocabulary=(lambda: _tokenizer(metadata, file)) if "tokenizer.ggml.tokens" in metadata else None,
        expanded_from=expanded,
    )


def _config(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> ModelConfig:
    if (architecture := metadata.get("general.architecture")) != _ARCHITECTURE:
        raise MismatchError(f"{path} is not a GPT-2: its architecture is {architecture!r:.60}.")
    if missing := [key for key in _KEYS.values() if key not in metadata]:
        raise FormatError(f"{path} does not say {missing[0]}.")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise MismatchError(f"{path} is not a GPT-2: it has no token_embd.weight of two axes.")
    settings = {ours: metadata[theirs] for ours, theirs in _KEYS.items()}
    epsilon = settings["layer_norm_epsilon"]
    if not isinstance(epsilon, float):
        raise FormatError(f"{path}: {_KEYS['layer_norm_epsilon']} must be a number: got {epsilon!r:.40}.")
    settings["layer_norm_epsilon"] = float(f"{epsilon:.7g}")  # 1e-05 again, from the file's float32
    config = described_config(path, **settings, vocab_size=embedding.shape[0])
    if config.n_embd != embedding.shape[1]:
        raise MismatchError(f"{path}: token_embd.weight has rows of {embedding.shape[1]:,}, not of {config.n_embd:,}.")
    return config


def _one_of(head: Tensor, embedding: Tensor, path: Path) -> tuple[Tensor, str]:
    """Choose one of two copies of the embedding, with a note; llama-quantize rounds the head's copy less.

    Raises:
        MismatchError: they are different matrices.
    """
    if head.shape != embedding.shape or not _is_same_but_rounded(head, embedding):
        raise MismatchError(
            f"{path} has an output.weight that differs from token_embd: its head is not tied to the embedding, so it "
            f"is not GPT-2's. Such a model cannot be run here."
        )
    if len(head.data) <= len(embedding.data):
        return embedding, "output.weight left out: it repeats token_embd, as GPT-2's tied head must"
    return head, f"token_embd.weight left out: output.weight repeats it in {head.type}, finer than {embedding.type}"


def _is_same_but_rounded(head: Tensor, embedding: Tensor) -> bool:
    if head.type == embedding.type and np.array_equal(head.data, embedding.data):
        return True
    most = max(_ROUNDING.get(tensor.type, _ROUNDING_OF_BLOCKS) for tensor in (head, embedding))
    parts = zip(_stored(head, "wte").blocks(), _stored(embedding, "wte").blocks(), strict=True)
    for one, other in ((a.float32(), b.float32()) for a, b in parts):
        with np.errstate(over="ignore", invalid="ignore"):  # infinities, which compare as different
            changed, whole = (np.linalg.norm(rows, axis=1) for rows in (one - other, other))
            if not (changed <= most * whole).all():
                return False
    return True


def _their_name(name: str) -> str:
    block = re.fullmatch(r"h\.(\d+)\.(.*)\.([gbw])", name)
    if block:
        return f"blk.{block[1]}.{_PARTS[block[2]]}.{'bias' if block[3] == 'b' else 'weight'}"
    part, _, kind = name.partition(".")
    return f"{_PARTS[part]}.{'bias' if kind == 'b' else 'weight'}"


def _stored(tensor: Tensor, name: str) -> StoredArray:
    """A tensor as an array of ours."""
    if tensor.type in DECODERS:
        octets = tensor.data.reshape(-1, TYPES[tensor.type].block_bytes)
        if len(tensor.shape) == 2:
            rows = tensor.shape[0]
            array = ExpandingArray(octets.reshape(rows, -1, octets.shape[1]), tensor.type, 0, rows, is_turned=False)
        else:
            array = StoredArray(data=expand_blocks(octets, tensor.type).reshape(tensor.shape), dtype="F32")
    else:
        array = StoredArray(data=tensor.data.view(NUMPY_TYPE[tensor.type]).reshape(tensor.shape), dtype=tensor.type)
    return array.transposed() if name.endswith(".w") else array


def _true_vocab_size(metadata: Mapping[str, Any], rows: int) -> int:
    """The rows of the embedding without those at the end whose tokens are marked as unused."""
    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != rows:
        return rows
    unused = next((i for i, kind in enumerate(reversed(kinds)) if kind != _UNUSED), rows)
    return max(1, rows - unused)


def _tokenizer(metadata: Mapping[str, Any], path: Path) -> "Tokenizer":
    """The vocabulary in a file's metadata.

    Raises:
        TokenizerError: it is damaged, or of another kind than GPT-2's.
    """
    from gpt2.tokenizer import Tokenizer
    from gpt2.tokenizer.assembly import assemble

    model, splitting = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or splitting not in ("gpt-2", "default"):
        raise TokenizerError(f"The vocabulary in {path} is not GPT-2's: it is {model!r:.40}, {splitting!r:.40}.")
    tokens = _texts(metadata, "tokenizer.ggml.tokens", path)
    merges = _texts(metadata, "tokenizer.ggml.merges", path)
    kinds = metadata.get("tokenizer.ggml.token_type")
    kinds = kinds if isinstance(kinds, list) and len(kinds) == len(tokens) else [_NORMAL] * len(tokens)
    tokens = tokens[: _true_vocab_size({"tokenizer.ggml.token_type": kinds}, len(tokens))]
    if len(set(tokens)) < len(tokens):
        raise TokenizerError(f"The vocabulary in {path} cannot be read: a token is there twice.")
    if any(merge.count(" ") != 1 for merge in merges):
        raise TokenizerError(f"The vocabulary in {path} cannot be read: a merge is not of two tokens.")
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    special = {
        token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind in (_CONTROL, _ADDED)
    }
    try:
        return Tokenizer(assemble({token: i for i, token in enumerate(tokens)}, pairs, special))
    except TokenizerError as error:
        raise TokenizerError(f"The vocabulary in {path} cannot be read: {str(error).rstrip('.')}.") from error


def write(out: ArrayFile, weights: Weights, tokenizer: "Tokenizer | None", *, form: str) -> None:
    """Write a file that llama.cpp loads.

    Raises:
        MismatchError: the model does not fit `form`: Q8_0 and Q4_0 need widths that are multiples of 32.
        OSError: the disk is full.
    """
    config = weights.config
    is_blocks = _TYPE_OF_FORM[form] in ENCODERS
    if is_blocks and (config.n_embd % BLOCK_VALUES or config.n_inner % BLOCK_VALUES):
        raise MismatchError(
            f"The model cannot be stored as {_TYPE_OF_FORM[form]}: its widths {config.n_embd} and {config.n_inner} are "
            f"not multiples of {BLOCK_VALUES}. Choose fp16."
        )
    metadata: dict[str, Any] = {"general.architecture": _ARCHITECTURE, "general.file_type": _FILE_TYPE_OF_FORM[form]}
    if is_blocks:
        metadata["general.quantization_version"] = 2
    metadata |= {theirs: getattr(config, ours) for ours, theirs in _KEYS.items()}
    metadata |= _vocabulary(tokenizer, config)
    tensors: dict[str, Unwritten] = {}
    for name, shape in shapes(config).items():
        is_matrix = name.endswith(".w")
        kind = _TYPE_OF_FORM[form] if is_matrix or name == "wte" else "F32"
        array = weights.stored(name).transposed() if is_matrix else weights.stored(name)
        pieces = partial(_encoded if kind in ENCODERS else StoredArray.rounded, array, kind, name)
        tensors[_their_name(name)] = Unwritten(kind, shape[::-1] if is_matrix else shape, pieces)
    write_gguf(out, metadata, tensors)


def _encoded(array: StoredArray, kind: str, name: str) -> Iterator[NDArray[Any]]:
    return (ENCODERS[kind](block.float32(), name) for block in array.blocks())


def _vocabulary(tokenizer: "Tokenizer | None", config: ModelConfig) -> dict[str, Any]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    from gpt2.tokenizer.alphabet import letters

    vocabulary = tokenizer.vocabulary
    tokens = [letters(token) for token in vocabulary.tokens]
    kinds = [_NORMAL] * len(tokens)
    for token, i in vocabulary.special.items():
        tokens[i], kinds[i] = token, _ADDED if token in vocabulary.words else _CONTROL
    unused = range(len(tokens), config.vocab_size)
    ends = (
        {} if tokenizer.eot is None else {f"tokenizer.ggml.{name}_token_id": tokenizer.eot for name in ("bos", "eos")}
    )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*tokens, *(f"[PAD{i}]" for i in unused)],
        "tokenizer.ggml.token_type": [*kinds, *[_UNUSED] * len(unused)],
        "tokenizer.ggml.merges": [f"{letters(left)} {letters(right)}" for left, right in vocabulary.merges()],
        **ends,
        "tokenizer.ggml.add_bos_token": False,
    }


def _texts(metadata: Mapping[str, Any], key: str, path: Path) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TokenizerError(f"The vocabulary in {path} cannot be read: {key} is no list of texts.")
    return cast("list[str]", value)
