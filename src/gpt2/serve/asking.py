"""`POST /v1/tasks/{task}`: the prompt for a summary, a translation or an answer, and the part of the continuation that
counts.

No model runs here. The client sends the prompt to `/v1/completions`, and may send the continuation back to have the
task's rule applied.
"""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gpt2.language_model import LanguageModel
from gpt2.serve.faults import ApiError, json_response
from gpt2.serve.schema import TaskRequest
from gpt2.serve.service import Service, read
from gpt2.tasks import Asked, Prompts, answer, summarize, translate

TASKS = ("summarize", "translate", "answer")


async def ask(service: Service, request: Request) -> Response:
    """The exact prompt and its settings; with a continuation, also the part that counts."""
    task = request.path_params["task"]
    if task not in TASKS:
        raise ApiError(404, f"There is no task {task[:100]!r} here. The tasks are {', '.join(TASKS)}.")
    asked = await read(request, TaskRequest, service.limits)
    served = service.models.get(asked.model)
    return json_response(await asyncio.to_thread(_shown, served.model, task, asked))


def _shown(model: LanguageModel, task: str, asked: TaskRequest) -> dict[str, Any]:
    prompts = Prompts.ours()
    made = _ask(model, task, asked, prompts)
    shown: dict[str, Any] = {
        "object": "task",
        "task": task,
        "prompt": made.prompt,
        "left_out": made.left_out or None,
        "sampling": {
            "max_tokens": made.sampling.max_tokens,
            "temperature": made.sampling.temperature,
            "top_k": made.sampling.top_k,
            "stop": list(made.sampling.stop),
        },
    }
    if asked.continuation is not None:
        shown["answer"] = _read(task, asked.continuation, prompts)
    return shown


def _ask(model: LanguageModel, task: str, asked: TaskRequest, prompts: Prompts) -> Asked:
    if task == "summarize":
        return summarize.ask(asked.text, prompts=prompts.summarize, room=model.room)
    if task == "translate":
        source, target = asked.source or "french", asked.target or "english"
        return translate.ask(asked.text, source=source, target=target, prompts=prompts.translate, room=model.room)
    return answer.ask(asked.text, prompts=prompts.answer, room=model.room, context=asked.context)


def _read(task: str, continuation: str, prompts: Prompts) -> str:
    if task == "summarize":
        return summarize.read(continuation, sentences=prompts.summarize.sentences)
    return translate.read(continuation) if task == "translate" else answer.read(continuation)
