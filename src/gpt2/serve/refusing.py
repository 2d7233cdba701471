"""Refusing a completion at its first bytes when the queue is full.

Under overload most requests are refused, and refusing takes time from those that are answered. So a request that came
in one piece with a plain head is refused here, before the application runs. Everything else (an unusual head, a body
in parts, a client that would not be admitted) takes the normal path and gets the same refusal there.
"""

import re
import time
from collections.abc import Sequence

from gpt2.serve.completions import check_room
from gpt2.serve.door import Call, EntryRules, note, request_id
from gpt2.serve.faults import ApiError, json_bytes
from gpt2.serve.service import Service

_PATH = "/v1/completions"
_LINE = f"POST {_PATH} HTTP/1.1\r\n".encode()
_FIELD = re.compile(rb"([A-Za-z0-9_-]+):[ \t]*((?:[!-~][ -~]*)?)")
_LONG_WAY = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


class EarlyRefusal:
    """Refuses what `/v1/completions` would refuse because the queue is full."""

    def __init__(self, service: Service, rules: EntryRules) -> None:
        self._service = service
        self._rules = rules

    def answer(self, data: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bool] | None:
        """The whole refusal and whether to close the connection after it; None for the normal path.

        Args:
            data: what came on an idle connection.
            headers: that every answer has.
        """
        limits, service = self._service.limits, self._service
        if not data.startswith(_LINE) or service.draining or service.failure:
            return None
        if any(model.engine.n_waiting < limits.queue_requests for model in service.models):
            return None
        began = time.monotonic()
        head, _, body = data.partition(b"\r\n\r\n")
        given = _fields(head)
        if given is None or b"host" not in given or len(head) > limits.header_bytes:
            return None
        if given.get(b"content-length") != b"%d" % len(body):
            return None
        call = Call(id=request_id(given), route=_PATH)
        try:
            call.holder = self._rules.check(_PATH, given)
        except ApiError:
            return None
        try:
            check_room(service)
        except ApiError as error:
            return self._refused(error, call, given, headers, began)
        return None

    def _refused(
        self,
        error: ApiError,
        call: Call,
        given: dict[bytes, bytes],
        headers: Sequence[tuple[bytes, bytes]],
        began: float,
    ) -> tuple[bytes, bool]:
        call.fields["error"] = error.code
        closes = b"close" in given.get(b"connection", b"").lower()
        body = json_bytes(error.body())
        lines = [
            b"HTTP/1.1 %d Too Many Requests" % error.status,
            *(b"%s: %s" % pair for pair in (*headers, *self._rules.cors(given))),
            *(f"{name}: {value}".encode("latin-1") for name, value in error.headers.items()),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"x-request-id: " + call.id.encode(),
            b"x-content-type-options: nosniff",
            *([b"connection: close"] if closes else []),
        ]
        seconds, metrics = time.monotonic() - began, self._service.metrics
        metrics.response.labels(_PATH, str(error.status)).observe(seconds)
        metrics.http.labels(_PATH, str(error.status)).inc()
        note(call, method="POST", path=_PATH, status=error.status, seconds=seconds)
        return b"\r\n".join([*lines, b"", body]), closes


def _fields(head: bytes) -> dict[bytes, bytes] | None:
    """The headers by name; None if one is repeated or malformed, or makes the body unusual."""
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n")[1:]:
        found = _FIELD.fullmatch(line)
        if found is None:
            return None
        name = found[1].lower()
        if name in fields or name in _LONG_WAY:
            return None
        fields[name] = found[2].rstrip(b" \t")
    return fields
