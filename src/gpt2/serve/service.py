"""What every endpoint receives: the models, the limits, the metrics, and whether the server is shutting down."""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from gpt2.serve.faults import ApiError, bad_request, limit_exceeded
from gpt2.serve.limits import Limits
from gpt2.serve.metrics import Metrics
from gpt2.serve.models import ModelSet, ServedModel
from gpt2.serve.schema import Strict

M = TypeVar("M", bound=Strict)
T = TypeVar("T")

_SHOWN_CHARACTERS = 80
_LONG_BYTES = 32_768  # longer bodies are parsed off the event loop


@dataclass(kw_only=True)
class Service:
    """One server.

    Attributes:
        draining: it finishes running requests and takes no new ones.
        log_text: prompts and continuations may be logged.
    """

    models: ModelSet
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    log_text: bool = False

    @property
    def failure(self) -> str | None:
        """Why the server can no longer answer; None while it can."""
        dead = [model.name for model in self.models if model.engine.death is not None]
        return f"The engine of {', '.join(dead)} has failed." if dead else None

    def check_alive(self) -> None:
        """Fail if only a restart helps: an engine has died, or hangs in a step.

        Raises:
            ApiError: 503.
        """
        if self.failure:
            raise ApiError(503, self.failure, retry_after=2)
        for model in self.models:
            seconds = model.engine.seconds_at_work
            if seconds > self.limits.stall_seconds:
                raise ApiError(
                    503,
                    f"The engine of {model.name} hangs: its present step has taken {seconds:.0f} s, and the limit "
                    f"stall_seconds is {self.limits.stall_seconds:g}.",
                    code="stall_seconds",
                    retry_after=2,
                )

    def check_ready(self) -> None:
        """Refuse new work while the server is shutting down.

        Raises:
            ApiError: 503, with the time after which another server may have taken over.
        """
        if self.draining:
            raise ApiError(503, "The server is shutting down and takes no new requests. Send it again.", retry_after=2)


def build_service(models: Sequence[ServedModel], *, limits: Limits, log_text: bool = False) -> Service:
    """A server of these models; the first is the default."""
    return Service(models=ModelSet(models), limits=limits, log_text=log_text)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body.

    Raises:
        ApiError: the body is too large (413), too slow (408) or compressed (415).
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise ApiError(415, f"The body cannot be read: its content-encoding is {coding[:40]!r}. Send it as it is.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise _too_large(f"{int(declared):,}", limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.receive_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise _too_large(f"more than {limits.body_bytes:,}", limits)
    except TimeoutError:
        raise ApiError(
            408,
            f"The request did not arrive in time: the limit receive_seconds is {limits.receive_seconds:g}, and after "
            f"that {len(body):,} bytes of its body were here.",
            code="receive_seconds",
            headers={"connection": "close"},
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "The client left before its request had arrived.") from None
    return bytes(body)


async def read(request: Request, kind: type[M], limits: Limits) -> M:
    """Parse the body as a request of this kind. Unknown fields are noted, for the answer to name.

    Raises:
        ApiError: it is not JSON, or a field is invalid; the message names the field and the value.
    """
    body = await read_body(request, limits)
    try:
        if len(body) > _LONG_BYTES:
            asked = await asyncio.to_thread(kind.model_validate_json, body)
        else:
            asked = kind.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None
    request.scope["call"].ignored = asked.ignored
    return asked


async def until_left(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_present(request: Request, work: Awaitable[T]) -> T:
    """Wait for work that only serves this answer; cancel it if the client leaves.

    Raises:
        ClientDisconnect: the client has left.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(until_left(request.receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


def _explain(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return bad_request(f"The body cannot be read as JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    place = [str(part) for part in first["loc"]]
    if not place:
        return bad_request(f"The body must be a JSON object: {first['msg']}.")
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "missing":
        return bad_request(f"{place[0]} is missing.", place[0])
    return bad_request(f"{'.'.join(place)} cannot be used: {message}: got {_shown(first['input'])}.", place[0])


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _too_large(given: str, limits: Limits) -> ApiError:
    most = f"{limits.body_bytes:,}"
    return limit_exceeded("The body is too large", f"{given} bytes", "body_bytes", most, status=413)
