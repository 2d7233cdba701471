"""A cache of packed weights in the user's cache folder, so that a large model is packed once and not at every start.

A file holds one line of JSON padded to a page, the engine's pieces as they lie in memory, and their checksum. The
JSON line records what the pieces were made from: size, time and first bytes of every model file, the form and the
layout. If the line differs or the checksum fails, the weights are packed again and the file is replaced. A file gets
its name only when it is complete, so two processes may write it at once. A cache that cannot be written costs only
time, and the log says so. Packing a model also removes the cached weights of models that no longer exist; a model on
an unmounted drive still counts as existing.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import ModelConfig
from gpt2.files import atomic_file, cache_folder, remove_intruder
from gpt2.native.interface import ABI
from gpt2.native.library import Engine

_HEADER_BYTES = 4096
_SAMPLE_BYTES = 64 << 10  # read of each model file: covers the safetensors header of the 124M
_CHECKSUM_BYTES = 8
_LEAST_BYTES = 32 << 20  # below this, packing is as fast as reading

log = logging.getLogger("gpt2")


def restore(engine: Engine, path: Path, made_of: str) -> bool:
    """Fill the engine from the cached file; False if it is missing, damaged or made from something else."""
    if not path.is_file():  # not there, or a pipe, which would wait
        return False
    try:
        with path.open("rb", buffering=0) as file:
            if file.read(_HEADER_BYTES).rstrip() != made_of.encode():
                log.debug("%s was made of other weights, and is packed anew", path)
                return False
            if _read(file, engine):
                return True
        log.warning("%s is damaged: packing again", path)
    except OSError as error:
        log.info("the packed weights in %s cannot be read (%s): packing again", path, error.strerror or error)
    for piece in engine.pieces():  # packing relies on a new engine's zeros
        np.frombuffer(piece, np.uint8)[:] = 0
    return False


def _read(file: FileIO, engine: Engine) -> bool:
    """Read all pieces; return whether their checksum holds."""
    for piece in engine.pieces():
        done = 0
        while done < len(piece):  # one read returns at most 2 GiB
            if not (read := file.readinto(piece[done:])):
                return False  # truncated
            done += read
    return file.read(_CHECKSUM_BYTES + 1) == _checksum(engine)


def keep(engine: Engine, path: Path, made_of: str) -> None:
    """Write the engine's pieces, atomically; a failure is logged and changes nothing."""
    try:
        remove_intruder(path)
        with atomic_file(path) as file:
            file.write(made_of.encode().ljust(_HEADER_BYTES))
            for piece in engine.pieces():
                file.write(piece)
            file.write(_checksum(engine))
        drop_orphans()
    except OSError as error:
        log.info("packed weights are not kept in %s (%s): the next start packs again", path, error.strerror or error)


def _checksum(engine: Engine) -> bytes:
    return engine.checksum().to_bytes(_CHECKSUM_BYTES, sys.byteorder)


def place(files: Sequence[Path], config: ModelConfig, form: str) -> tuple[Path, str] | None:
    """The cache path of a model's packed weights and the record of their sources; None if not worth caching.

    Each model and form has one path, so a changed model replaces its old file.
    """
    if not files or form == "fp32" or _packed_bytes(config, form) < _LEAST_BYTES:
        return None
    try:
        facts = [_facts(file) for file in files if file.is_file()]
    except OSError:
        return None
    what = {"layout": ABI, "balanced": True, "order": sys.byteorder, "form": form, "config": asdict(config)}
    made_of = hashlib.sha256(json.dumps([what, facts], sort_keys=True).encode()).hexdigest()
    source = str(files[0].resolve().parent if len(files) > 1 else files[0].resolve())
    said = json.dumps({"made_of": made_of, "form": form, "source": source, "drive": _drive_of(Path(source))})
    if len(said) > _HEADER_BYTES:  # e.g. a path of thousands of characters
        return None
    name = hashlib.sha256(os.fsencode(source)).hexdigest()
    return _folder() / f"{name[:16]}-{form}", said


def drop_orphans() -> int:
    """Remove the packed weights of models that no longer exist, and return the bytes freed."""
    freed = 0
    for path in _folder().glob("*-*") if _folder().is_dir() else ():
        if path.name.startswith(".") or not path.is_file():  # being written, or not ours
            continue
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(_HEADER_BYTES))
            if _is_of_a_model_that_is_gone(header):
                size = path.stat().st_size
                path.unlink()
                freed += size
        except (OSError, ValueError, RecursionError) as error:  # in use, not ours, or gone by now
            log.debug("%s stays: %s", path, error)
    return freed


def _is_of_a_model_that_is_gone(header: object) -> bool:
    match header:
        case {"made_of": str(), "source": str(source), **rest}:
            drive = str(rest.get("drive", os.sep))
            return not os.path.lexists(source) and Path(drive).exists() and os.path.ismount(drive)
        case {"made_of": str(), "form": str(), **rest}:
            return not rest  # an older version, which did not record its sources
        case _:  # not ours
            return False


def _drive_of(source: Path) -> str:
    """The mount point of the drive that holds `source`."""
    return str(next(folder for folder in (source, *source.parents) if os.path.ismount(folder)))


def _folder() -> Path:
    return cache_folder() / "packed"


def _facts(file: Path) -> list[Any]:
    status = file.stat()
    with file.open("rb") as opened:
        start = hashlib.sha256(opened.read(_SAMPLE_BYTES)).hexdigest()
    return [file.name, status.st_size, status.st_mtime_ns, start]


def _packed_bytes(config: ModelConfig, form: str) -> int:
    matrices = (
        config.vocab_size * config.n_embd + config.n_layer * (4 * config.n_embd + 2 * config.n_inner) * config.n_embd
    )
    return matrices * {"bf16": 2}.get(form, 1)
