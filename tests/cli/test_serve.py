"""`gpt2 serve` and its log."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2.serve import Server

Run = Callable[..., Any]


@pytest.fixture
def served(gpt2: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a server that is sent some bytes, each on a connection of its own, and then ended."""
    run_until_ended = Server.run_until_ended

    def run(*options: str, sent: tuple[bytes, ...]) -> Any:
        def ask(server: Server) -> None:
            port = int(server.address.rpartition(":")[2])
            for data in sent:
                with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
                    connection.sendall(data)
                    while connection.recv(1 << 16):
                        pass
            server.stop()

        def asked(server: Server, ready: Callable[[], object]) -> int:
            asking = threading.Thread(target=ask, args=[server])
            code = run_until_ended(server, lambda: (ready(), asking.start()))
            asking.join()
            return code

        monkeypatch.setattr(Server, "run_until_ended", asked)
        return gpt2("serve", "--model", str(tiny_folder), "--backend", "reference", "--port", "0", *options)

    return run


NOT_HTTP = b"\x16\x03\r\n\r\n"
UPGRADE = (
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
)


def test_every_line_of_the_log_is_json_whoever_wrote_it(served: Run, caplog: pytest.LogCaptureFixture) -> None:
    ran = served("--json", sent=(NOT_HTTP, UPGRADE))
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert ran.code == 0 and all(line["time"] and line["level"] for line in lines)
    assert [line["message"] for line in lines if line["level"] == "warning"] == ["Invalid HTTP request received."]
    # what is no request, and one in the protocol that it was asked in
    assert [line["status"] for line in lines if "status" in line] == [400, 200]
    assert "pip install" not in ran.err + caplog.text


def test_without_json_every_line_has_its_time(served: Run) -> None:
    ran = served(sent=(NOT_HTTP,))
    lines = ran.err.splitlines()
    assert all(line[:2] == "20" and line[19] == "Z" for line in lines)
    assert lines[-3].endswith("Z warning: Invalid HTTP request received.")
    assert " status=400 " in lines[-2]
