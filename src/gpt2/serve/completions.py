"""`POST /v1/completions`: one answer, or a stream of its parts."""

import asyncio
import time

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from gpt2.errors import DeadlineError
from gpt2.serve.answer import Answer, raise_failure
from gpt2.serve.faults import ApiError, to_api_error
from gpt2.serve.models import ServedModel
from gpt2.serve.plan import Plan, make_plan
from gpt2.serve.schema import CompletionRequest
from gpt2.serve.service import Service, read, until_left, while_present
from gpt2.serve.stream import EventStream
from gpt2.serve.ticket import Ticket

_LONG_CHARACTERS = 10_000  # longer texts are tokenized off the event loop


async def complete(service: Service, request: Request) -> Response:
    """Continue texts."""
    service.check_ready()
    check_room(service)
    asked = await read(request, CompletionRequest, service.limits)
    served = service.models.get(asked.model)
    service.check_ready()  # shutdown may have begun while a slow body arrived
    call = request.scope["call"]
    try:
        plan = await _planned(request, asked, served, service, holder=call.holder or "")
    except (ApiError, ClientDisconnect) as error:
        _count_failure(error, service, served)
        raise
    service.check_ready()  # or during a long plan: draining waits only for submitted requests
    call.fields |= {"model": served.name, "prompt_tokens": sum(map(len, plan.prompts)), "stream": bool(asked.stream)}
    if asked.request_id is not None:
        call.id = asked.request_id
    if service.log_text:
        call.fields["prompt"] = [served.model.tokenizer.decode(ids) for ids in plan.prompts]
    try:
        ticket = served.engine.submit(plan.requests, plan.n_tokens)
    except ApiError as error:
        _count_failure(error, service, served)
        raise
    answer = Answer(plan, served, ticket, service, call.id)
    leaving = asyncio.create_task(_cancel_when_left(request.receive, ticket))
    try:
        if asked.stream:
            first = await ticket.next()
            raise_failure(first, answer.id)
            if not first:  # cancelled
                raise ClientDisconnect
            return EventStream(answer, first, leaving=leaving, fields=call.fields)
        response = await answer.whole()
        call.fields |= answer.facts()
        leaving.cancel()
        return response
    except BaseException as error:
        leaving.cancel()
        ticket.cancel()
        _count_failure(error, service, served)
        raise


def check_room(service: Service) -> None:
    """Refuse before reading the body if no model has room: under overload that is most requests.

    Raises:
        ApiError: no model has room.
    """
    served = min(service.models, key=lambda model: model.engine.n_waiting)
    try:
        served.engine.check_room()
    except ApiError as error:
        _count_failure(error, service, served)
        raise


def _count_failure(error: BaseException, service: Service, served: ServedModel) -> None:
    metrics = service.metrics.of(served.name)
    if isinstance(error, ClientDisconnect):
        metrics.cancelled.inc()
    elif isinstance(error, ApiError) and error.status == 429:
        service.metrics.rejected.labels(served.name, error.code or "").inc()
    elif not isinstance(error, ApiError) or error.status >= 500:
        metrics.failed.inc()


async def _planned(
    request: Request, asked: CompletionRequest, served: ServedModel, service: Service, *, holder: str
) -> Plan:
    deadline = time.monotonic() + service.limits.queue_seconds

    def planned() -> Plan:
        if time.monotonic() > deadline:  # compiling other requests' grammars took too long
            raise to_api_error(DeadlineError())
        return make_plan(asked, served, service.limits, namespace=holder, deadline=deadline)

    if asked.response_format is not None or asked.structured_outputs is not None:
        loop = asyncio.get_running_loop()
        return await while_present(request, loop.run_in_executor(served.grammarian, planned))
    if sum(map(len, (*asked.prompt, *(asked.bad_words or ())))) > _LONG_CHARACTERS:
        return await asyncio.to_thread(planned)
    return planned()


async def _cancel_when_left(receive: Receive, ticket: Ticket) -> None:
    """Cancel a request as soon as its client has gone."""
    await until_left(receive)
    ticket.cancel()
