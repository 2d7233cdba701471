"""Who may come in, and what is written down: keys, hosts, origins, ids, the log."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gpt2.errors import ConfigError
from gpt2.serve import Options, read_keys
from gpt2.serve.door import in_words
from gpt2.serve.keys import Keys

KEY = "k" * 20
OTHER = "another-key-of-some-length"


def test_without_a_key_only_health_is_answered(serve: Any) -> None:
    running = serve(keys=Keys([KEY, OTHER]))
    for path in ("/health", "/health/live", "/health/ready"):
        assert running.request("GET", path)[0] == 200
    for method, path in (
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/v1/completions"),
        ("POST", "/tokenize"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("GET", "/page/x"),
        ("GET", "/health/"),
        ("GET", "//health"),
    ):
        for headers in (
            [],
            [f"Authorization: Bearer {KEY}x"],
            [f"Authorization: Bearer {KEY[:-1]}"],
            [f"Authorization: Bearer {KEY.upper()}"],
            ["Authorization: Bearer "],
            ["Authorization: Basic !"],
            [f"Authorization: {KEY}"],
        ):
            status, answered, answer = running.request(method, path, headers=headers)
            assert status == 401 and answer["error"]["code"] == "invalid_api_key", (path, headers)
            assert answered["www-authenticate"].startswith("Basic")
    for key in (KEY, OTHER):
        assert running.request("GET", "/v1/models", headers=[f"Authorization: Bearer {key}"])[0] == 200
        basic = base64.b64encode(f"anybody:{key}".encode()).decode()
        assert running.request("GET", "/", headers=[f"Authorization: Basic {basic}"])[0] == 200


def test_keys_are_kept_as_hashes_and_read_from_file_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may\n{KEY}  # one\n\n", encoding="utf-8")
    keys = read_keys(file, f" {OTHER},{'c' * 16}\n")
    assert [bool(keys.holder(f"Bearer {key}")) for key in (KEY, OTHER, "c" * 16, "d" * 16)] == [True, True, True, False]
    assert KEY not in str(vars(keys))
    assert not read_keys(None, None) and not read_keys(None, " , ")
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no key"):
        read_keys(file, OTHER)
    file.write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")  # as Notepad writes it
    assert read_keys(file, None).holder(f"Bearer {KEY}")
    file.write_bytes(b"caf\xe9" + KEY.encode())
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8") as refused:
        read_keys(file, None)
    assert KEY not in str(refused.value)
    with pytest.raises(ConfigError, match="number 1 cannot be used") as refused:
        Keys(["short"])
    assert "short" not in str(refused.value).replace("too short", "")


def test_an_open_server_takes_any_key(tiny: Any) -> None:
    for headers in (["Authorization: Bearer "], ["Authorization: Bearer x"], ["Authorization: nonsense"]):
        assert tiny.request("GET", "/v1/models", headers=headers)[0] == 200


def test_a_page_elsewhere_cannot_use_the_server(tiny: Any) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    for origin in ("https://elsewhere.example", "null", f"http://127.0.0.1:{tiny.port + 1}", "http://["):
        status, headers, _ = tiny.request("POST", "/v1/completions", body, headers=[f"Origin: {origin}"])
        assert status == 403 and "access-control-allow-origin" not in headers
    assert tiny.request("POST", "/v1/completions", body, headers=[f"Origin: http://127.0.0.1:{tiny.port}"])[0] == 200


def test_a_name_made_to_point_here_is_not_answered_to(tiny: Any, serve: Any) -> None:
    lines = b"GET /v1/models HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n"
    for host, status in ((b"rebound.example", b"421"), (b"", b"421"), (b"LOCALHOST:1", b"200"), (b"[::1]:80", b"200")):
        with tiny.connect() as connection:
            connection.sendall(lines % host)
            assert connection.recv(100).split()[1] == status
    running = serve(hosts=("box.example",))
    with running.connect() as connection:
        connection.sendall(lines % b"box.example")
        assert connection.recv(100).split()[1] == b"200"


def test_a_target_may_be_a_whole_address_whose_host_counts(tiny: Any) -> None:
    lines = "GET %s HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n"
    for target, host, status in (
        ("http://localhost/v1/models", "localhost", b"200"),
        ("HTTP://127.0.0.1:80/v1/models?x=1", "rebound.example", b"200"),
        ("http://localhost", "localhost", b"200"),
        ("http://localhost?x=1", "localhost", b"200"),
        ("http://rebound.example/v1/models", "localhost", b"421"),
        ("http:///v1/models", "localhost", b"400"),
        ("http://:80/v1/models", "localhost", b"400"),
        ("http://localhost:x@rebound.example/v1/models", "localhost", b"400"),
        ("http://[::1]:80/v1/models", "rebound.example", b"200"),
        ("ftp://localhost/v1/models", "localhost", b"404"),
        ("localhost:80", "localhost", b"404"),
        ("*", "localhost", b"404"),
    ):
        with tiny.connect() as connection:
            connection.sendall((lines % (target, host)).encode())
            assert connection.recv(100).split()[1] == status, target


def test_an_address_without_a_host_is_refused_where_any_host_may_be_called(serve: Any) -> None:
    running = serve(keys=Keys([KEY]))
    for target, status in (("http:///health", 400), ("http://a@b/health", 400), ("http://any.example/health", 200)):
        assert running.request("GET", target)[0] == status


def test_pages_that_are_named_may(serve: Any) -> None:
    running = serve(origins=("https://app.example",))
    status, headers, _ = running.request("GET", "/v1/models", headers=["Origin: https://app.example"])
    assert status == 200 and headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in headers
    asking = ["Origin: https://app.example", "Access-Control-Request-Method: POST"]
    status, headers, _ = running.request("OPTIONS", "/v1/completions", headers=asking)
    assert status == 204 and "authorization" in headers["access-control-allow-headers"]
    body = {"prompt": "a", "max_tokens": 1, "temprature": 1}
    _, headers, _ = running.request("POST", "/v1/completions", body, headers=asking[:1])
    told = headers["access-control-expose-headers"].split(", ")
    assert headers["x-ignored-fields"] == "temprature" and {"x-ignored-fields", "x-request-id", "retry-after"} <= {
        *told
    }
    asking[0] = "Origin: https://other.example"
    assert running.request("OPTIONS", "/v1/completions", headers=asking)[0] == 403


def test_a_page_that_is_named_may_ask_before_it_sends_its_key_and_headers(serve: Any) -> None:
    running = serve(origins=("https://app.example",), keys=Keys([KEY]))
    names = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    origin = "Origin: https://app.example"
    asking = [origin, "Access-Control-Request-Method: POST", f"Access-Control-Request-Headers: {names}"]
    status, headers, _ = running.request("OPTIONS", "/v1/completions", headers=asking)  # browsers send no key with it
    assert status == 204 and headers["access-control-allow-headers"] == names
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert running.request("OPTIONS", "/v1/completions", headers=[origin])[0] == 401  # which is no such question
    body = {"prompt": "a", "max_tokens": 1}
    assert running.request("POST", "/v1/completions", body, headers=asking)[0] == 401
    status, headers, _ = running.request(
        "POST", "/v1/completions", body, headers=[origin, f"Authorization: Bearer {KEY}"]
    )
    assert status == 200 and headers["access-control-allow-origin"] == "https://app.example"


def test_paths_and_methods_that_are_not(tiny: Any) -> None:
    status, _, answer = tiny.request("GET", "/v2/models")
    assert status == 404 and "/v2/models" in answer["error"]["message"]
    status, _, answer = tiny.request("POST", "/completions", {"prompt": "x"})
    assert (
        status == 404 and "It is /v1/completions: an OpenAI client's base_url ends in /v1" in answer["error"]["message"]
    )
    status, headers, answer = tiny.request("GET", "/v1/completions")
    assert status == 405 and headers["allow"] == "POST" and "send POST" in answer["error"]["message"]
    status, _, answer = tiny.request("POST", "/v1/chat/completions", {"messages": []})
    assert status == 404 and "base model" in answer["error"]["message"]
    for path in ("/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/../app.py", "/page/index.html%00"):
        assert tiny.request("GET", path)[0] == 404


def test_every_answer_has_an_id(tiny: Any) -> None:
    answered = tiny.request("GET", "/nowhere", headers=["X-Request-Id: mine.7"])
    assert answered[1]["x-request-id"] == "mine.7"
    for bad in ("a b", "a" * 65, '"x"'):
        headers = tiny.request("GET", "/nowhere", headers=[f"X-Request-Id: {bad}"])[1]
        assert headers["x-request-id"].startswith("req-")


def test_what_is_no_request_has_an_id_and_a_line_of_the_log_and_is_counted(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gpt2.serve")
    before = tiny.service.metrics.http.labels("other", "400")._value.get()
    with tiny.connect() as connection:
        connection.sendall(b"secret\r\n\r\n")
        status, headers, _ = tiny.read(connection)
    line = caplog.records[-1].getMessage()
    assert status == 400 and headers["x-request-id"].startswith("req-")
    assert tiny.service.metrics.http.labels("other", "400")._value.get() == before + 1
    assert f"request={headers['x-request-id']}" in line and "status=400" in line and "secret" not in caplog.text


def test_the_log_has_numbers_and_no_text(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gpt2.serve")
    body = {"prompt": "a secret plan", "max_tokens": 2, "stop": ["confidential"], "user": "somebody"}
    status, headers, answer = tiny.request("POST", "/v1/completions", body)
    wait_for = [r for r in caplog.records if getattr(r, "fields", {}).get("request") == headers["x-request-id"]]
    fields = wait_for[0].fields  # type: ignore[attr-defined]
    assert fields["status"] == status == 200
    assert fields["prompt_tokens"] == 3 and fields["model"] == "tiny"
    written = " ".join(record.getMessage() + json.dumps(getattr(record, "fields", {})) for record in caplog.records)
    for text in ("secret", "plan", "confidential", "somebody", answer["choices"][0]["text"].strip()):
        assert not text or text not in written


def test_a_line_of_the_log_cannot_be_forged() -> None:
    assert in_words({"path": "/a b\nrequest=1", "status": 200}) == 'path="/a b\\nrequest=1" status=200'


def test_a_fault_of_ours_is_a_500_that_tells_nothing(serve: Any, scripted: Any) -> None:
    backend = scripted()

    def fail(work: Any) -> None:
        if any(13 in piece.tokens for piece in work):
            raise RuntimeError("a secret of the implementation")

    backend.before_step = fail
    running = serve(backend)
    status, _, answer = running.request("POST", "/v1/completions", {"prompt": [13], "max_tokens": 1})
    assert status == 500 and "secret" not in answer["error"]["message"]
    assert running.request("POST", "/v1/completions", {"prompt": [14], "max_tokens": 1})[0] == 200
    assert running.request("GET", "/health/live")[0] == 200


def test_names_that_a_server_answers_to_are_compared_in_lower_case() -> None:
    rules = Options(hosts=("My-Machine.Local", "fe80::1")).entry_rules()
    assert rules.hosts is not None and {"my-machine.local", "fe80::1"} <= set(rules.hosts)
    assert rules.check("/", {b"host": b"My-Machine.local:8000"}) is None
