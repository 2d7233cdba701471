"""The answers of addresses, and the folder that caches them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2.files import atomic_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The answer of an address.

    Attributes:
        address: the last one, after redirects.
        status: HTTP's; 0 without a response.
        content_type: as the server declared.
        body: decompressed.
        problem: why there is no page; empty if there is one.
        lasting: whether the problem will not resolve itself.
        offline: whether the cause may be that this machine has no network.
    """

    address: str
    status: int = 0
    content_type: str = ""
    body: bytes = b""
    problem: str = ""
    lasting: bool = True
    offline: bool = False


class Cache:
    """A folder of answers: each a file with a JSON head and the body after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def _path(self, address: str) -> Path:
        name = hashlib.blake2b(address.encode("utf-8", "replace"), digest_size=16).hexdigest()
        return self.folder / name[:2] / name

    def get(self, address: str) -> Fetched | None:
        """The cached answer, if there is one."""
        try:
            head, _, body = self._path(address).read_bytes().partition(b"\n")
            return Fetched(**json.loads(head), body=body)
        except (OSError, ValueError, TypeError):
            return None

    def put(self, address: str, got: Fetched) -> None:
        """Cache an answer."""
        head = {name: value for name, value in asdict(got).items() if name != "body"}
        with atomic_file(self._path(address)) as file:
            file.write(json.dumps(head).encode() + b"\n" + got.body)
