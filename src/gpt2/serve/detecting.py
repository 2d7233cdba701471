"""`POST /v1/detect`: was a text generated? A verdict with its error rate, and the numbers of each token.

Computed like scores, in fp32 unless the server was told a form of weights, and compared with the calibration in the
model's folder. Watermarks are not read here: a client that can query a watermark can learn to remove and forge it.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gpt2.backends import Backend
from gpt2.detect import Calibration, judge, normalise
from gpt2.detect import read as read_tokens
from gpt2.serve.faults import bad_request, limit_exceeded
from gpt2.serve.large import json_answer
from gpt2.serve.models import ServedModel
from gpt2.serve.schema import DetectRequest
from gpt2.serve.service import Service, read, while_present


async def detect(service: Service, request: Request) -> Response:
    """Judge one text; a long one also window by window."""
    asked = await read(request, DetectRequest, service.limits)
    served = service.models.get(asked.model)
    service.check_ready()
    if not asked.text.strip():
        raise bad_request("text is empty: there is nothing to judge. Send one of at least 25 tokens.", "text")

    def judged(backend: Backend) -> dict[str, Any]:
        return _judged(backend, served, asked, service.limits.score_tokens)

    found = await while_present(request, served.exact.run(judged))
    request.scope["call"].fields |= {"model": served.name, "prompt_tokens": found["n_tokens"]}
    return await json_answer(found)


def _judged(backend: Backend, served: ServedModel, asked: DetectRequest, most: int) -> dict[str, Any]:
    tokenizer, calibration = served.model.tokenizer, served.calibration
    text, n_normalised = normalise(asked.text)
    ids = tokenizer.encode(text)
    if len(ids) > most:
        raise limit_exceeded("The text is too long", f"{len(ids):,} tokens", "score_tokens", f"{most:,}", param="text")
    verdict = judge(
        text,
        tokenizer=tokenizer,
        read=lambda part: read_tokens(backend, tokenizer, part),
        calibration=calibration,
        false_positive_rate=asked.false_positive_rate,
        window=asked.window,
        n_normalised=n_normalised,
    )
    return {
        "object": "detection",
        "model": served.name,
        "weights": backend.weights,
        **verdict.facts(),
        "calibration": None if calibration is None else _source(calibration),
        "text": text,
        "token_ids": ids,
        "byte_ends": [end for _, end in tokenizer.offsets(ids)],
        "ranks": [rank for reading in verdict.readings for rank in reading.ranks_T.tolist()],
        "token_logprobs": [round(x, 5) for reading in verdict.readings for x in reading.logprobs_T.tolist()],
        "entropies": [round(x, 5) for reading in verdict.readings for x in reading.entropies_T.tolist()],
        "pieces": served.pieces(ids),
    }


def _source(calibration: Calibration) -> dict[str, Any]:
    return {
        "human": calibration.made_from.get("human"),
        "human_texts": max(map(len, calibration.human.values())),
        "least_tokens": min(calibration.human),
    }
