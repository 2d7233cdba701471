"""Leaving, stopping and dying: a place is given back within a step, and one request's end is nobody else's."""

import asyncio
import json
import logging
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt2 import checkpoint
from gpt2.cli import serve as cli_serve
from gpt2.cli.options import ModelChoice
from gpt2.errors import (
    BackendError,
    ConfigError,
    ContextError,
    DataError,
    FormatError,
    GenerationError,
    MissingExtraError,
    TokenizerError,
)
from gpt2.generation import Request, Sampling
from gpt2.language_model import LanguageModel
from gpt2.native.library import Engine as NativeEngine
from gpt2.serve import Limits, ServedModel, Server, build_service, completions, engine, server
from gpt2.serve.faults import ApiError, to_api_error
from gpt2.serve.models import bound_together

BASE: dict[str, Any] = {"prompt": "a", "max_tokens": 1, "temperature": 0}


def send(running: Any, **fields: Any) -> Any:
    """A request on a connection of its own, sent and not waited for."""
    body = json.dumps(BASE | fields).encode()
    connection = running.connect()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_who_leaves_gives_the_place_back_within_a_step(
    serve: Any, scripted: Any, until: Any, where: str, stream: bool
) -> None:
    backend = scripted([464] * 200)
    running = serve(backend, sequences=1)
    prompt, steps = ([464] * 200, 0) if where == "prefill" else ("a", 3)
    backend.hold_after(steps)
    connection = send(running, prompt=prompt, max_tokens=50, stream=stream)
    until(lambda: not backend.gate.is_set() and backend.waits)
    before = backend.n_steps
    connection.close()
    until(lambda: running.served.engine.idle)  # the server has seen it, while the step still runs
    backend.gate.set()
    until(lambda: not backend.slots)
    assert backend.n_steps <= before + 1
    assert running.client().completions.create(model="scripted", **BASE).choices[0].text == "The"


def test_who_leaves_the_queue_is_never_computed(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 3)
    running = serve(backend, sequences=1)
    backend.hold_after(1)
    first = send(running, max_tokens=3)
    until(lambda: backend.waits)
    second = send(running, prompt=[13, 14, 15])
    until(lambda: len(running.served.engine.waiting) == 1)
    second.close()
    until(lambda: not running.served.engine.waiting)
    backend.gate.set()
    assert running.read(first)[2]["choices"][0]["text"] == "TheTheThe"
    assert not any(13 in tokens for tokens in backend.seen)


def test_a_fault_in_one_request_ends_that_one(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 5)

    def fail(work: Any) -> None:
        if any(13 in piece.tokens for piece in work):
            raise RuntimeError("unlucky")

    backend.gate.clear()
    running = serve(backend)
    backend.before_step = fail
    good = [send(running, max_tokens=5, stream=bool(number % 2)) for number in range(4)]
    bad = send(running, prompt=[13])
    until(lambda: backend.waits and len(running.served.engine._open) == 5)
    backend.gate.set()
    assert running.read(bad)[0] == 500
    for number, connection in enumerate(good):
        status, _, answer = running.read(connection)
        assert status == 200
        assert answer.endswith(b"[DONE]\n\n\r\n0\r\n\r\n") if number % 2 else answer["choices"][0]["text"] == "The" * 5


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendError("the weights are damaged"), 500),
        (FormatError("cut off"), 500),
        (MissingExtraError.of("It", package="torch", extra="gpu"), 500),
        (DataError("no prompts"), 500),
        (MemoryError(), 503),
        (GenerationError("too many"), 400),
        (ContextError("too long"), 400),
        (TokenizerError("no such byte"), 400),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_400_is_what_a_client_can_cause(
    serve: Any, scripted: Any, caplog: pytest.LogCaptureFixture, error: Exception, status: int
) -> None:
    backend = scripted()

    def fail(work: Any) -> None:
        raise error

    backend.before_step = fail
    running = serve(backend)
    for path, body in (("/v1/completions", BASE), ("/v1/score", {"text": "a b"})):
        caplog.clear()
        found, headers, answer = running.request("POST", path, body)
        assert found == status and ("retry-after" in headers) == (status == 503)
        assert (str(error) in answer["error"]["message"]) == (status == 400 or not str(error))
        assert (type(error).__name__ in caplog.text) == (status == 500)
        told = [record.getMessage() for record in caplog.records if record.exc_info]
        assert [headers["x-request-id"] in line for line in told] == [True] * (status == 500)


def test_a_native_step_without_memory_may_be_sent_again() -> None:
    library = SimpleNamespace(error=lambda: "not enough memory")
    for code, status in ((-1, 500), (-2, 503), (-3, 500)):
        with pytest.raises(BackendError) as failed:
            NativeEngine._check(SimpleNamespace(_library=library), code)
        assert to_api_error(failed.value).status == status


def test_a_fault_after_a_stream_has_begun_is_told_in_it_and_in_the_log(
    serve: Any, scripted: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = scripted([464] * 5)
    backend.hold_after(1)
    running = serve(backend)
    with caplog.at_level(logging.INFO, "gpt2.serve"):
        stream = running.client().completions.create(model="scripted", stream=True, **BASE | {"max_tokens": 5})
        next(stream)

        def fail(work: Any) -> None:
            raise RuntimeError("unlucky")

        backend.before_step = fail
        backend.gate.set()
        with pytest.raises(Exception, match="fault of the server"):
            list(stream)
        until(lambda: any(hasattr(record, "fields") for record in caplog.records))
    [line] = [record.fields for record in caplog.records if hasattr(record, "fields")]  # type: ignore[attr-defined]
    assert (line["status"], line["error"]) == (200, "server_error")
    assert any(record.exc_info and line["request"] in record.getMessage() for record in caplog.records)


def test_a_dead_engine_ends_the_server_with_a_failure(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 5)
    running = serve(backend)
    backend.hold_after(1)
    waiting = [send(running, max_tokens=5)]
    until(lambda: backend.waits)
    waiting.append(send(running, max_tokens=5, stream=True))
    until(lambda: len(running.served.engine._open) == 2)

    def die() -> None:
        raise SystemError("the scheduler itself is broken")

    engine = running.served.engine
    engine._commands.put(die)
    n_commands = engine._commands.qsize()
    waiting += [running.send("POST", "/v1/score", {"text": [1, 2, 3]}), running.send("GET", "/metrics")]
    until(lambda: engine._commands.qsize() == n_commands + 2)  # what they ask of its thread comes after that
    backend.gate.set()
    answers = [running.read(connection) for connection in waiting]
    assert [status for status, _, _ in answers] == [500, 500, 503, 503]
    assert all("has failed" in json.dumps(answer) for _, _, answer in answers)
    running.thread.join(120)
    assert running.code == 1


def test_an_engine_that_hangs_is_not_live(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 5)
    running = serve(backend, limits=Limits(stall_seconds=0.05))
    backend.hold_after(1)
    work = send(running, max_tokens=5)
    until(lambda: running.request("GET", "/health/live")[0] == 503)
    status, _, answer = running.request("GET", "/health/ready")
    assert (status, answer["error"]["code"]) == (503, "stall_seconds")
    backend.gate.set()
    assert running.read(work)[0] == 200
    until(lambda: running.request("GET", "/health/ready")[0] == 200)  # idle for however long is no stall


def test_stopping_lets_what_runs_finish_and_takes_nothing_new(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 20)
    running = serve(backend, limits=Limits(drain_seconds=10**6))
    kept = running.connect()
    backend.hold_after(1)
    work = send(running, max_tokens=20, stream=True)
    until(lambda: backend.waits)
    running.server.stop()
    until(lambda: running.service.draining)
    assert running.request("GET", "/health/ready")[0] == 503
    assert running.request("GET", "/health/live")[0] == 200
    status, headers, answer = running.request("POST", "/v1/completions", BASE)
    assert status == 503 and "shutting down" in answer["error"]["message"] and "retry-after" in headers
    backend.gate.set()
    assert running.read(work)[2].count(b'"text":"The"') == 20
    running.thread.join(120)
    assert running.code == 0
    kept.close()


def test_what_is_still_planned_at_the_end_is_refused(
    serve: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(scripted([464]))
    planned = completions._planned

    async def planned_until_the_end(*arguments: Any, **options: Any) -> Any:
        plan = await planned(*arguments, **options)
        running.service.draining = True
        return plan

    monkeypatch.setattr(completions, "_planned", planned_until_the_end)
    status, headers, answer = running.request("POST", "/v1/completions", BASE)
    assert status == 503 and "shutting down" in answer["error"]["message"] and "retry-after" in headers


def test_what_does_not_finish_in_time_is_broken_off(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 200)
    running = serve(backend, limits=Limits(drain_seconds=0.05))
    backend.hold_after(2)
    stream, whole = send(running, max_tokens=200, stream=True), send(running, max_tokens=200)
    until(lambda: backend.waits and len(running.served.engine._open) == 2)  # the server has taken both
    running.server.stop()
    answer, error = running.read(stream)[2], running.read(whole)
    assert b"did not end in time" in answer and answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert error[0] == 503 and "did not end in time" in error[2]["error"]["message"]
    backend.gate.set()
    running.thread.join(120)
    assert running.code == 0


@pytest.mark.parametrize("seconds", [10.0**6, 0])
@pytest.mark.parametrize("path", ["/v1/score", "/v1/detect", "/v1/inspect"])
def test_what_is_read_exactly_finishes_too_or_is_broken_off(
    serve: Any, scripted: Any, until: Any, path: str, seconds: float
) -> None:
    backend = scripted()
    running = serve(backend, limits=Limits(drain_seconds=seconds))
    backend.hold_after(1)
    work = running.send("POST", path, {"text": "one two " * 200, "prompt": "one two " * 200})  # more than two steps
    until(lambda: backend.waits)
    loop = running.server._loop
    draining = asyncio.run_coroutine_threadsafe(running.server._drain(), loop)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    if seconds:
        assert not draining.done()
    else:
        draining.result()
    backend.gate.set()
    status, _, answer = running.read(work)
    assert status == (200 if seconds else 503)
    assert seconds or "did not end in time" in answer["error"]["message"]
    draining.result()
    until(lambda: not backend.slots)


def test_who_leaves_while_the_exact_weights_are_read_leaves_them_to_the_next(
    running: Any, scripted: Any, until: Any, tiny_folder: Path
) -> None:
    opened: list[Any] = []
    gate = threading.Event()

    def open_exact() -> Any:
        opened.append(scripted())
        assert gate.wait(120)
        return opened[-1]

    model = LanguageModel(checkpoint.read(tiny_folder), scripted(), name="scripted", exact=open_exact)
    server = running(model, name="scripted")
    try:
        first = server.send("POST", "/v1/score", {"text": [1, 2]})
        until(lambda: opened)
        first.close()
        left = server.service.metrics.http.labels("/v1/score", "499")
        until(lambda: left._value.get() == 1)  # the server has seen it
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), server.server._loop).result()
        assert server.served.exact._turn.locked() and not server.served.exact.idle
        second = server.send("POST", "/v1/score", {"text": [1, 2]})
        until(lambda: len(server.served.exact._open) == 2)
        gate.set()
        assert server.read(second)[0] == 200
        assert len(opened) == 1 and [len(tokens) for tokens in opened[0].seen] == [2]  # the first computed nothing
    finally:
        gate.set()
        server.stop()


def test_an_engine_that_has_been_stopped_leaves_no_call_unanswered(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 5)
    running = serve(backend)
    engine = running.served.engine
    backend.hold_after(1)
    work = send(running, max_tokens=5)
    until(lambda: backend.waits)
    waiting = engine.call(lambda: "too late")
    stopping = asyncio.run_coroutine_threadsafe(engine.stop(), engine._loop)
    until(lambda: engine._stopping)
    backend.gate.set()
    stopping.result()
    for asked in (waiting.result, lambda seconds: engine.call(lambda: "later still")):
        with pytest.raises(ApiError, match="has been stopped") as refused:
            asked(120)
        assert refused.value.status == 503
    status, _, answer = running.request("POST", "/v1/completions", BASE)
    assert status == 503 and "has been stopped" in answer["error"]["message"] and not engine.waiting
    work.close()
    until(lambda: engine.idle)


def test_a_second_signal_waits_for_nobody(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 200)
    running = serve(backend)
    backend.hold_after(2)
    work = send(running, max_tokens=200)
    until(lambda: backend.waits)
    running.server.stop()
    until(lambda: running.service.draining)
    running.server.stop()
    backend.gate.set()
    running.thread.join(120)
    assert not running.thread.is_alive()
    work.close()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 200}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 200, "stream": True}),
        ("/v1/score", {"text": "one two " * 200}),
    ],
)
def test_a_second_signal_breaks_off_what_runs(
    serve: Any, scripted: Any, until: Any, caplog: pytest.LogCaptureFixture, path: str, fields: dict[str, Any]
) -> None:
    backend = scripted([464] * 200)
    running = serve(backend, limits=Limits(drain_seconds=10**6))
    backend.hold_after(2 if path == "/v1/completions" else 1)
    work = running.send("POST", path, fields)
    until(lambda: backend.waits)
    running.server.stop()
    until(lambda: running.service.draining)
    running.server.stop()
    until(lambda: running.server.should_exit)
    backend.gate.set()
    status, _, answer = running.read(work)
    if "stream" in fields:
        assert b'"type":"service_unavailable_error"' in answer and answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    else:
        assert status == 503 and "shutting down" in answer["error"]["message"]
    running.thread.join(120)
    assert running.code == 0
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


@pytest.mark.parametrize("signals", [1, 3])
def test_who_does_not_read_is_dropped_at_the_end(
    serve: Any,
    scripted: Any,
    until: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    signals: int,
) -> None:
    monkeypatch.setattr(server, "_LEAVING_SECONDS", 0.1 if signals == 1 else 10**6)
    monkeypatch.setattr(server, "_HANGING_SECONDS", 10**6)
    backend = scripted([464] * 400, n_positions=512)
    running = serve(backend)
    with running.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"prompt":"a","n":2,"max_tokens":400,"logprobs":20,"stream":true}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        until(lambda: any(each.flow.write_paused for each in running.server.server_state.connections))
        running.server.stop()
        until(lambda: running.service.draining)
        until(lambda: running.server.should_exit)
        for _ in range(signals - 1):
            running.server.stop()
        running.thread.join(120)
    assert running.code == 0
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/score"])
@pytest.mark.parametrize("signals", [1, 3])
def test_an_engine_that_hangs_holds_up_no_end(
    serve: Any, scripted: Any, until: Any, monkeypatch: pytest.MonkeyPatch, signals: int, path: str
) -> None:
    for module, name in ((server, "_LEAVING_SECONDS"), (server, "_HANGING_SECONDS"), (engine, "_LAST_STEP_SECONDS")):
        monkeypatch.setattr(module, name, 0.1 if signals == 1 else 10**6)
    backend = scripted([464] * 5)
    running = serve(backend, limits=Limits(drain_seconds=0))
    backend.gate.clear()
    fields = {"prompt": "a"} if path == "/v1/completions" else {"text": [1, 2]}
    with running.send("POST", path, fields), running.send("GET", "/metrics"):
        until(lambda: backend.waits)
        for number in range(signals):
            running.server.stop()
            until(lambda number=number: (running.service.draining, running.server._is_hurried)[min(number, 1)])
        running.thread.join(120)
        assert not running.thread.is_alive() and running.code == 0
        assert running.served.engine.is_running
    backend.gate.set()
    until(lambda: not running.served.engine.is_running)
    assert running.served.engine.death is None


def test_many_at_once_each_get_their_own(tiny: Any) -> None:
    fields = {"model": "tiny", "max_tokens": 5, "temperature": 0, "echo": True}
    prompts = [f"number {number}" for number in range(6)]
    alone = [tiny.client().completions.create(prompt=prompt, **fields).choices[0].text for prompt in prompts]
    together: dict[str, str] = {}

    def ask(prompt: str) -> None:
        parts = tiny.client().completions.create(prompt=prompt, stream=True, **fields)
        together[prompt] = "".join(part.choices[0].text for part in parts)

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[prompt] for prompt in prompts] == alone
    assert tiny.served.engine.idle and not tiny.served.engine._tickets


def test_drafts_change_steps_and_no_text(running: Any, tiny_model: LanguageModel, tiny: Any) -> None:
    drafted = running(tiny_model, name="tiny", draft="ngram")
    try:
        for fields in ({"temperature": 0}, {"seed": 1, "temperature": 0.5, "logprobs": 1, "n": 2}):
            asked = {"prompt": "one two one two one two", "max_tokens": 40} | fields
            plain, guessed = (each.request("POST", "/v1/completions", asked)[2] for each in (tiny, drafted))
            assert guessed["choices"] == plain["choices"] and guessed["usage"] == plain["usage"]
        counts = drafted.served.engine.statistics().result().counts
        assert 0 < counts.accepted_tokens <= counts.drafted_tokens
        text = drafted.request("GET", "/metrics")[2].decode()
        assert f'gpt2_spec_decode_num_accepted_tokens_total{{model_name="tiny"}} {counts.accepted_tokens}.0' in text
    finally:
        drafted.stop()


def test_memory_is_bounded_by_what_is_allowed(tiny_model: LanguageModel) -> None:
    whole = tiny_model.backend.slot_bytes(tiny_model.config.n_positions)
    assert ServedModel(tiny_model, name="tiny", max_sequences=4, prefix_bytes=1000).kv_bytes == 4 * whole + 1000
    assert ServedModel(tiny_model, name="tiny", most_bytes=2 * whole).kv_bytes == 2 * whole
    with pytest.raises(ConfigError, match="cannot be served within 10 bytes"):
        ServedModel(tiny_model, name="tiny", most_bytes=10)


def test_models_divide_the_memory_that_is_free_when_all_are_loaded(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 10**9
    served: list[ServedModel] = []
    log: list[str] = []
    load = ModelChoice.load

    def run(server: Server, ready: Any) -> int:
        served[:] = server._service.models
        server._listener.close()
        return 0

    def available() -> int:
        log.append("measured")
        return free_bytes

    monkeypatch.setattr(ModelChoice, "load", lambda choice: (load(choice), log.append("loaded"))[0])
    monkeypatch.setattr(cli_serve, "available_memory_bytes", available)
    monkeypatch.setattr(Server, "run_until_ended", run)

    def serve_two(*options: str) -> list[int]:
        log.clear()
        models = ["--model", f"one={tiny_folder}", "--also", f"two={tiny_folder}"]
        cli_serve.serve.main(
            ["--port", "0", "--backend", "reference", "--prefix-mb", "1", *models, *options], standalone_mode=False
        )
        return [model.kv_bytes for model in served]

    plenty = serve_two()
    whole = served[0].model.backend.slot_bytes(64)
    assert plenty == [16 * whole + 1_000_000] * 2 and log == ["loaded", "loaded", "measured"]
    free_bytes = 1_000_000
    assert serve_two() == [450_000] * 2
    assert [model.engine._scheduler._admission.kv_bytes for model in served] == [450_000] * 2
    assert serve_two("--kv-mb", "1") == [1_000_000] * 2 and log == ["loaded", "loaded"]


def test_a_share_is_that_of_what_a_model_could_use(tiny_model: LanguageModel) -> None:
    whole = tiny_model.backend.slot_bytes(tiny_model.config.n_positions)
    small, large = (ServedModel(tiny_model, name="m", max_sequences=n, prefix_bytes=0) for n in (2, 6))
    for most, expected in ((9, (2, 6)), (8, (2, 6)), (4, (1, 3))):
        bound_together([small, large], most * whole)
        assert (small.kv_bytes, large.kv_bytes) == (expected[0] * whole, expected[1] * whole)
    with pytest.raises(ConfigError, match="cannot be served within"):
        bound_together([small, large], 3 * whole)


@pytest.mark.long
def test_ten_thousand_in_the_queue(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464])
    running = serve(backend, sequences=64, limits=Limits(queue_requests=10_000, queue_tokens=10**9))
    engine = running.served.engine
    backend.hold_after(1)
    first = send(running, max_tokens=2)
    until(lambda: backend.waits and not engine.waiting)

    async def fill() -> list[Any]:
        request = Request(prompt=[1], sampling=Sampling(max_tokens=1, temperature=0))
        return [engine.submit([request], 2) for _ in range(10_000)]

    tickets = asyncio.run_coroutine_threadsafe(fill(), engine._loop).result()
    assert len(engine.waiting) == 10_000
    status, _, answer = running.request("POST", "/v1/completions", BASE)
    assert (status, answer["error"]["code"]) == (429, "queue_requests")

    async def leave() -> None:
        for ticket in (ticket for number, ticket in enumerate(tickets) if number % 100):  # most of them
            ticket.cancel()

    asyncio.run_coroutine_threadsafe(leave(), engine._loop).result()
    backend.gate.set()
    assert running.read(first)[2]["choices"][0]["text"] == "The"
    until(lambda: engine.idle)

    async def take() -> list[Any]:
        return [await ticket.next() for ticket in tickets]

    batches = asyncio.run_coroutine_threadsafe(take(), engine._loop).result()
    assert [[event.token for _, event in batch] for batch in batches] == [[464], *[[]] * 99] * 100
    assert backend.slots == {}


def test_two_models_in_one_server(serve: Any, scripted: Any) -> None:
    running = serve(scripted([464]), scripted([3797]))
    client = running.client()
    assert [model.id for model in client.models.list()] == ["scripted", "scripted1"]
    assert client.models.retrieve("scripted1").id == "scripted1"
    texts = [client.completions.create(model=name, **BASE).choices[0].text for name in ("scripted", "scripted1")]
    assert texts == ["The", " cat"]


def test_a_server_that_gets_no_thread_for_its_model_says_so_and_ends(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = ServedModel(tiny_model, name="tiny", limits=Limits())
    told: list[str] = []

    def start() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(served.engine._thread, "start", start)
    running = Server(build_service([served], limits=Limits()), server.Options(port=0))
    assert running.run_until_ended(lambda: told.append("ready")) == 1
    assert not told
    assert "tiny cannot be served: the system gives this process no more threads" in caplog.text
    assert "Traceback" not in caplog.text
