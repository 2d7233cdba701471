"""What is gathered before it is sent: nothing of it is lost, and nothing comes in another order."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from gpt2.serve import Limits
from gpt2.serve.protocol import BoundedProtocol, Gathered


class Loop:
    """An event loop of one turn, which ends when it is told."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, function: Callable[[], object]) -> None:
        self.soon.append(function)

    def end_turn(self) -> None:
        soon, self.soon = self.soon, []
        for function in soon:
            function()


class Transport:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.done


@pytest.fixture
def gathered() -> tuple[Any, Transport, Loop]:
    transport, loop = Transport(), Loop()
    return Gathered(transport, loop), transport, loop  # type: ignore[arg-type]


def test_what_is_written_in_a_turn_is_one_write(gathered: Any) -> None:
    over, transport, loop = gathered
    for data in (b"head", b"", b"body", b""):
        over.write(data)
    assert transport.done == [] and len(loop.soon) == 1
    loop.end_turn()
    assert transport.done == [b"headbody"]
    over.write(b"")
    assert not loop.soon


def test_answers_of_several_turns_keep_their_order(gathered: Any) -> None:
    over, transport, loop = gathered
    over.write(b"1")
    over.write(b"2")
    over.flush()
    over.write(b"3")
    loop.end_turn()
    over.write(b"4")
    loop.end_turn()
    assert transport.done == [b"12", b"3", b"4"]


def test_closing_sends_what_waits_and_aborting_does_not(gathered: Any) -> None:
    over, transport, loop = gathered
    over.write(b"head")
    over.write(b"body")
    over.close()
    assert transport.done == [b"headbody", "close"] and over.is_closing()
    over.write(b"late")
    over.abort()
    loop.end_turn()
    assert transport.done == [b"headbody", "close", "abort"]


@pytest.mark.parametrize(
    ("line", "body", "status"),
    [
        ("GET /health", "", 200),
        ("GET /nowhere", "", 404),
        ("POST /v1/completions", '{"prompt": "a", "max_tokens": 1}', 429),
    ],
)
def test_a_client_that_says_it_sends_no_more_is_answered(serve: Any, line: str, body: str, status: int) -> None:
    running = serve(limits=Limits(queue_tokens=1))
    for _ in range(20):
        with running.connect() as connection:
            head = f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            connection.shutdown(socket.SHUT_WR)
            assert running.read(connection)[0] == status


def test_no_turn_of_the_loop_goes_through_much_of_a_body(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    receive = BoundedProtocol.data_received
    monkeypatch.setattr(
        BoundedProtocol, "data_received", lambda self, data: (sizes.append(len(data)), receive(self, data))[1]
    )
    running = serve()
    chunked = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running.connect() as connection:
        with running.blind():  # all of it is there when the server looks again
            connection.sendall(chunked + b"1\r\n \r\n" * 6000 + b"0\r\n\r\n")
        assert running.read(connection)[0] == 400
    assert max(sizes) == 16_384
