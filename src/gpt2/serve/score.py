"""`POST /v1/score`: how likely texts are, computed in fp32 unless the server was told a form of weights."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gpt2.backends import Backend
from gpt2.generation import score
from gpt2.generation.scoring import computed_tokens, default_stride
from gpt2.generation.text import TextStream
from gpt2.serve.faults import bad_request, finite, limit_exceeded
from gpt2.serve.large import json_answer
from gpt2.serve.models import ServedModel
from gpt2.serve.schema import ScoreRequest
from gpt2.serve.service import Service, read, while_present


async def score_texts(service: Service, request: Request) -> Response:
    """Score one text or several; a window slides over those longer than the context."""
    asked = await read(request, ScoreRequest, service.limits)
    served = service.models.get(asked.model)
    service.check_ready()
    _check(asked, served, service)
    first = asked.score_first is not False

    def all_of_them(backend: Backend) -> list[dict[str, Any]]:
        texts = [served.ids_of(text, "text", parse_special=asked.parse_special) for text in asked.text]
        n_tokens = sum(map(len, texts))
        if n_tokens > service.limits.score_tokens:
            raise limit_exceeded(
                "There is too much to score",
                f"{n_tokens:,} tokens",
                "score_tokens",
                f"{service.limits.score_tokens:,}",
                param="text",
            )
        _check_stride(asked.stride, list(map(len, texts)), served.n_positions, service.limits.score_tokens)
        return [_scored(backend, ids, index, asked, served, first=first) for index, ids in enumerate(texts)]

    data = await while_present(request, served.exact.run(all_of_them))
    n_tokens = sum(len(entry["token_ids"]) for entry in data)
    request.scope["call"].fields |= {"model": served.name, "prompt_tokens": n_tokens}
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return await json_answer({"object": "list", "model": served.name, "data": data, "usage": usage})


def _check(asked: ScoreRequest, served: ServedModel, service: Service) -> None:
    limits = service.limits
    if len(asked.text) > limits.prompts:
        raise limit_exceeded("There are too many texts", len(asked.text), "prompts", limits.prompts, param="text")
    if (asked.top_logprobs or 0) > limits.logprobs:
        raise limit_exceeded(
            "top_logprobs asks for too many tokens",
            asked.top_logprobs,
            "logprobs",
            limits.logprobs,
            param="top_logprobs",
        )
    if asked.stride is not None and asked.stride > served.n_positions:
        raise bad_request(
            f"stride may be at most the context of {served.n_positions:,} tokens: got {asked.stride}.", "stride"
        )


def _check_stride(stride: int | None, lengths: Sequence[int], n_positions: int, most: int) -> None:
    """Refuse a stride that costs more than the longest text allowed does at the default stride."""
    by_default = default_stride(n_positions)
    if stride is None or stride >= by_default:
        return

    def computed(stride: int) -> int:
        return sum(computed_tokens(n, stride=stride, n_positions=n_positions) for n in lengths)

    allowed = computed_tokens(most, stride=by_default, n_positions=n_positions)
    if computed(stride) > allowed:
        least = next(wider for wider in range(stride, by_default + 1) if computed(wider) <= allowed)
        raise bad_request(
            f"stride is too small: at {stride} the windows come to {computed(stride):,} tokens, and the limit "
            f"score_tokens of {most:,} allows {allowed:,}, as many as so long a text has by the default stride of "
            f"{by_default}. Send a stride of at least {least}, or less text.",
            "stride",
            "score_tokens",
        )


def _scored(
    backend: Backend, ids: Sequence[int], index: int, asked: ScoreRequest, served: ServedModel, *, first: bool
) -> dict[str, Any]:
    found = score(
        backend,
        served.model.tokenizer,
        ids,
        stride=asked.stride,
        score_first=first,
        best=asked.top_logprobs or 0,
    )
    names = served.token_names
    entry: dict[str, Any] = {
        "index": index,
        "object": "score",
        "tokens": [names[token] for token in found.ids],
        "token_ids": list(found.ids),
        "token_logprobs": list(found.logprobs),
        "ranks": list(found.ranks),
        "entropies": list(found.entropies),
        "text_offset": _offsets(found.ids, served),
        "logprob": found.logprob,
        "perplexity": finite(found.perplexity),
        "perplexity_per_word": finite(found.perplexity_per_word),
        "bits_per_byte": finite(found.bits_per_byte),
    }
    if asked.top_logprobs:
        entry["top_logprobs"] = [{names[token]: logprob for token, logprob in best} for best in found.best]
    return entry


def _offsets(ids: Sequence[int], served: ServedModel) -> list[int]:
    """Where each token begins in the text, in characters. Tokens that share a character begin where it begins."""
    text = TextStream(served.model.tokenizer)
    return list(accumulate((len(text.push(token)[0]) for token in ids), initial=0))[:-1]
