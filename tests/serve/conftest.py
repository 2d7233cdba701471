"""Servers on loopback, in a thread of the test's process, over models small enough for every test."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from gpt2 import checkpoint
from gpt2.backends.readout import read_out
from gpt2.backends.seam import Result, Work, undrawn
from gpt2.config import ModelConfig
from gpt2.language_model import LanguageModel, load
from gpt2.serve import Limits, Options, ServedModel, Server, Service, build_service

_clients: list[openai.OpenAI] = []  # of the test that runs
SECONDS = 120  # longer than anything takes; nothing waits for it to pass
PATIENT = dict.fromkeys(
    ("receive_seconds", "send_seconds", "grammar_seconds", "queue_seconds", "stall_seconds"), 10.0**6
)  # limits that a slow machine could reach where a test is not about them


class ScriptedBackend:
    """Says a script: after n tokens of a slot comes script[n - prompt], and end-of-text after its end.

    Every other token is unlikely, and each in its own way. `gate` holds every step while it is not set.
    """

    name, device, weights, intervenes, reason = "scripted", "cpu", "fp32", False, "for tests"

    def __init__(self, script: Sequence[int] = (), *, n_prompt: int = 1, n_positions: int = 256) -> None:
        self.config = ModelConfig(n_layer=1, n_head=1, n_embd=1, n_positions=n_positions, vocab_size=50257)
        self.script, self.n_prompt = list(script), n_prompt
        self.slots: dict[int, list[int]] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.waits = False  # a step stands before the gate
        self.n_steps = 0
        self.seen: list[list[int]] = []
        self.before_step: Callable[[Sequence[Work]], None] = lambda work: None
        self._base = -40 - np.random.default_rng(0).random(50257).astype(np.float32)
        self._next = 0

    def new(self) -> int:
        self._next += 1
        self.slots[self._next] = []
        return self._next

    def length(self, slot: int) -> int:
        return len(self.slots[slot])

    def truncate(self, slot: int, length: int) -> None:
        del self.slots[slot][length:]

    def fork(self, slot: int) -> int:
        twin = self.new()
        self.slots[twin] = list(self.slots[slot])
        return twin

    def free(self, slot: int) -> None:
        del self.slots[slot]

    def bytes(self) -> int:
        return sum(map(len, self.slots.values()))

    def slot_bytes(self, tokens: int) -> int:
        return tokens

    def close(self) -> None:
        self.slots.clear()

    def step(self, work: Sequence[Work]) -> list[Result]:
        self.waits = not self.gate.is_set()
        assert self.gate.wait(SECONDS), "the test never opened the gate"
        self.waits = False
        self.n_steps += 1
        self.seen += [list(piece.tokens) for piece in work]
        self.before_step(work)
        return [self._run(piece) for piece in undrawn(work)]

    def hold_after(self, steps: int) -> None:
        """Let so many steps through; the next waits until the gate is opened."""
        left = steps

        def count(work: Sequence[Work]) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.before_step = lambda work: None
                self.gate.clear()

        if steps == 0:
            self.gate.clear()
        else:
            self.before_step = count

    def _run(self, work: Work) -> Result:
        rows = []
        for token in work.tokens:
            self.slots[work.slot].append(token)
            row = self._base.copy()
            place = len(self.slots[work.slot]) - self.n_prompt
            row[self.script[place] if 0 <= place < len(self.script) else 50256] = 0
            rows.append(row)
        wanted = np.array(rows[len(rows) - work.want.rows :]).reshape(work.want.rows, self.config.vocab_size)
        return read_out(work.want, wanted, lambda logits: logits, self.config.vocab_size)


class Running:
    """A server that runs, and ways to speak to it."""

    def __init__(self, server: Server, service: Service) -> None:
        self.server, self.service = server, service
        self.url = server.address
        self.port = int(server.address.rpartition(":")[2])
        self.code: int | None = None
        self._up = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self._up.wait(SECONDS)

    def _run(self) -> None:
        try:
            self.code = self.server.run_until_ended(self._up.set)
        finally:
            self._up.set()

    @property
    def served(self) -> ServedModel:
        return self.service.models.default

    def client(self, **options: Any) -> openai.OpenAI:
        """One that is closed with the test."""
        options = {"api_key": "none", "timeout": SECONDS, "max_retries": 0} | options
        _clients.append(openai.OpenAI(base_url=f"{self.url}/v1", **options))
        return _clients[-1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """The server looks at nothing in the meantime: what a client does slowly is there all at once."""
        is_blind, sees = threading.Event(), threading.Event()
        loop = self.server._loop
        assert loop is not None
        loop.call_soon_threadsafe(lambda: (is_blind.set(), sees.wait(SECONDS)))
        assert is_blind.wait(SECONDS)
        try:
            yield
        finally:
            sees.set()

    def send(self, method: str, path: str, body: object = None, headers: Sequence[str] = ()) -> socket.socket:
        """A request on a connection of its own, which ends with the answer."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(data)}"]
        connection = self.connect()
        connection.sendall("\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode() + data)
        return connection

    def request(
        self, method: str, path: str, body: object = None, headers: Sequence[str] = ()
    ) -> tuple[int, dict[str, str], Any]:
        """The answer to such a request; the body as JSON where it is JSON."""
        return read_answer(self.send(method, path, body, headers))

    def read(self, connection: socket.socket) -> tuple[int, dict[str, str], Any]:
        return read_answer(connection)

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of an answer that ends with its connection."""
    data = b""
    with connection, contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    is_json = headers.get("content-type", "") == "application/json"
    return int(status.split()[1]), headers, json.loads(body) if is_json else body


Serve = Callable[..., Running]


def patient(limits: Limits) -> Limits:
    """The same, but for times that were left as they are by default."""
    given = {name: seconds for name, seconds in PATIENT.items() if getattr(limits, name) == getattr(Limits(), name)}
    return replace(limits, **given)


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    """A client left to the garbage collector may warn of its socket in the middle of another test."""
    yield
    while _clients:
        _clients.pop().close()


@pytest.fixture
def serve(tiny_folder: Path) -> Iterator[Serve]:
    """Starts servers: of a `ScriptedBackend`, or of nothing in particular; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            *backends: ScriptedBackend, limits: Limits | None = None, sequences: int = 16, **options: Any
        ) -> Running:
            limits = patient(limits or Limits())
            files = checkpoint.read(tiny_folder)
            models = [LanguageModel(files, backend, name="scripted") for backend in backends or (ScriptedBackend(),)]
            served = [
                ServedModel(model, name=f"scripted{number or ''}", limits=limits, max_sequences=sequences)
                for number, model in enumerate(models)
            ]
            service = build_service(served, limits=limits)
            running = Running(Server(service, Options(port=0, **options)), service)
            stack.callback(running.stop)
            for backend in backends:
                stack.callback(backend.gate.set)
            return running

        yield start


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LanguageModel:
    """A real model in miniature, by the NumPy backend."""
    return load(tiny_folder, backend="reference")


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Iterator[Running]:
    """A server of that model, for a whole module of tests."""
    model = load(tiny_folder, backend="reference")
    service = build_service([ServedModel(model, name="tiny")], limits=patient(Limits()))
    running = Running(Server(service, Options(port=0)), service)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    """Waits for something that another thread brings about; gives up long after."""

    def wait(condition: Callable[[], object]) -> None:
        for _ in range(SECONDS * 200):
            if condition():
                return
            time.sleep(0.005)
        raise AssertionError("it did not come about")

    return wait


@pytest.fixture(scope="session")
def running() -> Callable[..., Running]:
    """Starts a server of a model, which has to be stopped."""

    def start(model: LanguageModel, *, name: str, draft: str = "auto") -> Running:
        service = build_service([ServedModel(model, name=name, draft=draft)], limits=patient(Limits()))
        return Running(Server(service, Options(port=0)), service)

    return start


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedBackend]:
    """The class, for test modules cannot import this one."""
    return ScriptedBackend
