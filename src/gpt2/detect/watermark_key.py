"""The key file of a watermark: a random secret, and the number of tokens that the noise depends on.

No message contains the key: an error names the file, never its content.
"""

import codecs
import json
import logging
import operator
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gpt2.errors import ConfigError
from gpt2.files import make_folder
from gpt2.generation import ContextNoise, GreenList

log = logging.getLogger("gpt2")

_SECRET_BYTES = 32
_MOST_BYTES = 4096
_REMARK = (
    "# Whoever has this key can read the mark of texts, and forge it. Without it nobody can read them: keep a copy."
)
_GREEN: dict[str, tuple[str, Callable[[Any], Any]]] = {  # transformers' names -> ours
    "greenlist_ratio": ("gamma", float),
    "bias": ("delta", float),
    "hashing_key": ("hash_key", operator.index),
    "seeding_scheme": ("scheme", str),
    "context_width": ("width", operator.index),
}
_FORM = re.compile(r"gpt2 watermark key 1\nwidth ([1-9][0-9]?)\nsecret ([0-9a-f]{64})")


def write_new_key(path: Path, *, width: int = 4, green: Literal["lefthash", "selfhash"] | None = None) -> None:
    """Draw a secret and write it to a new file that only its owner may read.

    Args:
        path: must not exist yet, since overwriting a key makes the marks of its texts unreadable.
        width: tokens that the noise depends on: fewer survive more editing, but repeat more often.
        green: make it a green list of this scheme, as the JSON of transformers' `WatermarkingConfig`.

    Raises:
        ConfigError: the file exists.
        OSError: it cannot be written; no file is left.
    """
    assert 1 <= width <= 99
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"The key cannot be written to {path}: that is there already, and texts that were marked with a lost key "
            f"cannot be read. Name another file."
        ) from None
    except NotADirectoryError:
        make_folder(path.parent)  # fails, with the reason
        raise
    try:
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
            file.write(_new_green(green, width) if green else _new_secret(width))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _new_secret(width: int) -> str:
    return f"{_REMARK}\ngpt2 watermark key 1\nwidth {width}\nsecret {secrets.token_hex(_SECRET_BYTES)}\n"


def _new_green(scheme: Literal["lefthash", "selfhash"], width: int) -> str:
    green = GreenList(scheme=scheme, width=1 if scheme == "lefthash" else width, hash_key=secrets.randbits(62))
    return json.dumps({theirs: getattr(green, ours) for theirs, (ours, _) in _GREEN.items()}, indent=2) + "\n"


def read_key(path: Path) -> ContextNoise | GreenList:
    """The noise of a key file, to mark with (`model.noise`) or to read by (`read_mark`, `read_green`).

    A JSON object is a green list, as transformers' `WatermarkingConfig.to_json_file` writes it. A file that other users
    of this machine may read is accepted with a warning.

    Raises:
        ConfigError: it is not a key file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        data = file.read(_MOST_BYTES + 1)
    noise = None if len(data) > _MOST_BYTES else _noise_of(data)
    if noise is None:
        raise ConfigError(
            f"{path} cannot be used as a watermark key: it is not a file that `gpt2 detect --new-key FILE` or "
            f"transformers' WatermarkingConfig wrote, or it was changed. Name the right file, or make a new one."
        )
    if os.name == "posix" and stat.S_ISREG(facts.st_mode) and facts.st_mode & 0o077:
        log.warning("others on this machine may use the watermark key %s: chmod 600 it, or make a new one", path)
    return noise


def _noise_of(data: bytes) -> ContextNoise | GreenList | None:
    text = data.removeprefix(codecs.BOM_UTF8).decode("ascii", "replace")  # editors such as Notepad add a BOM
    if text.lstrip().startswith("{"):
        return _green_list_of(text)
    lines = text.splitlines()
    found = _FORM.fullmatch("\n".join(line.rstrip() for line in lines if line.strip() and line[0] != "#"))
    return None if found is None else ContextNoise(bytes.fromhex(found[2]), width=int(found[1]))


def _green_list_of(text: str) -> GreenList | None:
    try:
        given = json.loads(text)
        if set(given) != set(_GREEN):
            return None
        return GreenList(**{ours: kind(given[theirs]) for theirs, (ours, kind) in _GREEN.items()})
    except (ValueError, TypeError, RecursionError, OverflowError):  # ConfigError is a ValueError
        return None
