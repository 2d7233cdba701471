"""Downloading a published model or one of the hub: first a plan, then its files, and last its name.

The model has no name until every file is here with the right hash, so nothing can open half of it. What has arrived
stays after any stop, and the next call resumes.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2.config import PUBLISHED, published_with_sizes
from gpt2.errors import DownloadError, FormatError
from gpt2.files import lock, read_json, sha256_file, write_json
from gpt2.hub import original, places, repository
from gpt2.hub.integrity import DOWNLOADED, check_hashes
from gpt2.hub.places import HUB_ID, PUBLISHER
from gpt2.hub.transfer import Progress, RemoteFile, fetch, wrong_hash

SOURCES = ("huggingface", "openai")

_RESERVE_BYTES = 64 << 20  # leave this much of the disk free
_PART = ".gpt2-part"

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a download would do.

    Attributes:
        name: for `--model`.
        source: "huggingface" or "openai".
        server: the address it comes from.
        place: the folder that it will be read from.
        files: all of them, in the order of fetching.
        present_bytes: already here, including partial files.
        total_bytes: of all files whose length is known.
        free_bytes: on the disk of `place`.
    """

    name: str
    source: str
    server: str
    place: Path
    files: tuple[RemoteFile, ...]
    present_bytes: int
    total_bytes: int
    free_bytes: int

    @property
    def missing_bytes(self) -> int:
        """Bytes still to fetch."""
        return self.total_bytes - self.present_bytes


def plan(name: str, *, source: str = "huggingface", allow_pickle: bool = False) -> Plan:
    """Find out what there is to download.

    Args:
        name: `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`, or a hub id `ORG/NAME`.
        source: "huggingface", the hub or its mirror; or "openai", the files of 2019 of a published model.
        allow_pickle: take `pytorch_model.bin` if there is nothing better.

    Raises:
        DownloadError: offline mode is on, the name is unknown, or the server cannot be reached or has no model there.
    """
    if source not in SOURCES:
        raise DownloadError(f"Models cannot be downloaded from {source!r}: choose one of {', '.join(SOURCES)}.")
    _refuse_offline()
    short = name.removeprefix(f"{PUBLISHER}/")
    if source == "openai":
        if short not in PUBLISHED:
            raise DownloadError(f"OpenAI published no {name[:200]!r}: choose one of {published_with_sizes()}.")
        folder = places.in_our_cache(short)
        files = [_as_present(folder, file) for file in original.list_files(short)]
        total = sum(file.bytes or 0 for file in files)
        present = sum(min(file.bytes, _gathered_bytes(folder, file)) for file in files if file.bytes is not None)
        return _plan(short, source, original.STORE, folder, files, present, total)
    hub_id = f"{PUBLISHER}/{short}" if short in PUBLISHED else name
    if not HUB_ID.fullmatch(hub_id):
        raise DownloadError(
            f"{name[:200]!r} cannot be downloaded: it is neither one of {published_with_sizes()} nor a hub id ORG/NAME."
        )
    revision, files = repository.list_files(hub_id, allow_pickle=allow_pickle)
    folder = places.huggingface_repository(hub_id)
    present = sum(
        min(file.bytes or 0, _size(repository.blob(folder, file)) or _size(_part(folder, file)))
        if not repository.is_here(folder, revision, file)
        else file.bytes or 0
        for file in files
    )
    total = sum(file.bytes or 0 for file in files)
    shown = short if short in PUBLISHED else hub_id
    return _plan(shown, source, repository.endpoint(), folder / "snapshots" / revision, files, present, total)


def download(
    plan: Plan, *, progress: Progress = lambda more: None, pause: Callable[[float], None] = time.sleep
) -> Path:
    """Carry out a plan, and return the folder of the model.

    Args:
        plan: from `plan`.
        progress: called with the number of bytes that are new here.
        pause: waits before a retry.

    Raises:
        DownloadError: the disk has not enough room or becomes full, the connection fails for good, what came is not
            what was announced, or the cache cannot be written.
        FolderInUseError: another process is fetching the same model.
    """
    if plan.missing_bytes + _RESERVE_BYTES > plan.free_bytes:
        raise DownloadError(
            f"{plan.name} cannot be downloaded: {plan.missing_bytes / 1e6:,.0f} MB are to come and "
            f"{plan.free_bytes / 1e6:,.0f} MB are free at {plan.place}. Make room, or choose another place: "
            f"{'HF_HOME' if plan.source == 'huggingface' else 'XDG_CACHE_HOME'} says where."
        )
    fill = _from_huggingface if plan.source == "huggingface" else _from_openai
    try:
        return fill(plan, progress, pause)
    except OSError as error:
        when = "files may grow larger (ulimit -f)" if error.errno == errno.EFBIG else "there is room"
        raise DownloadError(
            f"{plan.name} cannot be downloaded: the cache of {plan.place} cannot be written: "
            f"{error.strerror or error}. What has arrived is kept: run it again when {when}."
        ) from error


def _from_huggingface(plan: Plan, progress: Progress, pause: Callable[[float], None]) -> Path:
    revision, folder = plan.place.name, plan.place.parent.parent
    with lock(folder.parent / ".locks" / folder.name):
        for file in plan.files:
            blob = repository.blob(folder, file)
            here = next((p for p in (plan.place / file.name, blob) if p.is_file() and _size(p) == file.bytes), None)
            if here is not None and not _is_damaged(here, file):
                progress(file.bytes or 0)
            else:
                part = _part(folder, file)
                fetch(file, blob, part=part, headers=repository.headers(), progress=progress, pause=pause)
                here = blob
            if here is blob:
                repository.name_blob(folder, revision, file)
            if file.name == "config.json":
                _check_kind(plan.place / file.name, plan.name)
        repository.name_revision(folder, revision)
    return plan.place


def _from_openai(plan: Plan, progress: Progress, pause: Callable[[float], None]) -> Path:
    """Fetch the files into a folder beside the goal, which gets the goal's name at the end."""
    if places.holds_model(plan.place):
        if damaged := next((file for file in check_hashes(plan.place) if file.fault), None):
            raise DownloadError(
                f"{plan.name} is here, and damaged: of {damaged.name}, {damaged.fault}. `gpt2 models --remove "
                f"{plan.name}` removes it; then download it again."
            )
        progress(plan.total_bytes)
        return plan.place
    gathered = _unfinished(plan.place)
    with lock(plan.place.parent / ".locks" / plan.place.name):
        for file in plan.files:
            if not (gathered / file.name).is_file():
                known: Progress = progress if file.bytes is not None else lambda more: None
                part = gathered / f"{file.name}{_PART}"
                fetch(file, gathered / file.name, part=part, progress=known, pause=pause)
            else:
                progress(file.bytes or 0)
        if plan.place.exists():
            raise DownloadError(f"{plan.place} holds something that is no model. Move it away, and run it again.")
        hashes = {file.name: sha256_file(gathered / file.name) for file in plan.files}
        write_json(gathered / DOWNLOADED, {"from": plan.server, "sha256": hashes})
        gathered.rename(plan.place)
    return plan.place


def _is_damaged(path: Path, file: RemoteFile) -> bool:
    fault = wrong_hash(path, sha256=file.sha256, git_sha1=file.git_sha1)
    if fault:
        log.warning("%s is here but damaged (%s): downloading it again", file.name, fault)
    return fault is not None


def _plan(name: str, source: str, server: str, place: Path, files: list[RemoteFile], present: int, total: int) -> Plan:
    standing = next((parent for parent in place.parents if parent.exists()), place.parent)  # a drive may not exist
    return Plan(
        name=name,
        source=source,
        server=server,
        place=place,
        files=tuple(files),
        present_bytes=present,
        total_bytes=total,
        free_bytes=shutil.disk_usage(standing).free,
    )


def _refuse_offline() -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").strip().upper() in ("1", "ON", "YES", "TRUE"):
            raise DownloadError(f"Nothing is downloaded: {variable} is set. Unset it to allow the network.")


def _check_kind(config: Path, name: str) -> None:
    """Refuse another kind of model before its weights are fetched."""
    try:
        raw: Any = read_json(config)
    except FormatError as error:
        raise DownloadError(f"{name} cannot be downloaded: its config.json is not readable.") from error
    kind = raw.get("model_type") if isinstance(raw, Mapping) else None
    if kind != "gpt2":
        raise DownloadError(f"{name} is not a GPT-2: its config.json says {kind!r:.60}. Its weights were not fetched.")


def _as_present(folder: Path, file: RemoteFile) -> RemoteFile:
    return replace(file, bytes=_size(folder / file.name)) if places.holds_model(folder) else file


def _gathered_bytes(folder: Path, file: RemoteFile) -> int:
    places_of_it = (folder / file.name, _unfinished(folder) / file.name, _unfinished(folder) / f"{file.name}{_PART}")
    return max(_size(path) for path in places_of_it)


def _part(folder: Path, file: RemoteFile) -> Path:
    blob = repository.blob(folder, file)
    return blob.with_name(blob.name + _PART)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".unfinished-{folder.name}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
