"""Requests that should not be: fields that cannot be, broken bytes, broken heads."""

import json
import random
from typing import Any

from gpt2.serve import schema

PATHS = ("/v1/completions", "/v1/score", "/v1/inspect", "/v1/tasks/translate", "/tokenize", "/detokenize")
KINDS = (schema.CompletionRequest, schema.ScoreRequest, schema.InspectRequest, schema.TaskRequest)
FIELDS = sorted({name for kind in KINDS for name in kind.model_fields} | {"tokens", "content", "with_pieces"})

SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 16, 17, 50256, 50257, 2**31, 2**64, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 2.0, -1.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "gpt2", "<|endoftext|>", "json_object", "m", "a" * 3000, "\ufeff", "((", "[", "{}"),
    *("\0", "\x85", "\ud800", "\udfff\ud800", "\u200d\U0001f600\uffff", "\u00e9\n\t"),
)
GRAMMARS: tuple[Any, ...] = (
    *("a", "(a|b)*", "(" * 50, "[a-z]{1,3}", "(a{90}){90}", r"\p{L}+", "start: start", 'start: "a" start | "b"'),
    *({"type": "object"}, {"type": "integer"}, {"$ref": "#"}, {"$ref": "http://x"}, {"enum": []}, {"not": {}}),
    *({"pattern": "("}, {"type": "array", "minItems": 10**9}, ["yes", "no"], [], {}, False, 1),
)
REQUEST_LINES = (
    *("", "GET", "POST /", "PRI * HTTP/2.0", "\0 / HTTP/1.1", "POST / HTTP/9.9", f"{'x' * 100} / HTTP/1.1"),
    *("GET /../.. HTTP/1.1", "GET /%00 HTTP/1.1", "POST // HTTP/1.1", f"GET /v1/{'a' * 5000} HTTP/1.1"),
    *(f"{method} /v1/completions HTTP/1.1" for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE")),
)
HEADERS = (
    *(f"x: {'a' * 70_000}", "\r\n".join(["x: 1"] * 300), "no colon", ": no name", "x: \x85\xff"),
    *("Content-Length: -1", "Content-Length: x", "Content-Length: 999999999999", "Transfer-Encoding: chunked"),
    *("Host: ", "Host: evil.example", "Host: [::1", "Host: 127.0.0.1:x", "Expect: 100-continue", "Upgrade: websocket"),
    *("Origin: null", "Origin: http://evil.example", "Origin: http://[", "Authorization: Basic !", "Cookie: a=b"),
    *("Content-Type: text/plain", "Content-Encoding: gzip", "X-Request-Id: a b", f"X-Request-Id: {'x' * 999}"),
)
SPLINTERS = (b"\x00", b"\xff\xfe", b"\\ud800", b'"', b"1e999", b'{"a":' * 200, b"[" * 5, b"[" * 50_000)


def request(draw: random.Random) -> bytes:
    """One request, head and all; what it asks for costs little."""
    fields: dict[str, Any] = {"prompt": "a", "text": "a", "tokens": [1], "seed": 1}
    for name in draw.sample(FIELDS, draw.choice([0, 1, 1, 1, 2, 3])):
        fields[name] = _value(draw, 3)
    if not isinstance(fields.get("max_tokens"), int) or draw.random() < 0.8:
        fields["max_tokens"] = draw.randrange(4)
    body = json.dumps(fields).encode()
    if draw.random() < 0.2:
        body = _broken(draw, body)
    path = PATHS[0] if draw.random() < 0.6 else draw.choice(PATHS)
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
    if draw.random() < 0.05:
        head[0] = draw.choice(REQUEST_LINES)
    if draw.random() < 0.1:
        head.append(draw.choice(HEADERS))
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(6) if depth else 0
    if kind < 2:
        return draw.choice(SCALARS)
    if kind == 2:
        return [_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    if kind == 3:
        return [draw.randrange(-2, 50_260) for _ in range(draw.randrange(6))]
    if kind == 4:
        names = [str(draw.randrange(50_260)), "x", "", "type", "schema", "name", "include_usage"]
        return {name: _value(draw, depth - 1) for name in draw.sample(names, draw.randrange(4))}
    grammar = draw.choice(GRAMMARS)
    named = {draw.choice(["regex", "choice", "json", "grammar", "json_object"]): grammar}
    return draw.choice([named, {"type": "json_schema", "json_schema": {"schema": grammar}}])


def _broken(draw: random.Random, body: bytes) -> bytes:
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(body) + 1)
        splinter = draw.choice([b"", bytes([draw.randrange(256)]), draw.choice(SPLINTERS)])
        body = body[:at] + splinter + body[at + draw.choice([0, 1, len(body)]) :]
    return body
