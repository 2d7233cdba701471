"""Writing a model as a Hugging Face folder, atomically.

Arrays are fetched, rounded and written one at a time, in pieces of a few megabytes, so writing needs hardly more
memory than the arrays already take.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint import llmc, openai
from gpt2.checkpoint.card import CARD, plain_card
from gpt2.checkpoint.forms import (
    COMPACT,
    EMBEDDINGS,
    FORMS,
    Floats,
    dtype_in_form,
    int8_round,
    int8_scale,
    int8_scale_shape,
)
from gpt2.checkpoint.hf_config import config_to_json
from gpt2.checkpoint.huggingface import (
    COMPACT_FILES,
    CONFIG,
    FORM_KEY,
    GROUP_SCALE_SUFFIX,
    INDEX,
    PREFIX,
    SCALE_SUFFIX,
    WHOLE,
)
from gpt2.checkpoint.int4 import GROUP_INPUTS, Int4Array, int4_scale, to_int4
from gpt2.checkpoint.names import huggingface_names, shapes
from gpt2.checkpoint.safetensors import LazyArray, write_safetensors
from gpt2.checkpoint.unfinished import Journal
from gpt2.checkpoint.weights import StoredArray, Weights, check_names
from gpt2.config import PUBLISHED_VOCAB_SIZE, ModelConfig
from gpt2.errors import CheckpointError, MismatchError
from gpt2.files import atomic_folder, read_json, write_json, write_text

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

ONNX_FOLDER = "onnx"  # in a model's folder; transformers.js and Optimum look there for graphs
ONNX_SUFFIXES = (".onnx", ".onnx_data")
_PUBLISHED_EOT = 50256
_TOKENIZER_CONFIG = "tokenizer_config.json"

# What a model folder may hold, in any format; a folder with anything else in it is not replaced.
_KNOWN_FILES = {
    CONFIG,
    WHOLE,
    INDEX,
    *COMPACT_FILES.values(),
    openai.HPARAMS,
    openai.STATE,
    *openai.BUNDLE_FILES,
    "encoder.json",
    "vocab.bpe",
    llmc.FILE,
    "ckpt.pt",
    "downloaded.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    _TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    CARD,
    "LICENSE",
    ".gitattributes",
}

Arrays = Weights | Mapping[str, NDArray[Any]]


def write_folder(
    folder: str | Path,
    weights: Arrays,
    config: ModelConfig,
    tokenizer: "Tokenizer | None",
    *,
    form: str = "fp32",
    card: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder that Hugging Face's `AutoModelForCausalLM` and `AutoTokenizer` load.

    Args:
        folder: gets its name only when complete; parents are made.
        weights: `Weights`, or float arrays by OpenAI's names, fetched one at a time.
        config: the model's shape.
        tokenizer: its vocabulary; None writes no vocabulary files, which fits a model of the published vocabulary.
        form: fp32, fp16, bf16; or int8 and int4, our own compact forms, which only this package reads.
        card: the text of its model card, README.md; None writes one that gives only the shape.
        overwrite: replace an existing model folder. A folder with anything else in it is never replaced.

    Raises:
        CheckpointError: the folder exists, or cannot be written; what was there before stays.
        MismatchError: the arrays are not those of `config`, or do not fit `form`.
    """
    if form not in FORMS:
        raise CheckpointError(f"Weights cannot be stored as {form!r}: choose one of {', '.join(FORMS)}.")
    folder = Path(folder)
    try:
        check_goal(folder, overwrite=overwrite)
        with atomic_folder(folder) as partial:
            fill_folder(partial, weights, config, tokenizer, form=form)
            write_text(partial / CARD, plain_card(config) if card is None else card)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error.strerror or error}. What was there before is as it was."
        ) from error


def check_goal(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write a model over something that may not be replaced.

    Raises:
        CheckpointError: the goal exists; or, with `overwrite`, it is not a model.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} cannot be written: there is a file of that name. Choose another name.")
    if not overwrite:
        raise CheckpointError(
            f"{folder} is there already. Choose another name, or overwrite it (--overwrite, overwrite=True)."
        )
    for entry in sorted(folder.iterdir()):
        if not _is_known(entry):
            raise CheckpointError(
                f"{folder} is not overwritten: it holds {entry.name!r}, which is no part of a model. "
                f"Move that away, or choose another name."
            )


def _is_known(entry: Path) -> bool:
    if entry.name == ONNX_FOLDER and entry.is_dir():
        return all(graph.is_file() and graph.suffix in ONNX_SUFFIXES for graph in entry.iterdir())
    return entry.is_file() and (entry.name in _KNOWN_FILES or entry.suffix == ".safetensors")


def fill_folder(
    folder: Path,
    weights: Arrays,
    config: ModelConfig,
    tokenizer: "Tokenizer | None",
    *,
    form: str = "fp32",
    journal: Journal | None = None,
) -> None:
    """Write the files of a model into an existing folder, for a caller who makes the whole folder atomic.

    With a `journal` the weights resume where an interrupted start stopped.

    Raises:
        MismatchError: the arrays are not those of `config`, or do not fit `form`.
        OSError: the disk is full or the folder cannot be written.
    """
    check_names(weights.names if isinstance(weights, Weights) else weights, config)
    fill_settings(folder, config, tokenizer, form=form)
    theirs = huggingface_names(config.n_layer)
    arrays: dict[str, LazyArray] = {}
    for name, shape in shapes(config).items():
        fetch = _fetcher(weights, name, shape)
        dtype = dtype_in_form(form, name, shape)
        if dtype == "I8":
            arrays |= _int8_pair(PREFIX + theirs[name], name, shape, fetch)
        elif dtype == "I4":
            arrays |= _int4_parts(PREFIX + theirs[name], name, shape, fetch)
        else:
            arrays[PREFIX + theirs[name]] = LazyArray(
                dtype=dtype,
                shape=shape,
                pieces=lambda fetch=fetch, dtype=dtype, name=name: fetch().rounded(dtype, name),
            )
    if form in COMPACT:
        write_safetensors(folder / COMPACT_FILES[form], arrays, metadata={FORM_KEY: form}, journal=journal)
    else:
        write_safetensors(folder / WHOLE, arrays, journal=journal)


def fill_settings(folder: Path, config: ModelConfig, tokenizer: "Tokenizer | None", *, form: str = "fp32") -> None:
    """Write all files of a model folder but its weights and its card.

    Raises:
        MismatchError: the vocabulary has more ids than the model.
        OSError: the disk is full or the folder cannot be written.
    """
    if tokenizer is not None:
        if tokenizer.vocab_size > config.vocab_size:
            raise MismatchError(
                f"The vocabulary is not this model's: it has {tokenizer.vocab_size:,} ids, the model "
                f"{config.vocab_size:,}. Give the model's own."
            )
        eot = tokenizer.eot
        tokenizer.save(folder)
        settings = read_json(folder / _TOKENIZER_CONFIG)
        write_json(folder / _TOKENIZER_CONFIG, settings | {"model_max_length": config.n_positions})
    else:
        eot = _PUBLISHED_EOT if config.vocab_size == PUBLISHED_VOCAB_SIZE else None
    write_json(folder / CONFIG, config_to_json(config, form=form, eot=eot))
    write_json(folder / "generation_config.json", {"bos_token_id": eot, "eos_token_id": eot})


def _fetcher(weights: Arrays, name: str, shape: tuple[int, ...]) -> Callable[[], StoredArray]:
    """A function that fetches one array and checks it against the configuration."""

    def fetch() -> StoredArray:
        if isinstance(weights, Weights):
            array = weights.stored(name)
        else:
            array = StoredArray(data=np.ascontiguousarray(weights[name], dtype=np.float32), dtype="F32")
        if array.shape != shape:
            raise MismatchError(f"{name} must have shape {list(shape)}, by the configuration: got {list(array.shape)}.")
        return array

    return fetch


def _int8_pair(
    stored_name: str, name: str, shape: tuple[int, ...], fetch: Callable[[], StoredArray]
) -> dict[str, LazyArray]:
    """The integers of a matrix and their scales; an int8 array is copied."""

    def scale_of(array: StoredArray) -> Floats:
        if array.dtype == "I8" and array.scale is not None:
            return array.scale
        return int8_scale((block.float32() for block in array.blocks()), name)

    def integers() -> Iterable[NDArray[Any]]:
        array = fetch()
        if array.dtype == "I8":
            yield from (block.data for block in array.blocks())
            return
        scale = scale_of(array)
        begin = 0
        for block in array.blocks():
            end = begin + block.shape[0]
            yield int8_round(block.float32(), scale if scale.shape[0] == 1 else scale[begin:end])
            begin = end

    return {
        stored_name: LazyArray(dtype="I8", shape=shape, pieces=integers),
        stored_name + SCALE_SUFFIX: LazyArray(
            dtype="F32", shape=int8_scale_shape(name, shape), pieces=lambda: [scale_of(fetch())]
        ),
    }


def _int4_parts(
    stored_name: str, name: str, shape: tuple[int, ...], fetch: Callable[[], StoredArray]
) -> dict[str, LazyArray]:
    """Codes, output scales and group scales of a matrix, to be written one after the other."""
    by_output = name in EMBEDDINGS
    outputs, inputs = shape if by_output else shape[::-1]
    kept: list[Int4Array] = []  # kept from the codes until the group scales, which come next in the file

    def rounded() -> Int4Array:
        if not kept:
            array = fetch()
            kept.append(to_int4(array, name, by_output=by_output))
            array.release()
        return kept[0]

    def last() -> Iterator[NDArray[Any]]:
        yield rounded().group_scale
        kept.clear()

    groups = -(-inputs // GROUP_INPUTS)
    return {
        stored_name: LazyArray(dtype="U8", shape=(outputs, inputs // 2), pieces=lambda: [rounded().data]),
        stored_name + SCALE_SUFFIX: LazyArray(
            dtype="F32", shape=(outputs, 1), pieces=lambda: [int4_scale(fetch(), name, by_output=by_output)]
        ),
        stored_name + GROUP_SCALE_SUFFIX: LazyArray(dtype="U8", shape=(outputs, groups), pieces=last),
    }
