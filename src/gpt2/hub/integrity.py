"""Checking that downloaded files are unchanged, against the hashes that came with them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.errors import FormatError
from gpt2.files import read_json
from gpt2.hub.transfer import wrong_hash

DOWNLOADED = "downloaded.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashed:
    """A file whose hash is known.

    Attributes:
        name: in its folder.
        hash: that it must have.
        fault: how it differs, in words; None if it does not.
    """

    name: str
    hash: str
    fault: str | None


def check_hashes(folder: Path, *, progress: Callable[[str], None] = lambda name: None) -> Iterator[Hashed]:
    """Check every file whose hash is known: from its blob's name in Hugging Face's cache, or from our own record.

    Raises:
        FormatError: the record cannot be read.
        OSError: a file cannot be read.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_symlink() and path.is_file() and path.resolve().parent.name == "blobs":
            hash = path.resolve().name
            progress(path.name)
            if re.fullmatch(r"[0-9a-f]{64}", hash):
                yield Hashed(name=path.name, hash=hash, fault=wrong_hash(path, sha256=hash))
            elif re.fullmatch(r"[0-9a-f]{40}", hash):
                yield Hashed(name=path.name, hash=hash, fault=wrong_hash(path, git_sha1=hash))
    if (folder / DOWNLOADED).is_file():
        raw: Any = read_json(folder / DOWNLOADED)
        noted: Any = raw.get("sha256") if isinstance(raw, dict) else None
        if not isinstance(noted, dict):
            raise FormatError(f"{folder / DOWNLOADED} lists no hashes. Download the model again.")
        for name, hash in noted.items():
            progress(str(name))
            fault = wrong_hash(folder / name, sha256=hash) if (folder / name).is_file() else "it is not there"
            yield Hashed(name=name, hash=hash, fault=fault)
