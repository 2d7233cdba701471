"""`GET /openapi.json`: the interface in OpenAPI 3.1, from the same classes that check the requests."""

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gpt2.serve import schema
from gpt2.serve.asking import TASKS
from gpt2.serve.faults import json_response
from gpt2.serve.models import release
from gpt2.serve.service import Service

_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}
_COUNTS = {"type": "array", "items": {"type": "integer"}}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_USAGE = {
    "type": ["object", "null"],
    "properties": {
        name: {"type": "integer", "minimum": 0} for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
    "required": ["prompt_tokens", "total_tokens"],
}
_LOGPROBS = {
    "type": ["object", "null"],
    "properties": {
        "tokens": _TEXTS,
        "token_logprobs": _NUMBERS,
        "top_logprobs": {
            "type": "array",
            "items": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
        },
        "text_offset": _COUNTS,
    },
    "required": ["tokens", "token_logprobs", "top_logprobs", "text_offset"],
}
_CHOICE = {
    "type": "object",
    "properties": {
        "index": {"type": "integer"},
        "text": {"type": "string"},
        "logprobs": _LOGPROBS,
        "finish_reason": {"enum": ["stop", "length", None]},
        "stop_reason": {"type": ["string", "integer", "null"]},
    },
    "required": ["index", "text", "logprobs", "finish_reason"],
}
_MODEL = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "object": {"const": "model"}, "max_model_len": {"type": "integer"}},
    "required": ["id", "object", "created", "owned_by"],
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_ERROR = _object(
    error=_object(
        message={"type": "string"},
        type={"type": "string"},
        param={"type": ["string", "null"]},
        code={"type": ["string", "null"]},
    )
)
_COMPLETION = _object(
    id={"type": "string"},
    object={"const": "text_completion"},
    created={"type": "integer"},
    model={"type": "string"},
    choices={"type": "array", "items": _CHOICE},
    usage=_USAGE,
)
_SCORES = _object(
    object={"const": "list"},
    model={"type": "string"},
    data={
        "type": "array",
        "items": _object(
            index={"type": "integer"},
            tokens=_TEXTS,
            token_ids=_COUNTS,
            token_logprobs=_NUMBERS,
            ranks={"type": "array", "items": {"type": ["integer", "null"]}},
            entropies=_NUMBERS,
            text_offset=_COUNTS,
            logprob={"type": "number"},
            perplexity={"type": ["number", "null"]},
            bits_per_byte={"type": ["number", "null"]},
        ),
    },
    usage=_USAGE,
)
_VECTORS = _object(
    object={"const": "list"},
    model={"type": "string"},
    data={
        "type": "array",
        "items": _object(
            object={"const": "embedding"},
            index={"type": "integer"},
            embedding={"type": ["array", "string"], "items": {"type": "number"}},
        ),
    },
    usage=_USAGE,
)
_PAIRS = {"type": "array", "items": {"type": "array"}}
_SEEN = _object(
    object={"const": "inspection"},
    model={"type": "string"},
    weights={"type": "string"},
    n_layer={"type": "integer"},
    n_head={"type": "integer"},
    n_positions={"type": "integer"},
    n_tokens={"type": "integer"},
    pieces={"type": "object", "additionalProperties": {"type": "string"}},
)
_SEEN["properties"] |= {
    "token_ids": _COUNTS,
    "byte_ends": _COUNTS,
    "ranks": {"type": "array", "items": {"type": ["integer", "null"]}},
    "token_logprobs": _NUMBERS,
    "entropies": _NUMBERS,
    "top_logprobs": {"type": "array", "items": _PAIRS},
    "alternatives": {
        "type": "array",
        "items": _object(
            id={"type": "integer"}, logprob={"type": "number"}, filtered_logprob={"type": ["number", "null"]}
        ),
    },
    "kept": {"type": "integer"},
    "lens": {
        "type": "array",
        "items": _object(
            depth={"type": "integer"},
            rank={"type": ["integer", "null"]},
            logprob={"type": ["number", "null"]},
            top_logprobs=_PAIRS,
        ),
    },
    "attention": {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "number"}}},
}
_OPTIONAL_NUMBER = {"type": ["number", "null"]}
_VERDICT = {"enum": ["generated", "human", "inconclusive", "uncalibrated"]}
_DETECTION = _object(
    object={"const": "detection"},
    model={"type": "string"},
    weights={"type": "string"},
    verdict=_VERDICT,
    p_value=_OPTIONAL_NUMBER,
    false_positive_rate={"type": "number"},
    least_tokens={"type": ["integer", "null"]},
    reason={"type": "string"},
    n_tokens={"type": "integer"},
    n_normalised={"type": "integer"},
    parts={
        "type": "array",
        "items": _object(
            start={"type": "integer"},
            end={"type": "integer"},
            n_tokens={"type": "integer"},
            n_compared={"type": "integer"},
            verdict=_VERDICT,
            p_human=_OPTIONAL_NUMBER,
            p_generated=_OPTIONAL_NUMBER,
            statistics={"type": "object", "additionalProperties": {"type": "number"}},
            histogram={"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
        ),
    },
    calibration={"type": ["object", "null"]},
    text={"type": "string"},
    token_ids=_COUNTS,
    byte_ends=_COUNTS,
    ranks=_COUNTS,
    token_logprobs=_NUMBERS,
    entropies=_NUMBERS,
    pieces={"type": "object", "additionalProperties": {"type": "string"}},
)
_ASKED = _object(
    object={"const": "task"},
    task={"type": "string"},
    prompt={"type": "string"},
    left_out={"type": ["string", "null"]},
    sampling={"type": "object"},
)
_HEALTH = _object(status={"const": "ok"})

_BODY = (400, 404, 408, 413, 415)  # what may be wrong with a request that has a body

# path, method, summary, class of the request, schema of the answer, statuses besides 200
_OPERATIONS: tuple[tuple[str, str, str, type[BaseModel] | None, dict[str, Any], tuple[int, ...]], ...] = (
    ("/v1/completions", "post", "Continue texts.", schema.CompletionRequest, _COMPLETION, (*_BODY, 429)),
    ("/v1/score", "post", "How likely texts are.", schema.ScoreRequest, _SCORES, (*_BODY, 429)),
    ("/v1/embeddings", "post", "Texts as vectors.", schema.EmbeddingRequest, _VECTORS, (*_BODY, 429)),
    ("/v1/inspect", "post", "What the model makes of a text.", schema.InspectRequest, _SEEN, (*_BODY, 429)),
    ("/v1/detect", "post", "Was a text generated?", schema.DetectRequest, _DETECTION, (*_BODY, 429)),
    *(
        (
            f"/v1/tasks/{task}",
            "post",
            f"What the model is asked to {task}.",
            schema.TaskRequest,
            _ASKED,
            _BODY,
        )
        for task in TASKS
    ),
    (
        "/tokenize",
        "post",
        "The ids of a text.",
        schema.TokenizeRequest,
        _object(tokens={"type": "array"}, count={"type": "integer"}),
        _BODY,
    ),
    (
        "/detokenize",
        "post",
        "The text of ids.",
        schema.DetokenizeRequest,
        _object(prompt={"type": "string"}, content={"type": "string"}),
        _BODY,
    ),
    ("/tokenizer_info", "get", "What the tokenizer is.", None, _object(eos_token={"type": ["string", "null"]}), (404,)),
    (
        "/v1/models",
        "get",
        "The models here.",
        None,
        _object(object={"const": "list"}, data={"type": "array", "items": _MODEL}),
        (),
    ),
    ("/health/live", "get", "Whether the process is of use.", None, _HEALTH, (503,)),
    ("/health/ready", "get", "Whether new requests are taken.", None, _HEALTH, (503,)),
    ("/health", "get", "The same as /health/ready.", None, _HEALTH, (503,)),
)


async def describe(service: Service, request: Request) -> Response:
    """Answer with the OpenAPI document."""
    return json_response(description())


def description() -> dict[str, Any]:
    """The interface as an OpenAPI document."""
    parts: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for path, method, summary, asked, answer, statuses in _OPERATIONS:
        paths[path] = {method: _operation(path, summary, asked, answer, statuses, parts)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpt2",
            "version": release(),
            "description": "OpenAI's completions interface for GPT-2, with vLLM's names for what goes beyond it.",
        },
        "paths": paths,
        "components": {"schemas": parts, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
    }


def _operation(
    path: str,
    summary: str,
    asked: type[BaseModel] | None,
    answer: dict[str, Any],
    statuses: tuple[int, ...],
    parts: dict[str, Any],
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": path.strip("/").replace("/", "_"),
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": _json(answer)}},
    }
    if path == "/v1/completions":
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"$ref": "#/components/schemas/Error"}
    for status in (*statuses, *({401, 403, 421, 431, 503} - set(statuses))):
        operation["responses"][str(status)] = {"description": "An error.", "content": _json(error)}
    if asked is not None:
        found = asked.model_json_schema(ref_template="#/components/schemas/{model}")
        parts |= found.pop("$defs", {})
        parts[asked.__name__] = found
        content = _json({"$ref": f"#/components/schemas/{asked.__name__}"})
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _json(answer: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": answer}}
