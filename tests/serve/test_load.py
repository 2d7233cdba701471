"""An open-loop load at 0.5 to 8 times what the server can do, by steps in place of seconds.

Before each step of the backend requests arrive, as many as a Poisson draw says, whatever has become of those before.
How much is asked does not depend on how fast this machine is, and what must come of it can be counted.
"""

import asyncio
import json
import select
from typing import Any

import numpy as np
import pytest

from gpt2.serve import Limits

PLACES, QUEUE, TOKENS, STEPS = 4, 6, 5, 40
SCRIPT, TEXT = [464, 3797, 3332, 319, 262], "The cat sat on the"


class Stepping:
    """A server whose backend takes one step for each `step`, and counts the rows that it computes."""

    def __init__(self, serve: Any, scripted: Any, until: Any) -> None:
        self.backend, self.until, self.rows = scripted(SCRIPT), until, 0
        self.running = serve(self.backend, sequences=PLACES, limits=Limits(queue_requests=QUEUE, queue_seconds=10**6))
        self.engine = self.running.served.engine
        self.backend.gate.clear()
        self.backend.before_step = self.count

    def count(self, work: Any) -> None:
        self.rows += len(work)
        self.backend.gate.clear()

    def step(self) -> None:
        if self.engine.idle:
            return
        self.until(lambda: self.backend.waits)
        before = self.backend.n_steps
        self.backend.gate.set()
        self.until(lambda: self.backend.n_steps > before and (self.backend.waits or self.engine.idle))
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.engine._loop).result()  # its events have been given out

    def send(self) -> Any:
        """A connection whose request has been accepted, or refused: then there is something to read."""
        n_open, connection = len(self.engine._open), self.running.connect()
        body = json.dumps({"prompt": "a", "max_tokens": TOKENS, "temperature": 0, "stream": n_open % 2 == 1}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        self.until(lambda: len(self.engine._open) > n_open or select.select([connection], [], [], 0)[0])
        return connection

    def text(self, connection: Any) -> str:
        status, _, answer = self.running.read(connection)
        assert status == 200
        if isinstance(answer, dict):
            return answer["choices"][0]["text"]
        lines = [line[6:] for line in answer.split(b"\n") if line.startswith(b"data: {")]
        return "".join(choice["text"] for line in lines for choice in json.loads(line)["choices"])


@pytest.mark.parametrize("factor", [0.5, 2, 8])
def test_goodput_stays_and_nothing_that_was_accepted_is_lost(
    serve: Any, scripted: Any, until: Any, factor: float
) -> None:
    server, rng = Stepping(serve, scripted, until), np.random.default_rng(1)
    accepted: list[Any] = []
    n_refused = 0
    for _ in range(STEPS):
        for _ in range(int(rng.poisson(factor * PLACES / TOKENS))):
            connection = server.send()
            if select.select([connection], [], [], 0)[0]:
                status, headers, answer = server.running.read(connection)
                assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "queue_requests", "1")
                n_refused += 1
            else:
                accepted.append(connection)
        server.step()
    goodput = server.rows / (PLACES * STEPS)
    server.backend.before_step = lambda work: None
    server.backend.gate.set()
    assert [server.text(connection) for connection in accepted] == [TEXT] * len(accepted)
    until(lambda: server.engine.idle)
    if factor >= 2:
        assert goodput >= 0.9 and n_refused > 0
    elif factor < 1:
        assert n_refused == 0
