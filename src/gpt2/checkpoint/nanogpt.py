"""Writing nanoGPT's `ckpt.pt`, a file of `torch.save`, without torch.

Matrices are [out, in]; `lm_head.weight` shares the storage of `wte`, as in nanoGPT. The file has no optimizer state:
nanoGPT's `sample.py` opens it, but its `train.py` resumes only from its own files. The pickle is written instruction
by instruction, and holds only the names, numbers and tensor descriptions that torch's `weights_only` allows.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2.checkpoint.forms import DTYPE_OF_FORM, NUMPY_TYPE
from gpt2.checkpoint.huggingface import PREFIX
from gpt2.checkpoint.names import huggingface_names, shapes
from gpt2.checkpoint.pickle_machine import DTYPES
from gpt2.checkpoint.unfinished import Journal, array_file
from gpt2.checkpoint.weights import Weights, check_plain

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

NAME = "nanogpt"
FILE = "ckpt.pt"
FORMS = ("fp32", "fp16", "bf16")
GELU, TANH = "gelu", "tanh"  # our own entry in the file's `config`: nanoGPT's files do not say which GELU they use

_ALIGNMENT_BYTES = 64
_STORAGE_OF = {dtype: name for name, dtype in DTYPES.items()}
_LOCAL_HEADER_BYTES = 30 + 20  # of a zip member: the fixed part, and the zip64 sizes


def fill(
    folder: Path, weights: Weights, tokenizer: "Tokenizer | None", *, form: str, journal: Journal | None = None
) -> None:
    """Write `ckpt.pt` and, given a tokenizer, the vocabulary files beside it, into an existing folder.

    Raises:
        MismatchError: nanoGPT has no setting for something in the model.
        OSError: the disk is full or the folder cannot be written.
    """
    config, dtype = weights.config, DTYPE_OF_FORM[form]
    check_plain(config, "nanoGPT")
    if tokenizer is not None:
        tokenizer.save(folder)
    theirs = {name: PREFIX + their_name for name, their_name in huggingface_names(config.n_layer).items()}
    tensors: dict[str, bytes] = {}
    for key, (name, shape) in enumerate(shapes(config).items()):
        tensors[theirs[name]] = _tensor(dtype, str(key), shape[::-1] if name.endswith(".w") else shape)
    tensors["lm_head.weight"] = tensors[theirs["wte"]]
    content = {
        "model": _dictionary(tensors),
        "model_args": _dictionary(
            {
                "n_layer": _number(config.n_layer),
                "n_head": _number(config.n_head),
                "n_embd": _number(config.n_embd),
                "block_size": _number(config.n_positions),
                "bias": b"\x88",
                "vocab_size": _number(config.vocab_size),
                "dropout": b"G" + struct.pack(">d", 0.0),
            }
        ),
        "iter_num": _number(0),
        "best_val_loss": b"G" + struct.pack(">d", 1e9),
        "config": _dictionary({GELU: _text(TANH)}),
    }
    item_bytes = np.dtype(NUMPY_TYPE[dtype]).itemsize
    with array_file(folder / FILE, journal) as out, zipfile.ZipFile(out.file, "w") as archive:
        _add(archive, "ckpt/data.pkl", b"\x80\x02" + _dictionary(content) + b".")
        _add(archive, "ckpt/byteorder", b"little")
        for key, (name, shape) in enumerate(shapes(config).items()):
            member = _member(archive, f"ckpt/data/{key}")
            size, begin = item_bytes * int(np.prod(shape)), out.file.tell()
            crc = out.step_over(name, _LOCAL_HEADER_BYTES + len(member.filename) + len(member.extra) + size)
            if crc is not None:
                _enter(archive, member, begin, size, crc)
                continue
            array = weights.stored(name)
            with archive.open(member, "w", force_zip64=True) as stream:
                for values in (array.transposed() if name.endswith(".w") else array).rounded(dtype, name):
                    stream.write(np.ascontiguousarray(values, NUMPY_TYPE[dtype]).reshape(-1).view(np.uint8).data)
            out.note(name, begin, member.CRC)
        _add(archive, "ckpt/version", b"3\n")


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """A member whose content begins at a multiple of 64 bytes, as in torch's files, so that it can be mapped."""
    member = zipfile.ZipInfo(name)
    begin = archive.fp.tell() + _LOCAL_HEADER_BYTES + len(name) if archive.fp else 0
    padding = -(begin + 4) % _ALIGNMENT_BYTES
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return member


def _enter(archive: zipfile.ZipFile, member: zipfile.ZipInfo, begin: int, size: int, crc: int) -> None:
    """Add a member that is already in the file to the archive's directory."""
    member.header_offset, member.file_size, member.compress_size, member.CRC = begin, size, size, crc
    member.external_attr = 0o600 << 16
    member.FileHeader(zip64=True)  # sets the versions for the directory
    archive.filelist.append(member)
    archive.NameToInfo[member.filename] = member
    archive.start_dir = archive.fp.tell() if archive.fp else 0


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    with archive.open(_member(archive, name), "w", force_zip64=True) as out:
        out.write(data)


def _tensor(dtype: str, key: str, shape: tuple[int, ...]) -> bytes:
    count = int(np.prod(shape))
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    storage = _text("storage") + f"ctorch\n{_STORAGE_OF[dtype]}\n".encode() + _text(key) + _text("cpu") + _number(count)
    sizes = b"".join(b"(" + b"".join(map(_number, numbers)) + b"t" for numbers in (shape, strides))
    no_hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + _number(0) + sizes + b"\x89" + no_hooks + b"tR"


def _dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(_text(name) + value for name, value in items.items()) + b"u"


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)
