"""The folders that OpenAI released in 2019: a TensorFlow checkpoint, `hparams.json` and the vocabulary.

`checkpoint` names the newest of several tensor bundles; the graph (`model.ckpt.meta`) is not needed. Names are
OpenAI's with slashes after `model/`, and a matrix has a leading axis of 1: it was a convolution of width 1
(openai/gpt-2, src/model.py).
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.checkpoint.checkpoint import Checkpoint, described_config
from gpt2.checkpoint.folder_files import inside, read_settings
from gpt2.checkpoint.names import ARRAYS_PER_BLOCK, shapes
from gpt2.checkpoint.tensor_bundle import DATA_SUFFIX, INDEX_SUFFIX, BundleArray, read_bundle, write_bundle
from gpt2.checkpoint.unfinished import Journal
from gpt2.checkpoint.weights import StoredArray, Weights, check_plain
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError
from gpt2.files import read_bounded, write_json, write_text

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

NAME = "openai"
FORMS = ("fp32",)
STATE = "checkpoint"
HPARAMS = "hparams.json"
PREFIX = "model/"

_BUNDLE = "model.ckpt"
BUNDLE_FILES = (_BUNDLE + INDEX_SUFFIX, _BUNDLE + DATA_SUFFIX)
_STATE_LIMIT_BYTES = 64 << 10
_BLOCK_NAME = re.compile(r"h(\d+)/(.*)")
_KEYS = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}


def matches(path: Path) -> bool:
    """Whether `path` is a folder with a TensorFlow checkpoint, or one of the index files in it."""
    if path.is_file():
        return path.suffix == INDEX_SUFFIX
    return (path / STATE).is_file() or (path / (_BUNDLE + INDEX_SUFFIX)).is_file()


def read(path: Path) -> Checkpoint:
    """Open a folder, or one of several checkpoints in it by its index file.

    Raises:
        FormatError: a file is damaged, hostile or missing.
        MismatchError: the files are sound, but not a GPT-2.
        OSError: a file cannot be opened.
    """
    folder = path.parent if path.is_file() else path
    config = _config(read_settings(path, HPARAMS), folder / HPARAMS)
    bundle = path.name.removesuffix(INDEX_SUFFIX) if path.is_file() else _newest(folder)
    for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
        inside(folder, bundle + suffix)
    stored = read_bundle(folder / bundle)
    arrays = {_our_name(name): _without_leading_axis(array) for name, array in stored.items() if _is_weight(name)}
    if config.n_layer * ARRAYS_PER_BLOCK > len(arrays):  # before any list of that length is made
        raise MismatchError(f"{path} holds {len(arrays)} arrays, too few for its {config.n_layer:,} layers.")
    notes: list[str] = []
    if others := len(stored) - len(arrays):
        notes.append(f"{others} arrays left out that are an optimizer's state or a counter")
    try:
        weights = Weights(config, arrays)
    except MismatchError as error:
        raise MismatchError(f"{path} is not the GPT-2 of its {HPARAMS}: {error}") from error
    return Checkpoint(weights=weights, path=path, format=NAME, notes=tuple(notes))


def _config(raw: Any, path: Path) -> ModelConfig:
    if not isinstance(raw, dict):
        raise FormatError(f"{path} is not a JSON object.")
    if missing := [key for key in _KEYS if key not in raw]:
        raise FormatError(f"{path} does not say {missing[0]}.")
    return described_config(path, **{ours: raw[theirs] for theirs, ours in _KEYS.items()})


def _newest(folder: Path) -> str:
    """The name of the bundle that `checkpoint` points to, which must be in the folder itself."""
    if not (folder / STATE).is_file():
        return _BUNDLE
    text = read_bounded(folder / STATE, _STATE_LIMIT_BYTES).decode("utf-8", errors="replace")
    found = re.search(r'^model_checkpoint_path:\s*"([^"\n]*)"', text, re.MULTILINE)
    name = re.split(r"[/\\]", found[1])[-1] if found else ""  # drop an absolute path: it is of another machine
    if not re.fullmatch(r"[\w.-]+", name) or not (folder / (name + INDEX_SUFFIX)).is_file():
        raise FormatError(
            f"{folder / STATE} names no checkpoint of this folder: {name[:80]!r} has no index here. "
            f"Name the {INDEX_SUFFIX} file itself."
        )
    return name


def _is_weight(name: str) -> bool:
    """Whether an array is a weight: not the step counter, nor one of the optimizer's two averages."""
    return name.startswith(PREFIX) and not re.search(r"/(Adam|Adam_1|Adafactor\w*|Momentum)$", name)


def _our_name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    block = _BLOCK_NAME.fullmatch(name)
    return (f"h/{block[1]}/{block[2]}" if block else name).replace("/", ".")


def _without_leading_axis(array: StoredArray) -> StoredArray:
    if len(array.shape) != 3 or array.shape[0] != 1:
        return array
    return StoredArray(data=array.data[0], dtype=array.dtype)


def fill(
    folder: Path, weights: Weights, tokenizer: "Tokenizer | None", *, form: str, journal: Journal | None = None
) -> None:
    """Write a model's files, for OpenAI's own code to load, into an existing folder.

    Raises:
        MismatchError: OpenAI's code has no key for something in the model.
        OSError: the disk is full or the folder cannot be written.
    """
    assert form in FORMS
    config = weights.config
    check_plain(config, "OpenAI's code")
    write_json(folder / HPARAMS, {theirs: getattr(config, ours) for theirs, ours in _KEYS.items()})
    if tokenizer is not None:
        _write_vocabulary(folder, tokenizer)
    arrays: dict[str, BundleArray] = {}
    for name, shape in shapes(config).items():
        is_matrix = name.endswith(".w")
        pieces = weights.stored(name).rounded("F32", name)
        arrays[_their_name(name)] = BundleArray((1, *shape) if is_matrix else shape, pieces)
    write_bundle(folder / _BUNDLE, arrays, journal)
    state = f'model_checkpoint_path: "{_BUNDLE}"\nall_model_checkpoint_paths: "{_BUNDLE}"\n'
    write_text(folder / STATE, state)


def _their_name(name: str) -> str:
    return PREFIX + re.sub(r"^h/(\d+)", r"h\1", name.replace(".", "/"))


def _write_vocabulary(folder: Path, tokenizer: "Tokenizer") -> None:
    """The same content as Hugging Face's two files, under OpenAI's names."""
    tokenizer.save(folder)
    (folder / "vocab.json").rename(folder / "encoder.json")
    (folder / "merges.txt").rename(folder / "vocab.bpe")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
