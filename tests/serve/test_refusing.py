"""Refusals at the first bytes: the same answer as by the long way, for nobody who would not be admitted."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gpt2.serve import Limits
from gpt2.serve.door import EntryRules
from gpt2.serve.keys import Keys
from gpt2.serve.refusing import EarlyRefusal

KEY = "k" * 20
BODY = b'{"prompt": "a", "max_tokens": 1}'


@pytest.fixture
def full(serve: Any, scripted: Any, until: Any) -> Iterator[Any]:
    """A server whose queue, of one request, is full: the step that would begin it stands still."""
    backend = scripted()
    backend.gate.clear()
    running = serve(backend, limits=Limits(queue_requests=1), sequences=1, keys=Keys([KEY]))
    with running.connect() as connection:
        connection.sendall(request())
        until(lambda: backend.waits)
        yield running
        backend.gate.set()


def request(*more: str, key: str = KEY, body: bytes = BODY) -> bytes:
    head = ["POST /v1/completions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", *more]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def answers(connection: socket.socket, n: int) -> list[tuple[bytes, dict[str, str], bytes]]:
    """So many answers from one connection: status, headers, body."""
    found, data = [], b""
    while len(found) < n:
        head, between, rest = data.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        if between and len(rest) >= (size := int(fields["content-length"])):
            found.append((head.split()[1], fields, rest[:size]))
            data = rest[size:]
        else:
            chunk = connection.recv(1 << 16)
            assert chunk, data
            data += chunk
    return found


def test_it_is_the_answer_of_the_long_way_and_the_connection_stays(full: Any) -> None:
    sent = request("X-Request-Id: mine", "Accept: */*")
    with full.connect() as connection:
        for _ in range(3):  # in one piece, and then with the body by itself, which the long way answers
            connection.sendall(sent)
            (early,) = answers(connection, 1)
            assert early[0] == b"429" and early[1]["retry-after"] == "1" and early[1]["x-request-id"] == "mine"
            assert "connection" not in early[1]
        connection.sendall(sent + sent)  # of two at once there is doubt
        long = answers(connection, 2)
    for status, headers, body in long:
        assert (status, body) == (early[0], early[2])
        assert {name: value for name, value in headers.items() if name != "date"} == {
            name: value for name, value in early[1].items() if name != "date"
        }


def test_one_that_asks_for_it_loses_its_connection(full: Any) -> None:
    with full.connect() as connection:
        connection.sendall(request("Connection: close"))
        assert answers(connection, 1)[0][1]["connection"] == "close"
        assert connection.recv(1) == b""


def test_nobody_is_refused_who_would_not_be_admitted(full: Any) -> None:
    for sent, status in ((request(key="x" * 20), b"401"), (request("Origin: http://elsewhere.example"), b"403")):
        with full.connect() as connection:
            connection.sendall(sent)
            assert answers(connection, 1)[0][0] == status


def test_one_without_a_host_is_no_request(serve: Any, full: Any) -> None:
    refusal = EarlyRefusal(full.service, EntryRules())
    assert refusal.answer(request().replace(b"Host: localhost\r\n", b""), []) is None
    with full.connect() as connection:
        connection.sendall(request().replace(b"Host: localhost\r\n", b""))
        assert answers(connection, 1)[0][0] == b"400"


def test_a_header_of_blanks_is_read_once(full: Any) -> None:
    """Where each of them is tried as the value's first, they would take days, and the server would stand still."""
    refusal = EarlyRefusal(full.service, EntryRules())
    assert refusal.answer(request(f"X:{' ' * 4_000_000}\x07"), []) is None


def test_who_reads_no_answers_is_read_no_further(full: Any) -> None:
    """Answers to somebody who sends on and on and reads none of them would lie in memory."""
    (other,) = full.server.server_state.connections
    with full.connect() as connection:
        connection.sendall(request())
        answers(connection, 1)
        (server,) = full.server.server_state.connections - {other}

        async def arrive() -> int:
            for _ in range(20_000):
                server.data_received(request())
                if server.flow.read_paused:
                    break
                await asyncio.sleep(0)
            return server.transport.get_write_buffer_size()

        assert asyncio.run_coroutine_threadsafe(arrive(), full.server._loop).result() < 1 << 18


def test_it_is_counted(full: Any) -> None:
    with full.connect() as connection:
        for _ in range(2):
            connection.sendall(request())
            answers(connection, 1)
    full.served.model.backend.gate.set()
    _, _, text = full.request("GET", "/metrics", headers=[f"Authorization: Bearer {KEY}"])
    text = text.decode()
    assert 'gpt2_http_requests_total{path="/v1/completions",status="429"} 2.0' in text
    assert 'gpt2_request_rejected_total{limit="queue_requests",model_name="scripted"} 2.0' in text
    assert 'gpt2_http_response_seconds_count{path="/v1/completions",status="429"} 2.0' in text


@pytest.mark.parametrize(
    "sent",
    [
        request("Transfer-Encoding: chunked"),
        request("Expect: 100-continue"),
        request("Upgrade: websocket"),
        request("Content-Length: 32"),
        request("Accept: a", "Accept: b"),
        request("no colon"),
        request(" folded: yes"),
        request("x: \x07"),
        request("x : y"),
        request("x: a\nContent-Length: 0"),
        request()[:-1],
        request() + b"P",
        request().replace(b"HTTP/1.1", b"HTTP/1.0"),
        request().replace(b"/v1/completions", b"/v1/score"),
        request().replace(b"Content-Length: 32", b"Content-Length: +32"),
        request().replace(b"Content-Length: 32", b"Content-Length: 032"),
        b"",
    ],
)
def test_what_is_in_doubt_goes_the_long_way(full: Any, sent: bytes) -> None:
    refusal = EarlyRefusal(full.service, EntryRules())
    assert refusal.answer(request(), []) is not None
    assert refusal.answer(sent, []) is None


def test_with_room_or_on_the_way_out_nothing_is_refused_early(serve: Any, full: Any) -> None:
    assert EarlyRefusal(serve().service, EntryRules()).answer(request(), []) is None
    full.service.draining = True
    assert EarlyRefusal(full.service, EntryRules()).answer(request(), []) is None
    full.service.draining = False
