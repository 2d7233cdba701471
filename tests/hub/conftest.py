"""A hub on this machine's loopback, which answers as the real one does and misbehaves when told to."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB_ID = "org/tiny"


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class FakeHub:
    """What it serves, what it does wrong, and what it was asked.

    Attributes:
        files: by path below the host.
        cuts: by name, how many bytes each answer sends before the connection ends; used up one by one.
        announced: by name, a Content-Length that is not the true one.
        served: by name, other bytes than those announced by the index.
        statuses: by name, an answer each request is given until they are used up.
        retry_after: what such an answer asks for, where it does.
        redirects: by name, another address for it.
        ranges: whether parts can be asked for.
        shift: bytes by which a part begins later than was asked for.
        asked: (method, path, headers) of each request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    cuts: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    announced: dict[str, int | str] = field(default_factory=dict[str, int | str])
    served: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    statuses: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    retry_after: str = ""
    redirects: dict[str, str] = field(default_factory=dict[str, str])
    ranges: bool = True
    shift: int = 0
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list[tuple[str, str, dict[str, str]]])

    def publish(self, hub_id: str, files: dict[str, bytes], **changes: Any) -> None:
        """Serve a repository: its index and its files, large ones with their SHA-256, small ones as git has them."""
        siblings = []
        for name, data in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
            if name.endswith((".safetensors", ".bin")):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry | changes.get(name, {}))
            self.files[f"/{hub_id}/resolve/{REVISION}/{name}"] = data
        tree = [
            {"type": "file", "path": e["rfilename"], "size": e["size"], "oid": e["blobId"]}
            | ({"lfs": {"oid": e["lfs"]["sha256"], "size": e["size"], "pointerSize": 134}} if "lfs" in e else {})
            for e in siblings
        ]
        self.files[f"/api/models/{hub_id}/tree/{REVISION}"] = json.dumps(tree).encode()
        index = {"id": hub_id, "sha": REVISION, "siblings": siblings, "modelId": hub_id, "private": False}
        self.files[f"/api/models/{hub_id}/revision/main"] = json.dumps(index | changes.get("index", {})).encode()

    def requests(self, name: str) -> list[dict[str, str]]:
        return [headers for method, path, headers in self.asked if method == "GET" and path.endswith(f"/{name}")]


def handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            name = path.rpartition("/")[2]
            hub.asked.append((self.command, path, dict(self.headers.items())))
            data = hub.files.get(path)
            if hub.statuses.get(name):
                wait = {"Retry-After": hub.retry_after} if hub.retry_after else {}
                self.answer(hub.statuses[name].pop(0), wait, b"")
            elif name in hub.redirects:
                self.answer(307, {"Location": hub.redirects[name]}, b"")
            elif data is None:
                self.answer(404, {}, b"")
            else:
                self.send_file(name, data)

        def send_file(self, name: str, data: bytes) -> None:
            hash = hashlib.sha256(data).hexdigest() if name.endswith((".safetensors", ".bin")) else git_hash(data)
            headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hash}"', "Accept-Ranges": "bytes"}
            if self.command == "GET" and hub.served.get(name):
                data = hub.served[name].pop(0)
            status, begin = 200, 0
            if hub.ranges and (wanted := self.headers.get("Range")):
                begin = int(wanted.removeprefix("bytes=").partition("-")[0]) + hub.shift
                if begin >= len(data):
                    self.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
                    return
                status, headers["Content-Range"] = 206, f"bytes {begin}-{len(data) - 1}/{len(data)}"
            body = data[begin:]
            headers["Content-Length"] = str(hub.announced.get(name, len(body)))
            if hub.cuts.get(name):
                body = body[: hub.cuts[name].pop(0)]
            self.answer(status, headers, body)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            self.send_header("Connection", "close")
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def serve(hub: FakeHub) -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def clean_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and none of the user's own settings."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake_hub(clean_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that HF_ENDPOINT names."""
    for hub in serve(FakeHub()):
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def other_server(clean_caches: Path) -> Iterator[FakeHub]:
    """A second server, to be redirected to."""
    yield from serve(FakeHub())


@pytest.fixture
def tiny_files(tiny_folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(tiny_folder.iterdir())}
