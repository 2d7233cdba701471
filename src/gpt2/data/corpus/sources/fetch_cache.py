"""What addresses gave, and the folder that remembers it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2.files import atomic_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What an address gave.

    Attributes:
        address: the last one, after redirects.
        status: of HTTP; 0 where it did not come so far.
        content_type: as the server told.
        body: decompressed.
        problem: why there is no page; empty where there is one.
        lasting: whether the problem will not mend by itself.
        offline: whether it may be that this machine has no network.
    """

    address: str
    status: int = 0
    content_type: str = ""
    body: bytes = b""
    problem: str = ""
    lasting: bool = True
    offline: bool = False


class Cache:
    """A folder that remembers what addresses gave: a head in JSON, and the body behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def _path(self, address: str) -> Path:
        name = hashlib.blake2b(address.encode("utf-8", "replace"), digest_size=16).hexdigest()
        return self.folder / name[:2] / name

    def get(self, address: str) -> Fetched | None:
        """What is remembered."""
        try:
            head, _, body = self._path(address).read_bytes().partition(b"\n")
            return Fetched(**json.loads(head), body=body)
        except (OSError, ValueError, TypeError):
            return None

    def put(self, address: str, got: Fetched) -> None:
        """Remember it."""
        head = {name: value for name, value in asdict(got).items() if name != "body"}
        with atomic_file(self._path(address)) as file:
            file.write(json.dumps(head).encode() + b"\n" + got.body)
