"""`POST /v1/embeddings`: texts as vectors, in OpenAI's form; fp32 unless the server was told a form of weights."""

import base64

from starlette.requests import Request
from starlette.responses import Response

from gpt2.backends import Backend
from gpt2.backends.seam import Floats
from gpt2.inspect import embed
from gpt2.serve.faults import ApiError, bad_request, limit_exceeded
from gpt2.serve.large import json_answer
from gpt2.serve.models import ServedModel
from gpt2.serve.schema import EmbeddingRequest
from gpt2.serve.service import Service, read, while_present


async def embed_texts(service: Service, request: Request) -> Response:
    """A vector for each text: the last layer's states after the last norm, pooled over its tokens."""
    asked = await read(request, EmbeddingRequest, service.limits)
    served = service.models.get(asked.model)
    service.check_ready()
    limits, width = service.limits, served.model.config.n_embd
    if len(asked.input) > limits.prompts:
        raise limit_exceeded("There are too many texts", len(asked.input), "prompts", limits.prompts, param="input")
    if asked.dimensions not in (None, width):
        raise bad_request(
            f"dimensions cannot be {asked.dimensions:,}: the vectors of {served.name} have {width:,}, and a part of "
            f"one says nothing. Leave it out.",
            "dimensions",
        )

    def all_of_them(backend: Backend) -> tuple[Floats, int]:
        texts = _ids(asked, served, limits.score_tokens)
        pooling = asked.pooling or "mean"
        vectors_ND = embed(backend, served.model.head, served.model.tokenizer, texts, pooling=pooling)
        return vectors_ND, sum(map(len, texts))

    vectors_ND, n_tokens = await while_present(request, served.exact.run(all_of_them))
    request.scope["call"].fields |= {"model": served.name, "prompt_tokens": n_tokens}
    is_packed = asked.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector_D) if is_packed else vector_D.tolist()}
        for index, vector_D in enumerate(vectors_ND)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return await json_answer({"object": "list", "model": served.name, "data": data, "usage": usage})


def _ids(asked: EmbeddingRequest, served: ServedModel, most: int) -> list[list[int]]:
    texts: list[list[int]] = []
    for number, text in enumerate(asked.input):
        param = "input" if len(asked.input) == 1 else f"input[{number}]"
        ids = served.ids_of(text, param, parse_special=asked.parse_special)
        if not ids:
            raise bad_request(f"{param} has no vector: it is empty. Give at least one token.", param)
        if len(ids) > served.n_positions:
            raise ApiError(
                400,
                f"{param} does not fit: it has {len(ids):,} tokens, and the context of {served.name} is "
                f"{served.n_positions:,}. Give a part of it, or several parts.",
                param=param,
                code="context_length_exceeded",
            )
        texts.append(ids)
    n_tokens = sum(map(len, texts))
    if n_tokens > most:
        given = f"{n_tokens:,} tokens"
        raise limit_exceeded("There is too much to embed", given, "score_tokens", f"{most:,}", param="input")
    return texts


def _packed(vector_D: Floats) -> str:
    """As OpenAI packs it: float32, the low byte first, in base64."""
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode("ascii")
