"""Every limit: refused with a 4xx that names it and what was given, and the server goes on as if nothing had been."""

import json
import socket
import threading
import time
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from gpt2.cli.main import program
from gpt2.errors import ConfigError
from gpt2.serve import Limits, schema

BASE: dict[str, Any] = {"prompt": "a", "max_tokens": 1}


def is_well(running: Any) -> bool:
    """Whether a server answers that waits for a request but for a moment."""
    with running.blind():
        asking = running.send("GET", "/health")
    return running.read(asking)[0] == 200


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompt": ["a"] * 65}, "prompt", "prompts is 64, and the request has 65"),
        ({"n": 17}, "n", "n is 16, and the request has 17"),
        ({"best_of": 17}, "best_of", "n is 16, and the request has 17"),
        ({"prompt": ["a"] * 64, "n": 3}, "n", "sequences is 128, and the request has 192"),
        ({"logprobs": 21}, "logprobs", "logprobs is 20, and the request has 21"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "logprobs is 20"),
        ({"stop": ["a"] * 17}, "stop", "stops is 16, and the request has 17"),
        ({"stop_token_ids": [1] * 17}, "stop_token_ids", "stops is 16"),
        ({"stop": "a" * 257}, "stop", "stop_characters is 256, and the request has one of 257 characters"),
        ({"bad_words": ["a", "a" * 257]}, "bad_words", "stop_characters is 256, and the request has one of 257"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "bias_entries is 1024"),
        ({"allowed_token_ids": [1] * 1025}, "logit_bias", "bias_entries is 1024"),
        ({"bad_words": ["a"] * 1025}, "logit_bias", "bias_entries is 1024"),
        ({"structured_outputs": {"regex": "a" * 65_537}}, "structured_outputs", "grammar_bytes is 65,536"),
        ({"max_tokens": 64}, "prompt", "1 and 64 tokens, and the context of tiny is 64"),
        ({"max_tokens": 64}, "prompt", "max_tokens alone is too large, whatever the prompt: ask for 63 at most."),
        ({"max_tokens": 2000, "truncate_prompt_tokens": -1}, "prompt", "max_tokens alone is too large"),
        ({"max_tokens": 64, "truncate_prompt_tokens": -1}, "prompt", "max_tokens alone is too large"),
        ({"prompt": "a " * 100}, "prompt", "truncate_prompt_tokens=-1"),
        ({"max_tokens": -1}, "max_tokens", "got -1"),
        ({"max_tokens": True}, "max_tokens", "got true"),
        ({"max_tokens": "5"}, "max_tokens", 'got "5"'),
        ({"max_tokens": 10**30}, "max_tokens", "max_tokens"),
        ({"temperature": 2.5}, "temperature", "got 2.5"),
        ({"top_p": 0}, "top_p", "got 0"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "got 1e-300"),
        ({"n": 0}, "n", "got 0"),
        ({"n": 2, "best_of": 1}, "best_of", "best_of=1, n=2"),
        ({"best_of": 2, "stream": True}, "best_of", "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"suffix": "end"}, "suffix", "cannot fill in"),
        ({"use_beam_search": True}, "use_beam_search", "no beam search"),
        ({"prompt": []}, "prompt", "holds no prompt"),
        ({"prompt": ["a", 1]}, "prompt", "must be a string"),
        ({"prompt": [[1], "a"]}, "prompt", "must be a string"),
        ({"prompt": [[[1]]]}, "prompt", "must be a string"),
        ({"prompt": [True]}, "prompt", "must be a string"),
        ({"prompt": [-1]}, "prompt", "must be a string"),
        ({"prompt": [50257]}, "prompt", "no token 50257"),
        ({"prompt": [[1], [99999]]}, "prompt[1]", "no token 99999"),
        ({"logit_bias": {"50257": 1}}, "logit_bias", "no token 50257"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "not a token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
        ({"stop": ""}, "stop", "at least one character"),
        ({"stop": [1]}, "stop", "list of strings"),
        ({"seed": 1.5}, "seed", "got 1.5"),
        ({"min_tokens": 2}, "min_tokens", "got 2 and 1"),
        ({"model": "gpt-4"}, "model", "'tiny'"),
        ({"guided_json": {}}, "guided_json", "structured_outputs"),
        ({"messages": []}, "messages", "no chat"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "got 0"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "at least one"),
        ({"bad_words": [" "]}, "bad_words", "not empty"),
        ({"request_id": "a b"}, "request_id", "request_id"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused_by_name(tiny: Any, fields: dict[str, Any], param: str, said: str) -> None:
    status, _, answer = tiny.request("POST", "/v1/completions", BASE | fields)
    assert status == (404 if param == "model" else 400)
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"prompt"',
        b'{"prompt": NaN, "max_tokens": 1}',
        b'{"prompt": "\\ud800", "max_tokens": 1}',
        b'{"prompt": "\xff", "max_tokens": 1}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"prompt":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"response_format":{"type":"json_schema","json_schema":{"schema":' + b'{"not":' * 90 + b"{}" + b"}" * 93,
        b"\x00\x01",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_no_request(tiny: Any, body: bytes) -> None:
    status, _, answer = tiny.request("POST", "/v1/completions", body)
    assert status == 400 and answer["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (schema.CompletionRequest, {"stop_token_ids": [-1] * 1000}),
        (schema.CompletionRequest, {"allowed_token_ids": [1.5] * 1000}),
        (schema.CompletionRequest, {"bad_words": [1] * 1000}),
        (schema.CompletionRequest, {"structured_outputs": {"choice": [1] * 1000}}),
        (schema.DetokenizeRequest, {"tokens": [None] * 1000}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_of_many_errors_one_is_made(kind: type[schema.Strict], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:  # a body holds half a million, and each takes microseconds
        kind.model_validate_json(json.dumps(fields))
    assert caught.value.error_count() == 1


def test_null_asks_for_nothing(tiny: Any) -> None:
    status, headers, _ = tiny.request("POST", "/v1/completions", BASE | {"messages": None, "guided_json": None})
    assert status == 200 and headers["x-ignored-fields"] == "guided_json, messages"


def test_what_nobody_knows_in_an_object_is_named_too(tiny: Any) -> None:
    inside = {"stream": True, "stream_options": {"include_usag": True}, "response_format": {"type": "text", "stict": 1}}
    _, headers, _ = tiny.request("POST", "/v1/completions", BASE | inside | {"sed": 1})
    assert headers["x-ignored-fields"] == "sed, stream_options.include_usag, response_format.stict"


def test_large_bodies_and_heads(serve: Any) -> None:
    running = serve(limits=Limits(body_bytes=1000, header_bytes=2048))
    status, _, answer = running.request("POST", "/v1/completions", {"prompt": "a" * 1000, "max_tokens": 1})
    assert status == 413 and "body_bytes is 1,000, and the request has 1,0" in answer["error"]["message"]
    with running.connect() as connection:  # read to its end, so that a client that still sends can read the answer
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + b"a" * 1500)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
        connection.sendall(b"a" * 500 + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answers:
            assert answers.read().endswith(b'{"status":"ok"}')
    status, _, answer = running.request("GET", "/v1/models", headers=[f"x: {'a' * 3000}"])
    assert status == 431 and "header_bytes is 2,048" in answer["error"]["message"]
    with running.connect() as connection:  # a head without an end
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        with pytest.raises(ConnectionError):
            connection.sendall(b"a" * (64 << 20))
    with running.connect() as connection:  # a body of no declared size
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert running.request("GET", "/health")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: loc",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
    ],
    ids=["head", "body"],
)
def test_a_request_that_does_not_arrive(serve: Any, sent: bytes) -> None:
    running = serve(limits=Limits(receive_seconds=0.2))
    with running.blind():
        connection = running.connect()
        connection.sendall(sent)
    status, _, answer = running.read(connection)
    assert status == 408 and "receive_seconds is 0.2" in answer["error"]["message"]
    with running.connect() as connection:  # nothing was asked, so nothing is said
        assert connection.recv(1) == b""
    assert is_well(running)


@pytest.mark.parametrize("more", [b"", b"{"], ids=["silent", "dripping"])
def test_the_rest_of_a_body_that_was_refused_is_not_awaited_for_ever(serve: Any, more: bytes) -> None:
    running = serve(limits=Limits(receive_seconds=0.2))
    with running.blind():
        connection = running.connect()
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n")
    connection.sendall(more)
    assert running.read(connection)[0] == 404  # which reads until the server has closed
    assert is_well(running)


def test_a_compressed_body_is_refused_by_name(tiny: Any) -> None:
    status, _, answer = tiny.request("POST", "/v1/completions", b"\x1f\x8b\x08", ["Content-Encoding: gzip"])
    assert status == 415 and "content-encoding is 'gzip'" in answer["error"]["message"]
    assert tiny.request("POST", "/v1/completions", BASE, ["Content-Encoding: identity"])[0] == 200


@pytest.mark.parametrize(
    ("path", "line", "status"),
    [
        (b"/v1/completions", b"Content-Encoding: gzip\r\n", 415),
        (b"/v1/completions", b"Origin: http://elsewhere\r\n", 403),
        (b"/v1/nothing", b"", 404),
        (b"/v1/models", b"", 405),
    ],
)
def test_who_asked_before_the_body_and_is_refused_is_closed(tiny: Any, path: bytes, line: bytes, status: int) -> None:
    with tiny.connect() as connection:
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n" % path
        connection.sendall(head + line + b"Expect: 100-continue\r\n\r\n")
        answered = b"".join(iter(lambda: connection.recv(1000), b""))
    assert answered.startswith(b"HTTP/1.1 %d" % status) and answered.count(b"\r\nconnection: close\r\n") == 1


def test_who_asked_before_the_body_and_sent_it_may_go_on(tiny: Any) -> None:
    body = b'{"prompt": [464], "max_tokens": 1}'
    with tiny.connect() as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(body)
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(body + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: connection.recv(1000), b"")).count(b"HTTP/1.1 200") == 2


def test_a_body_of_two_lengths_is_refused(tiny: Any) -> None:
    status, _, answer = tiny.request("POST", "/v1/completions", BASE, ["Transfer-Encoding: chunked"])
    assert status == 400 and "one length" in answer["error"]["message"]


def test_a_long_body_is_read_all_the_same(tiny: Any) -> None:
    status, _, answer = tiny.request("POST", "/v1/completions", {"prompt": [1] * 20_000, "max_tokens": 1})
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("sent", [b"\r\n\r\n", b"HELLO\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01"])
def test_what_is_not_http(serve: Any, sent: bytes) -> None:
    running = serve(limits=Limits(receive_seconds=0.2))
    with running.blind():
        connection = running.connect()
        connection.sendall(sent)
    with connection:
        assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 408", b"")
    assert is_well(running)


def test_connections_are_bounded(serve: Any) -> None:
    running = serve(limits=Limits(connections=3))
    kept = [running.connect() for _ in range(3)]
    for connection in kept:  # each has been seen by the server
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    with running.connect() as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 503")
    for connection in kept:
        connection.close()


def ask_beside(running: Any, **fields: Any) -> tuple[threading.Thread, list[Any]]:
    """A request in a thread of its own, and where its answer will be."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(running.client().completions.create(**{"model": "scripted", "prompt": "a"} | fields))
        except openai.APIStatusError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def test_beyond_the_queue_is_429_with_a_time(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 3)
    running = serve(backend, sequences=1, limits=Limits(queue_requests=2, queue_tokens=50))
    backend.hold_after(1)
    first = ask_beside(running, max_tokens=5)
    until(lambda: backend.waits and not running.served.engine.waiting)
    waiting = [ask_beside(running, max_tokens=5)]
    until(lambda: len(running.served.engine.waiting) == 1)
    status, headers, answer = running.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 44})
    assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "queue_tokens", "1")
    assert "45 tokens" in answer["error"]["message"] and "queue_tokens is 50" in answer["error"]["message"]
    waiting.append(ask_beside(running, max_tokens=5))
    until(lambda: len(running.served.engine.waiting) == 2)
    status, headers, answer = running.request("POST", "/v1/completions", BASE)
    assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "queue_requests", "1")
    assert "2 requests wait" in answer["error"]["message"]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n"
    with running.connect() as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")  # who asks first need not send the body
        answered = b"".join(iter(lambda: connection.recv(1000), b""))  # to the end: the connection is closed
        assert answered.startswith(b"HTTP/1.1 429") and b"\r\nconnection: close\r\n" in answered
    backend.gate.set()
    for thread, answers in (first, *waiting):
        thread.join()
        assert answers[0].choices[0].finish_reason == "stop"
    text = running.request("GET", "/metrics")[2].decode()
    assert 'gpt2_request_rejected_total{limit="queue_requests",model_name="scripted"} 2.0' in text
    assert 'gpt2_num_requests_waiting{model_name="scripted"} 0.0' in text
    assert 'gpt2_http_response_seconds_count{path="/v1/completions",status="429"} 3.0' in text


def test_who_waits_too_long_is_told(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 3)
    running = serve(backend, sequences=1)
    backend.hold_after(1)
    first = ask_beside(running, max_tokens=3)
    until(lambda: backend.waits and not running.served.engine.waiting)
    running.service.limits = Limits(queue_seconds=0.01)
    second = ask_beside(running, max_tokens=3)
    until(lambda: len(running.served.engine.waiting) == 1)
    waits_since = running.served.engine.waiting[0].arrived
    until(lambda: time.monotonic() > waits_since + 0.02)
    backend.gate.set()
    for thread, _ in (first, second):
        thread.join()
    assert first[1][0].choices
    assert (second[1][0].status_code, second[1][0].code) == (429, "queue_seconds")
    assert second[1][0].response.headers["retry-after"] == "2"


@pytest.mark.parametrize("max_tokens", [1, 3])  # the first prompt's text ends in the step in which it begins, or later
def test_a_request_has_begun_with_one_of_its_prompts_and_the_others_wait_as_long_as_it_takes(
    serve: Any, scripted: Any, until: Any, max_tokens: int
) -> None:
    backend = scripted([464] * 3)
    running = serve(backend, sequences=1)
    backend.hold_after(1)
    thread, answers = ask_beside(running, prompt=["a", "b", "c"], max_tokens=max_tokens)
    queue = running.served.engine._scheduler._admission
    until(lambda: backend.waits and {job.request.start_by for job in queue.waiting} == {None})
    backend.gate.set()
    thread.join()
    assert [choice.finish_reason for choice in answers[0].choices] == ["length"] * 3


def test_a_slow_reader_is_dropped_and_holds_nothing(serve: Any, scripted: Any, until: Any) -> None:
    backend = scripted([464] * 400, n_positions=512)
    running = serve(backend, limits=Limits(send_seconds=0.2))
    with running.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"prompt":"a","n":2,"max_tokens":400,"logprobs":20,"stream":true,"seed":1}'
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        until(lambda: backend.n_steps > 0)
        until(lambda: running.served.engine.idle)
        until(lambda: len(running.server.server_state.connections) == 0)  # though the client has not left
    assert running.request("POST", "/v1/completions", BASE)[0] == 200


def test_every_limit_has_its_flag() -> None:
    command = program.get_command(program.make_context("gpt2", ["serve"]), "serve")
    assert command is not None
    flags = {flag for param in command.params for flag in param.opts}
    assert {f"--max-{name.replace('_', '-')}" for name in Limits.__dataclass_fields__} <= flags


def test_a_limit_below_reason_is_refused() -> None:
    with pytest.raises(ConfigError, match="body_bytes must be finite and at least 1: got 0"):
        Limits(body_bytes=0)
