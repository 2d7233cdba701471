"""Hugging Face GPT-2 folders: `config.json` and safetensors, whole or in shards; and our compact forms.

Accepted: names with and without `transformer.`, a redundant `lm_head.weight` if it equals `wte`, the mask buffers of
old releases, vocabularies padded for speed. Nothing is ever unpickled.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt2.checkpoint.checkpoint import Checkpoint, has_vocabulary
from gpt2.checkpoint.folder_files import inside, read_settings, read_shards
from gpt2.checkpoint.hf_config import config_from_json
from gpt2.checkpoint.int4 import Int4Array
from gpt2.checkpoint.names import ARRAYS_PER_BLOCK, huggingface_names
from gpt2.checkpoint.safetensors import read_metadata, read_safetensors
from gpt2.checkpoint.weights import StoredArray, Weights
from gpt2.config import PUBLISHED_VOCAB_SIZE, ModelConfig
from gpt2.errors import FormatError, MismatchError

NAME = "hf"
CONFIG = "config.json"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Our compact forms; not named WHOLE, or transformers would take the integers for weights.
COMPACT_FILES = {"int8": "model.int8.safetensors", "int4": "model.int4.safetensors"}
FORM_KEY = "gpt2kit_form"
SCALE_SUFFIX = ".scale"
GROUP_SCALE_SUFFIX = ".group_scale"
PREFIX = "transformer."

# Prefixes of a model inside another module, and what adds them.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DistributedDataParallel",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "model": "a module around the model",
}
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
_PADDING_MULTIPLE = 64

log = logging.getLogger("gpt2")


def matches(path: Path) -> bool:
    """Whether `path` is a folder of this format, or a safetensors file beside its `config.json`."""
    if path.is_file():
        return path.suffix == ".safetensors"
    return any((path / name).is_file() for name in (WHOLE, INDEX, *COMPACT_FILES.values()))


def read(path: Path) -> Checkpoint:
    """Open a folder, or one of several safetensors files in it.

    Raises:
        FormatError: a file is damaged, hostile or missing.
        MismatchError: the files are sound, but not a GPT-2.
        OSError: a file cannot be opened.
    """
    folder = path.parent if path.is_file() else path
    config = config_from_json(read_settings(path, CONFIG), str(folder / CONFIG))
    arrays = _join_scales(_read_arrays(path), path)
    return assemble(arrays, config, path, NAME, f"its {CONFIG}")


def assemble(
    arrays: dict[str, StoredArray],
    config: ModelConfig,
    path: Path,
    format: str,
    said_by: str,
    notes: Sequence[str] = (),
) -> Checkpoint:
    """A checkpoint of arrays by Hugging Face's names, matrices as [in, out], without masks, padding and tied head.

    Raises:
        MismatchError: they are not those of the configuration, which came from `said_by`.
    """
    notes = list(notes)
    arrays = unwrapped(arrays, path, notes)
    if config.n_layer * ARRAYS_PER_BLOCK > len(arrays):  # before any list of that length is made
        raise MismatchError(
            f"{path} holds {len(arrays)} arrays, too few for the {config.n_layer:,} layers of {said_by}."
        )
    _drop_masks(arrays, notes)
    if any(array.dtype == "F64" for array in arrays.values()):
        notes.append("float64 rounded to float32")
    head = arrays.pop("lm_head.weight", None)
    if head is not None and "wte.weight" not in arrays:  # safetensors' save_model keeps one name of a shared array
        arrays["wte.weight"] = head
        notes.append("lm_head.weight taken for wte, which is not there: GPT-2's tied head is the same matrix")
    elif head is not None:
        _check_tied(head, arrays["wte.weight"], path)
        notes.append("lm_head.weight left out: it repeats wte, as GPT-2's tied head must")
    config = _cut_padding(arrays, config, path.parent if path.is_file() else path, notes)
    for note in notes:
        log.debug("%s: %s", path, note)
    ours = {huggingface: openai for openai, huggingface in huggingface_names(config.n_layer).items()}
    try:
        weights = Weights(config, {ours.get(name, name): array for name, array in arrays.items()})
    except MismatchError as error:
        raise MismatchError(f"{path} is not the GPT-2 of {said_by}: {error}") from error
    return Checkpoint(weights=weights, path=path, format=format, notes=tuple(notes))


def _read_arrays(path: Path) -> dict[str, StoredArray]:
    if path.is_file():
        return read_safetensors(inside(path.parent, path.name))
    for name in (WHOLE, *COMPACT_FILES.values()):
        if (path / name).is_file():
            return read_safetensors(inside(path, name))
    return read_shards(path, INDEX, ".safetensors", read_safetensors)


def _join_scales(arrays: dict[str, StoredArray], path: Path) -> dict[str, StoredArray]:
    """Join the scales of a compact form to their matrices; refuse integers in a file that does not declare a form."""
    if not any(array.dtype in ("I8", "U8") for name, array in arrays.items() if not _MASK.search(name)):
        return arrays
    files = [path / name for name in COMPACT_FILES.values()] if path.is_dir() else [path]
    form = next((read_metadata(file).get(FORM_KEY) for file in files if file.is_file()), None)
    if form not in COMPACT_FILES:
        raise FormatError(
            f"{path} holds integers and does not say how they are scaled ({FORM_KEY} is neither int8 nor int4)."
        )
    joined: dict[str, StoredArray] = {}
    for name, array in arrays.items():
        if name.endswith((SCALE_SUFFIX, GROUP_SCALE_SUFFIX)):
            continue
        scale, group_scale = arrays.get(name + SCALE_SUFFIX), arrays.get(name + GROUP_SCALE_SUFFIX)
        if array.dtype in ("I8", "U8") and (scale is None or scale.dtype != "F32" or len(scale.shape) != 2):
            raise FormatError(f"{path}: {name[:80]!r} holds integers and has no float32 scales of two axes.")
        if array.dtype == "U8" and form == "int4":
            if group_scale is None or group_scale.dtype != "U8" or len(array.shape) != 2 or len(group_scale.shape) != 2:
                raise FormatError(f"{path}: {name[:80]!r} is int4 and has no group scales of two axes.")
            assert scale is not None
            by_output = name.removeprefix(PREFIX) == "wte.weight"
            joined[name] = Int4Array(
                data=array.data, dtype="I4", scale=scale.data, group_scale=group_scale.data, by_output=by_output
            )
        elif array.dtype == "I8":
            assert scale is not None
            joined[name] = StoredArray(data=array.data, dtype="I8", scale=scale.data)
        else:
            joined[name] = array
    return joined


def unwrapped(arrays: dict[str, StoredArray], path: Path, notes: list[str]) -> dict[str, StoredArray]:
    """The arrays by `GPT2Model`'s names, without the prefixes of wrappers and `GPT2LMHeadModel`."""
    found: dict[str, StoredArray] = {}
    freed: dict[str, str] = {}
    for name, array in arrays.items():
        inner = name
        while (first := inner.partition(".")[0]) in _WRAPPERS:
            inner = inner.removeprefix(f"{first}.")
            freed[first] = _WRAPPERS[first]
        inner = inner.removeprefix(PREFIX)
        if inner in found:
            raise FormatError(f"{path} is broken: {name[:80]!r} is there under another name too.")
        found[inner] = array
    notes.extend(f"names freed of {wrapper}., which {whose} puts before them" for wrapper, whose in freed.items())
    return found


def _drop_masks(arrays: dict[str, StoredArray], notes: list[str]) -> None:
    """Drop the causal masks that old releases store as weights."""
    masks = [name for name in arrays if _MASK.fullmatch(name)]
    for name in masks:
        del arrays[name]
    if masks:
        notes.append(f"attention masks left out ({len(masks)} of attn.bias, attn.masked_bias): they are constants")


def _check_tied(head: StoredArray, wte: StoredArray, path: Path) -> None:
    """Refuse an untied head: replacing it by `wte` would make another model."""
    same = (
        head.shape == wte.shape
        and head.dtype == wte.dtype != "I8"
        and all(a.data.tobytes() == b.data.tobytes() for a, b in zip(head.blocks(), wte.blocks(), strict=True))
    )
    if not same:
        raise MismatchError(
            f"{path} has an lm_head.weight that differs from wte: its head is not tied to the embedding, so it is "
            f"not GPT-2's. Such a model cannot be run here."
        )


def _cut_padding(arrays: dict[str, StoredArray], config: ModelConfig, folder: Path, notes: list[str]) -> ModelConfig:
    """Cut the padding rows of `wte`; return the configuration with the true vocabulary size."""
    wte = arrays.get("wte.weight")
    if wte is None or len(wte.shape) != 2:
        return config  # `Weights` raises the error
    vocab_size = _true_vocab_size(config.vocab_size, folder)
    if wte.shape[0] > vocab_size:
        notes.append(f"vocabulary cut from {wte.shape[0]:,} rows to the {vocab_size:,} that are tokens")
        log.info("%s: %s", folder, notes[-1])
        arrays["wte.weight"] = wte.rows(0, vocab_size)
    return replace(config, vocab_size=vocab_size)


def _true_vocab_size(declared: int, folder: Path) -> int:
    """The declared size, or the vocabulary's own size if the declared one is that rounded up.

    nanoGPT rounds 50,257 up to a multiple of 64, llm.c to one of 128. Any other difference is kept.
    """
    if declared == PUBLISHED_VOCAB_SIZE or declared % _PADDING_MULTIPLE:
        return declared
    if has_vocabulary(folder):
        from gpt2.tokenizer import Tokenizer

        actual = Tokenizer.from_folder(folder).vocab_size
    else:
        actual = PUBLISHED_VOCAB_SIZE
    return actual if 0 < declared - actual < 2 * _PADDING_MULTIPLE else declared
