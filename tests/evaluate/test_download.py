"""Fetching data from a server on this machine."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from gpt2.errors import DataError, DownloadError
from gpt2.evaluate import SUITE, DataFile, find
from gpt2.evaluate.download import download, files_of

CONTENT = b"first line\nsecond line\n"


def zipped(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


class Server(BaseHTTPRequestHandler):
    content: ClassVar[dict[str, bytes]] = {
        "/plain.txt": CONTENT,
        "/whole.zip": zipped("inner", CONTENT),
        "/other.zip": zipped("another", CONTENT),
        "/torn.zip": CONTENT,
    }
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        body = self.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def plain(server: str) -> DataFile:
    return DataFile(
        path="some/plain.txt", sha256=hashlib.sha256(CONTENT).hexdigest(), origin="ours", url=f"{server}/plain.txt"
    )


def test_a_file_is_fetched_once(plain: DataFile, tmp_path: Path) -> None:
    arrived: list[int] = []
    [outcome] = download([plain], tmp_path, begin=lambda file: arrived.append)
    assert (outcome.state, outcome.path.read_bytes(), sum(arrived)) == ("fetched", CONTENT, len(CONTENT))
    Server.asked.clear()
    [again] = download([plain], tmp_path)
    assert (again.state, Server.asked) == ("here", [])


def test_it_goes_on_where_it_stopped(plain: DataFile, tmp_path: Path) -> None:
    part = tmp_path / "some" / ".plain.txt.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:7])
    Server.asked.clear()
    download([plain], tmp_path)
    assert Server.asked == ["/plain.txt bytes=7-"]
    assert (tmp_path / plain.path).read_bytes() == CONTENT
    assert not part.exists()


def test_what_is_packed_is_unpacked(plain: DataFile, server: str, tmp_path: Path) -> None:
    packed = replace(plain, path="some/inner", url=f"{server}/whole.zip")
    download([packed], tmp_path)
    assert (tmp_path / "some" / "inner").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["inner"]


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("/whole.zip", "0" * 64, "what came is another file"),
        ("/other.zip", None, "no item named 'inner'"),
        ("/torn.zip", None, "not a zip file"),
    ],
)
def test_what_is_packed_wrongly(plain, server: str, tmp_path: Path, name: str, sha256, message: str) -> None:
    wrong = replace(plain, path="inner", url=server + name, sha256=sha256 or plain.sha256)
    with pytest.raises(DataError, match=message):
        download([wrong], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_was_meant_is_not_kept(plain: DataFile, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="damaged or is another"):
        download([replace(plain, sha256="0" * 64)], tmp_path, pause=lambda seconds: None)
    assert not (tmp_path / plain.path).exists()


def test_a_users_own_file_is_left_alone(plain: DataFile, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / plain.path).write_bytes(b"mine")
    with pytest.raises(DataError, match=r"plain\.txt is there, but it is another file\. Move it away"):
        download([plain], tmp_path)
    assert (tmp_path / plain.path).read_bytes() == b"mine"


def test_what_may_not_be_fetched_is_said(tmp_path: Path) -> None:
    [outcome] = download(files_of([find("ptb")], every_choice=False), tmp_path)
    assert outcome.state == "by hand"
    assert "LDC" in outcome.file.origin


def test_nothing_there(plain: DataFile, server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download([replace(plain, url=f"{server}/nothing")], tmp_path)


def test_every_address_is_encrypted_and_every_hash_a_hash() -> None:
    files = files_of(SUITE, every_choice=True)
    assert len({file.path for file in files}) == len(files)
    for file in files:
        assert not file.url or file.url.startswith("https://")
        assert len(file.sha256) == 64 or (not file.sha256 and not file.url)
    assert len(files_of([find("lambada")], every_choice=False)) == 1
    assert len(files_of([find("lambada")], every_choice=True)) == 2
