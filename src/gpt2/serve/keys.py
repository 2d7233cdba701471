"""API keys: held as hashes, compared in constant time.

A key comes as `Authorization: Bearer KEY`, or as the password of HTTP basic authentication, for which a browser prompts
its user.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from gpt2.errors import SettingError

_MIN_CHARACTERS = 16


class Keys:
    """The keys of a server; without any it is open to everyone who can reach it.

    Args:
        keys: in clear; only their SHA-256 is kept.

    Raises:
        SettingError: a key that is too short to withstand guessing, or that a header cannot carry.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests: list[bytes] = []
        for number, key in enumerate(keys, start=1):
            if len(key) < _MIN_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
                raise SettingError(
                    f"API key number {number} cannot be used: a key is at least {_MIN_CHARACTERS} printable ASCII "
                    f"characters without spaces, and this one has {len(key)} characters. Generate one: "
                    f'python -c "import secrets; print(secrets.token_urlsafe(32))".'
                )
            self._digests.append(hashlib.sha256(key.encode()).digest())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def holder(self, authorization: str | None) -> str | None:
        """The short name of the key in this header; None if it holds none of ours."""
        given = hashlib.sha256(_key_of(authorization or "").encode("utf-8", "replace")).digest()
        found: str | None = None
        for digest in self._digests:  # all of them, so that timing reveals nothing
            if hmac.compare_digest(digest, given):
                found = digest.hex()[:8]
        return found


def read_keys(file: Path | None, environment: str | None) -> Keys:
    """Keys from a file, one a line (# begins a remark), and from a variable, separated by commas or white space.

    Raises:
        SettingError: the file holds no key or is not UTF-8, or a key cannot be used.
        OSError: the file cannot be read.
    """
    keys: list[str] = []
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise SettingError(
                f"The server cannot be protected by {file}: byte {error.start:,} is not UTF-8. Write keys in plain "
                f"letters, one on each line."
            ) from None
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        keys += [line for line in lines if line]
        if not keys:  # an empty file must not open the server
            raise SettingError(f"The server cannot be protected by {file}: it holds no key. Write one on each line.")
    keys += [key for key in re.split(r"[,\s]+", environment or "") if key]
    return Keys(keys)


def _key_of(authorization: str) -> str:
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
