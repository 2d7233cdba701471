"""What a server says about itself: health for a supervisor, models for clients, metrics for Prometheus."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from gpt2.serve.faults import ApiError, json_response
from gpt2.serve.service import Service


async def live(service: Service, request: Request) -> Response:
    """200 while the process works; 503 when only a restart helps."""
    service.check_alive()
    return json_response({"status": "ok"})


async def ready(service: Service, request: Request) -> Response:
    """200 while new requests are taken; 503 while loading, draining or dead."""
    service.check_alive()
    service.check_ready()
    return json_response({"status": "ok"})


async def list_models(service: Service, request: Request) -> Response:
    """Every model of the server."""
    return json_response({"object": "list", "data": [model.description() for model in service.models]})


async def one_model(service: Service, request: Request) -> Response:
    """One model."""
    return json_response(service.models.get(request.path_params["model"]).description())


async def metrics(service: Service, request: Request) -> Response:
    """Prometheus's text format."""
    for served in service.models:
        engine, label = served.engine, served.name
        waiting = engine.waiting
        service.metrics.waiting_tokens.labels(label).set(sum(ticket.n_tokens for ticket in waiting))
        statistics = await asyncio.wrap_future(engine.statistics())
        service.metrics.take(label, statistics, places=served.max_sequences)
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def no_chat(service: Service, request: Request) -> Response:
    """Say why there is no chat."""
    raise ApiError(
        404,
        "There is no chat here: GPT-2 is a base model. It continues a text, and was never taught to take turns or "
        "follow instructions, so there is no form in which messages could be given to it. Write the beginning of the "
        "text that you want continued, and send it as `prompt` to POST /v1/completions.",
        code="no_chat",
    )
