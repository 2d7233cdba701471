"""The paths of the server, and the application that answers them.

An endpoint is a function of the `Service` and the request, in the file of its subject. It raises `ApiError` for what
cannot be done. A new endpoint takes one line here.
"""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt2.serve import asking, completions, detecting, embedding, looking, openapi, playground, score, status, tokens
from gpt2.serve.door import Door, EntryRules
from gpt2.serve.faults import ApiError
from gpt2.serve.service import Service

Endpoint = Callable[[Service, Request], Awaitable[Response]]

ENDPOINTS: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/completions", completions.complete),
    ("POST", "/v1/score", score.score_texts),
    ("POST", "/v1/embeddings", embedding.embed_texts),
    ("POST", "/v1/inspect", looking.inspect),
    ("POST", "/v1/detect", detecting.detect),
    ("POST", "/v1/tasks/{task}", asking.ask),
    ("POST", "/tokenize", tokens.tokenize),
    ("POST", "/detokenize", tokens.detokenize),
    ("GET", "/tokenizer_info", tokens.tokenizer_info),
    ("GET", "/openapi.json", openapi.describe),
    ("POST", "/v1/chat/completions", status.no_chat),
    ("GET", "/v1/models", status.list_models),
    ("GET", "/v1/models/{model:path}", status.one_model),
    ("GET", "/health/live", status.live),
    ("GET", "/health/ready", status.ready),
    ("GET", "/health", status.ready),
    ("GET", "/metrics", status.metrics),
    ("GET", "/", playground.index),
    ("GET", "/page/{name}", playground.file),
)


def build_app(service: Service, rules: EntryRules | None = None) -> ASGIApp:
    """The whole server as an ASGI application; its lifespan starts and stops the engines."""
    router = Router([_route(service, *endpoint) for endpoint in ENDPOINTS], redirect_slashes=False, default=_no_path)

    def start() -> None:
        for model in service.models:
            model.engine.start()

    async def stop() -> None:
        await asyncio.gather(*(model.stop() for model in service.models))

    return Door(
        router,
        rules=rules or EntryRules(),
        limits=service.limits,
        metrics=service.metrics,
        startup=start,
        shutdown=stop,
    )


def _route(service: Service, method: str, path: str, endpoint: Endpoint) -> BaseRoute:
    async def answer(request: Request) -> Response:
        call = request.scope["call"]
        call.route = path
        response = await endpoint(service, request)
        if call.ignored:
            response.headers["x-ignored-fields"] = ", ".join(call.ignored)[:500]
        return response

    return Route(path, answer, methods=[method])


async def _no_path(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"][:200]
    advice = "GET /openapi.json lists the paths."
    if any(known == f"/v1{path}" for _, known, _ in ENDPOINTS):  # the address given to a client lacks its end
        advice = f"It is /v1{path}: an OpenAI client's base_url ends in /v1."
    raise ApiError(404, f"There is no {path!r} here. {advice}")
