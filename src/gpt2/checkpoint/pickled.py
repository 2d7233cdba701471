"""Models that `torch.save` wrote: nanoGPT's `ckpt.pt`, minGPT's `model.pt`, Megatron's `model_optim_rng.pt`,
transformers' `pytorch_model.bin`.

Read only with the caller's consent, since other readers run programs from such files. This one does not:
`torch_pickle`, in a process of its own, reports the tensors and the places of their numbers; the report is checked
against the file, and the numbers are mapped.

nanoGPT and minGPT keep a matrix as [out, in], transformers as [in, out], under the same names. nanoGPT and Megatron
keep the shape in the file (`model_args`, `args`), the others in a `config.json` beside it.

nanoGPT computes GELU exactly (`nn.GELU()`), GPT-2 in its tanh form. Such a model is refused unless the caller accepts
the difference; files of our own writing say which form they use.
"""

import mmap
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.checkpoint import megatron
from gpt2.checkpoint.checkpoint import Checkpoint, described_config
from gpt2.checkpoint.folder_files import inside, read_shards
from gpt2.checkpoint.forms import NUMPY_TYPE
from gpt2.checkpoint.hf_config import config_from_json
from gpt2.checkpoint.huggingface import CONFIG, assemble, unwrapped
from gpt2.checkpoint.names import huggingface_names, shapes
from gpt2.checkpoint.nanogpt import GELU, TANH
from gpt2.checkpoint.weights import StoredArray
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError
from gpt2.files import parse_json, read_json

INDEX = "pytorch_model.bin.index.json"
FILES = ("ckpt.pt", "model.pt", "pytorch_model.bin", megatron.FILE)
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_OUTPUT_LIMIT_BYTES = 64 << 20
_TIMEOUT_SECONDS = 120
_TURNED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_OF_OBJECT = re.compile(r"\b(_modules|_parameters|_buffers)\.")  # in the names of a module that was saved whole
# The entry with the model's sizes, and which GELU the code that writes it uses, or may use.
_DOES = {
    "model_args": "nanoGPT computes GELU exactly",
    "config": "the code that wrote it may compute GELU exactly (it does not say)",
}
_SIZES = {  # nanoGPT's and minGPT's names, and ours
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The tensors of a model, by name, and the numbers and strings of the file."""

    arrays: dict[str, StoredArray]
    settings: dict[str, Any]


def matches(path: Path) -> bool:
    """Whether `path` is such a file by its name, or a folder with one."""
    return _file(path) is not None


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix in SUFFIXES else None
    return next((path / name for name in (*FILES, INDEX) if (path / name).is_file()), None) or megatron.file_in(path)


def read(path: Path, *, tanh_gelu: bool = False) -> Checkpoint:
    """Open a file, or the one in a folder.

    Args:
        path: of either.
        tanh_gelu: use GPT-2's form of GELU even if the model was not, or may not have been, trained with it.

    Raises:
        FormatError: it is damaged, hostile, or uses more than a state dict needs.
        MismatchError: it is a sound file, but not a GPT-2.
        OSError: it cannot be opened.
    """
    file = _file(path)
    assert file is not None
    inside(file.parent, file.name)
    megatron.check_whole(file)
    if file.name == INDEX:
        shards = read_shards(file.parent, INDEX, ".bin", lambda shard: _look(shard).arrays)
        found = _Found(arrays=shards, settings={})
    else:
        found = _look(file)
    arrays = {_OF_OBJECT.sub("", name): array for name, array in found.arrays.items()}
    notes: list[str] = []
    arrays = unwrapped(arrays, file, notes)
    if any(name.startswith(megatron.PREFIX) for name in arrays):
        return _read_megatron(path, file, arrays, found.settings, tanh_gelu=tanh_gelu)
    said_by, settings = _settings_of(found, file)
    if settings:
        config = _nanogpt_config(settings, file, said_by)
        format = "nanogpt"
        if found.settings.get(f"config.{GELU}") != TANH:
            notes.append(_other_gelu(file, _DOES[said_by], tanh_gelu=tanh_gelu))
    else:
        config, format = _config_beside(file)
    if format != "hf":
        arrays = {name: a.transposed() if _is_turned(name, a) else a for name, a in arrays.items()}
        notes.append("matrices transposed from [out, in] to [in, out]")
    if settings.get("bias") is False:
        arrays = _with_biases(arrays, config, notes)
    return assemble(arrays, config, path, format, f"its {said_by if settings else CONFIG}", notes)


def _read_megatron(
    path: Path, file: Path, arrays: Mapping[str, StoredArray], settings: Mapping[str, Any], *, tanh_gelu: bool
) -> Checkpoint:
    args = {name.removeprefix("args."): value for name, value in settings.items() if name.startswith("args.")}
    notes = ["matrices transposed from [out, in] to [in, out]"]
    if args:
        config, said_by = megatron.config_of(args, file), "its args"
        if not megatron.has_tanh_gelu(args):
            does = "Megatron without openai_gelu or bias_gelu_fusion computes GELU exactly"
            notes.append(_other_gelu(file, does, tanh_gelu=tanh_gelu))
    else:
        config, said_by = _config_beside(file)[0], f"its {CONFIG}"
    order = megatron.ordering(settings.get("checkpoint_version"), file)
    if order != "SHK":
        notes.append(f"queries, keys and values reordered from checkpoint_version {settings['checkpoint_version']:g}")
    named = megatron.renamed(arrays, config.n_head, order, file)
    return assemble(named, config, path, megatron.NAME, said_by, notes)


def _settings_of(found: _Found, file: Path) -> tuple[str, dict[str, Any]]:
    """The name and content of the model's settings in a file: nanoGPT's `model_args`, or a complete `config`.

    A `config.json` beside the file takes precedence over `config`, since it also tells the layout of the matrices.
    """
    for place in _DOES:
        settings = {
            name.removeprefix(f"{place}."): value
            for name, value in found.settings.items()
            if name.startswith(f"{place}.")
        }
        is_whole = settings.keys() >= _SIZES.keys() and not (file.parent / CONFIG).is_file()
        if settings and (place == "model_args" or is_whole):
            return place, settings
    return "", {}


def _other_gelu(file: Path, does: str, *, tanh_gelu: bool) -> str:
    """The note on a model that runs with another GELU than its own.

    Raises:
        MismatchError: the caller did not allow it.
    """
    if not tanh_gelu:
        raise MismatchError(
            f"{file} is not taken for a GPT-2: {does}, GPT-2 by its tanh form, so its logits "
            f"would differ a little here. Where that does not matter, or the weights came from GPT-2, allow it: "
            f"--tanh-gelu (tanh_gelu=True)."
        )
    return f"{does}, GPT-2 by its tanh form: logits differ a little from its own"


def _is_turned(name: str, array: StoredArray) -> bool:
    return _TURNED.fullmatch(name) is not None and len(array.shape) == 2


def _nanogpt_config(settings: Mapping[str, Any], path: Path, said_by: str) -> ModelConfig:
    if missing := [key for key in _SIZES if key not in settings]:
        raise FormatError(f"{path} does not say {missing[0]} in its {said_by}.")
    return described_config(path, **{ours: settings[theirs] for theirs, ours in _SIZES.items()})


def _config_beside(file: Path) -> tuple[ModelConfig, str]:
    """transformers' configuration, or minGPT's, whose trainer writes a `config.json` with a section `model`."""
    if not (file.parent / CONFIG).is_file():
        raise FormatError(
            f"{file} cannot be read: it does not say how many heads the model has, and there is no {CONFIG} beside it. "
            f"Put the model's {CONFIG} there, or one that says "
            f'{{"model_type": "gpt2", "n_layer": …, "n_head": …, "n_embd": …}}.'
        )
    source = file.parent / CONFIG
    raw: Any = read_json(inside(file.parent, CONFIG))
    model: Any = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict):
        return config_from_json(raw, str(source)), "hf"
    return described_config(source, **{ours: model.get(theirs) for theirs, ours in _SIZES.items()}), "mingpt"


def _with_biases(arrays: dict[str, StoredArray], config: ModelConfig, notes: list[str]) -> dict[str, StoredArray]:
    """Add zero biases to a model trained without biases."""
    if config.n_layer > len(arrays):  # before any list of that length is made
        return arrays
    theirs = huggingface_names(config.n_layer)
    added = {
        theirs[name]: StoredArray(data=np.zeros(shape, np.float32), dtype="F32")
        for name, shape in shapes(config).items()
        if name.endswith(".b") and theirs[name] not in arrays
    }
    notes.append(f"biases of zero added ({len(added)} arrays): the model was trained without")
    return arrays | added


def _look(file: Path) -> _Found:
    """Have the other process describe a file, check the description against the file, and map it."""
    command = [sys.executable, "-P", "-m", "gpt2.checkpoint.torch_pickle", str(file.resolve())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FormatError(
            f"{file} cannot be read: looking through it took too long. It is damaged or hostile."
        ) from error
    if done.returncode or len(done.stdout) > _OUTPUT_LIMIT_BYTES:
        raise FormatError(f"{file} cannot be read: looking through it failed. It is damaged or hostile.")
    facts: Any = parse_json(done.stdout, f"what was found in {file}")
    if "error" in facts:
        raise FormatError(f"{file} cannot be read: {facts['error']}. Nothing in it was run.")
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    way = facts["weights"]  # other entries may have any shape
    tensors = {
        name.removeprefix(way): tensor
        for name, tensor in facts["tensors"].items()
        if name.startswith(way) and not name.startswith("optimizer.")
    }
    if not tensors:
        raise MismatchError(f"{file} holds no tensors.")
    if sum(map(_copied_bytes, tensors.values())) > 2 * size:  # else many names of the same bytes fill the memory
        raise FormatError(f"{file} is refused: its tensors lie over one another, and not at multiples of their size.")
    arrays = {name: _mapped(mapping, name, tensor, size, file) for name, tensor in tensors.items()}
    return _Found(arrays=arrays, settings=facts["settings"])


def _copied_bytes(tensor: Mapping[str, Any]) -> int:
    """The bytes that are copied since they do not begin at a multiple of the type's size."""
    item_bytes = np.dtype(NUMPY_TYPE[tensor["dtype"]]).itemsize
    return prod(tensor["shape"]) * item_bytes if tensor["begin"] % item_bytes else 0


def _mapped(mapping: mmap.mmap | bytes, name: str, tensor: Mapping[str, Any], size: int, file: Path) -> StoredArray:
    """A tensor of the file, as stored or transposed."""
    kind, shape, strides = NUMPY_TYPE[tensor["dtype"]], tuple(tensor["shape"]), tuple(tensor["strides"])
    count, begin = prod(shape), tensor["begin"]
    end = begin + count * np.dtype(kind).itemsize
    if count == 0 or not 0 <= begin <= end <= tensor["end"] <= size:
        raise FormatError(f"{file} is damaged: {name[:80]!r} of the shape {list(shape)} does not lie in it.")
    data = np.frombuffer(mapping, kind, count, begin)
    if not data.flags.aligned:
        data = data.copy()
    if strides == _strides_of(shape):
        return StoredArray(data=data.reshape(shape), dtype=tensor["dtype"])
    if len(shape) == 2 and strides == _strides_of(shape[::-1])[::-1]:
        return StoredArray(data=data.reshape(shape[::-1]).T, dtype=tensor["dtype"])
    raise FormatError(f"{file}: {name[:80]!r} does not lie in one piece. Save the model again, with .contiguous().")


def _strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
