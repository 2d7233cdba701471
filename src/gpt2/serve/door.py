"""The outermost layer: request ids, admission, errors and the access log.

Every request passes here first and last. The door gives it an id, checks its host, origin and key, turns any failure
inside into an error in OpenAI's form, and records how it ended: one line of the log and one count of the metrics. The
log has no text, only names, numbers and durations.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2.errors import ConfigError
from gpt2.serve.faults import ApiError, limit_exceeded, to_api_error
from gpt2.serve.keys import Keys
from gpt2.serve.limits import Limits
from gpt2.serve.metrics import Metrics

log = logging.getLogger("gpt2.serve")
access = logging.getLogger("gpt2.serve.access")

PUBLIC = frozenset({"/health", "/health/live", "/health/ready"})
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LEFT = 499  # logged, never sent: the client left before its answer; nginx's number

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(kw_only=True, slots=True)
class Call:
    """One request in progress.

    Attributes:
        id: the client's x-request-id if it is sane, else ours.
        holder: short name of the key it came with.
        route: the path's pattern, for the metrics.
        fields: what endpoints add to its line of the log.
        ignored: unknown names in its body.
    """

    id: str
    holder: str | None = None
    route: str = "other"
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    ignored: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryRules:
    """Who may come in.

    Attributes:
        keys: a request needs one of them, except for health; if there are none, everybody may come in.
        hosts: names that the server answers to; None: any. They protect a loopback server from DNS rebinding: a page
            elsewhere whose name was made to point here.
        origins: of pages elsewhere whose scripts may use this server.
    """

    keys: Keys = field(default_factory=Keys)
    hosts: tuple[str, ...] | None = None
    origins: tuple[str, ...] = ()

    def check(self, path: str, headers: dict[bytes, bytes], *, needs_key: bool = True) -> str | None:
        """Admit a request; return the name of its key, None if it needs none.

        Raises:
            ApiError: it is not admitted: 401, 403 or 421.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise ApiError(
                421,
                f"This server does not answer to the name {host[:100]!r}, but to {', '.join(self.hosts)}. "
                f"Start it with --allow-host to add one.",
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in self.origins and _netloc(origin) != host.lower():
            raise ApiError(
                403,
                f"Pages of {origin[:100]!r} may not use this server. Start it with --cors-origin to allow them.",
            )
        if not self.keys or path in PUBLIC or not needs_key:
            return None
        holder = self.keys.holder(headers.get(b"authorization", b"").decode("latin-1"))
        if holder is None:
            raise ApiError(
                401,
                "This server needs an API key, and the request has none that it knows. "
                "Send one as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"www-authenticate": 'Basic realm="gpt2", charset="UTF-8"'},
            )
        return holder

    def cors(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Headers that tell a browser that its page may read the answer; none if it may not."""
        origin = headers.get(b"origin", b"")
        if not self.origins or origin.decode("latin-1") not in self.origins:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-request-id, retry-after, x-ignored-fields"),
            (b"vary", b"origin"),
        ]


class Door:
    """The outermost application.

    Args:
        inside: answers admitted requests; may raise `ApiError` or any other exception.
        rules: who may come in.
        limits: of the size of a request's head.
        metrics: count the answers.
        startup: runs when the server starts; shutdown when it ends.
    """

    def __init__(
        self,
        inside: ASGIApp,
        *,
        rules: EntryRules,
        limits: Limits,
        metrics: Metrics,
        startup: Callable[[], None],
        shutdown: Callable[[], Awaitable[None]],
    ) -> None:
        self._inside = inside
        self._rules = rules
        self._limits = limits
        self._metrics = metrics
        self._startup = startup
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request from beginning to end; or the life of the server."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        assert scope["type"] == "http"
        began = scope.get("arrived", time.monotonic())
        headers = dict(scope["headers"])
        call = Call(id=request_id(headers))
        scope["call"], scope["app"] = call, self
        status = 0
        body_may_not_come = headers.get(b"expect", b"").lower() == b"100-continue"

        async def receive_marked() -> Message:
            nonlocal body_may_not_come
            body_may_not_come = False  # this sends 100
            return await receive()

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.response.labels(call.route, str(status)).observe(time.monotonic() - began)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", call.id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *self._rules.cors(headers),
                ]
                if body_may_not_come:  # what follows may be the body or the next request
                    message["headers"] = [pair for pair in message["headers"] if pair[0] != b"connection"]
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            try:
                if not scope["raw_path"].startswith(b"/"):
                    _read_absolute(scope, headers)
                _check_head(scope, self._limits)
                is_preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
                call.holder = self._rules.check(scope["path"], headers, needs_key=not is_preflight)
                if is_preflight:
                    await _preflight(headers, send_marked)
                else:
                    await self._inside(scope, receive_marked, send_marked)
            except ClientDisconnect:
                status = status or LEFT
                call.fields["left"] = True
            except Exception as error:
                if status:  # the answer has begun: too late for an error
                    raise
                await _api_error(error, call).response()(scope, receive, send_marked)
        except Exception as error:
            log.error("request %s broke off: %s", call.id, type(error).__name__, exc_info=error)
            raise
        finally:
            self._metrics.http.labels(call.route, str(status)).inc()
            note(call, method=scope["method"], path=scope["path"], status=status, seconds=time.monotonic() - began)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:
                return  # forced exit: the engines' threads end with the process
            if message["type"] == "lifespan.startup":
                try:
                    self._startup()
                except ConfigError as error:
                    return await send({"type": "lifespan.startup.failed", "message": str(error)})
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return


def note(call: Call, *, method: str, path: str, status: int, seconds: float) -> None:
    """Log one line about an answered request; none for a successful health check."""
    if not access.isEnabledFor(logging.INFO) or (call.route in PUBLIC and status == 200):
        return
    fields: dict[str, Any] = {
        "request": call.id,
        "method": method,
        "path": path[:200],
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    if call.holder:
        fields["key"] = call.holder
    fields |= call.fields
    access.info("%s", in_words(fields), extra={"fields": fields})


def in_words(fields: dict[str, Any]) -> str:
    """`name=value` pairs; a value with spaces or controls is quoted as in JSON, so that no line can be forged."""
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[!#-~]+", text) else json.dumps(text)


def _api_error(error: Exception, call: Call) -> ApiError:
    if isinstance(error, HTTPException):  # of the router: no such path, no such method
        if error.status_code == 405:
            headers = dict(error.headers or {})
            methods = headers.get("Allow", "another").replace(", ", " or ")
            return ApiError(405, f"This path does not have that method: send {methods}.", headers=headers)
        return ApiError(error.status_code, str(error.detail))
    answer = to_api_error(error)
    if answer.status == 500 and not isinstance(error, ApiError):
        log.error("request %s failed: %s", call.id, type(error).__name__, exc_info=error)
    call.fields["error"] = answer.name
    return answer


def _check_head(scope: Scope, limits: Limits) -> None:
    """Refuse a head that is too large or ambiguous.

    The protocol refuses heads that grow too large while they arrive; this catches one that came in a single read.
    """
    names = {name for name, _ in scope["headers"]}
    if {b"content-length", b"transfer-encoding"} <= names:  # request smuggling: a proxy may have gone by the other
        raise ApiError(
            400,
            "A body has one length: got both content-length and transfer-encoding.",
            headers={"connection": "close"},
        )
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    size += len(scope["raw_path"]) + len(scope["query_string"])
    if size > limits.header_bytes:
        most = f"{limits.header_bytes:,}"
        raise limit_exceeded("The head is too large", f"{size:,} bytes", "header_bytes", most, status=431)


def _read_absolute(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Split a target like `http://host/path`; its host overrides the Host header (RFC 9112, 3.2.2).

    Raises:
        ApiError: it names no host, or a user before the host (RFC 9110, 4.2.1 and 4.2.4).
    """
    scheme, _, rest = scope["raw_path"].partition(b"://")
    if scheme.lower() in (b"http", b"https"):
        host, slash, path = rest.partition(b"/")
        if b"@" in host or not _name(host.decode("latin-1")):
            raise ApiError(
                400,
                f"The target of the request cannot be used: its host is {host[:100].decode('latin-1')!r}. "
                f"Send a path, or http:// with a host and a path.",
            )
        headers[b"host"] = host
        scope["raw_path"] = slash + path or b"/"
        scope["path"] = unquote(scope["raw_path"].decode("ascii"))


def request_id(headers: dict[bytes, bytes]) -> str:
    """The client's own id if it is sane, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _SANE_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None if it is not an origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name(host: str) -> str:
    """A host without its port, in lower case: `[::1]:8000` is `::1`."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower()


async def _preflight(headers: dict[bytes, bytes], send: Send) -> None:
    """Tell a browser what a page may send: any headers, since each client has its own. A preflight carries no key, and
    reaches no model.
    """
    allowed = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", headers.get(b"access-control-request-headers", b"authorization")),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": allowed})
    await send({"type": "http.response.body", "body": b""})
