"""`POST /v1/inspect`: how the model reads a text, token by token, or one place of it in detail.

Computed like scores, in fp32 unless the server was told a form of weights. Nothing is put before the text: nothing
predicts its first token, and the model sees the others as it does in generation.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gpt2.backends import Backend
from gpt2.generation import Sampling, score
from gpt2.inspect import TokenView, view_token
from gpt2.serve.faults import bad_request, finite, limit_exceeded
from gpt2.serve.large import json_answer
from gpt2.serve.models import ServedModel
from gpt2.serve.schema import InspectRequest
from gpt2.serve.service import Service, read, while_present

_DEFAULT_TOP = 10
_FILTERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram",
    "logit_bias",
)


async def inspect(service: Service, request: Request) -> Response:
    """Rank every token; or, with `position`, look at one place."""
    asked = await read(request, InspectRequest, service.limits)
    served = service.models.get(asked.model)
    service.check_ready()
    served.check_ids(list(asked.logit_bias), "logit_bias")
    top, most = asked.top_logprobs, service.limits.logprobs
    if top is not None and top > most:
        raise limit_exceeded("top_logprobs asks for too many tokens", top, "logprobs", most, param="top_logprobs")

    def look(backend: Backend) -> dict[str, Any]:
        ids = _ids(asked, served, service.limits.score_tokens)
        return _seen(backend, served, ids, asked, min(_DEFAULT_TOP, most) if top is None else top)

    seen = await while_present(request, served.exact.run(look))
    request.scope["call"].fields |= {"model": served.name, "prompt_tokens": seen["n_tokens"]}
    return await json_answer(seen)


def _ids(asked: InspectRequest, served: ServedModel, most: int) -> list[int]:
    if len(asked.prompt) != 1:
        raise bad_request(f"prompt must be one text: got {len(asked.prompt)}.", "prompt")
    ids = served.ids_of(asked.prompt[0], "prompt", parse_special=asked.parse_special)
    if len(ids) > most:
        raise limit_exceeded(
            "The text is too long", f"{len(ids):,} tokens", "score_tokens", f"{most:,}", param="prompt"
        )
    return ids


def _seen(backend: Backend, served: ServedModel, ids: Sequence[int], asked: InspectRequest, top: int) -> dict[str, Any]:
    config = backend.config
    seen: dict[str, Any] = {
        "object": "inspection",
        "model": served.name,
        "weights": backend.weights,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_positions": config.n_positions,
        "n_tokens": len(ids),
    }
    if asked.position is None:
        if asked.layer is not None:
            raise bad_request("layer can be given with position alone: attention is of one place.", "layer")
        return seen | _every_token(backend, served, ids, top)
    if not 1 <= asked.position <= len(ids):
        raise bad_request(
            f"position must be 1 to the number of tokens, {len(ids)}, which is the place after the last: "
            f"got {asked.position}.",
            "position",
        )
    if asked.layer is not None and asked.layer >= config.n_layer:
        raise bad_request(f"layer must be 0 to {config.n_layer - 1}: got {asked.layer}.", "layer")
    skipped = max(0, asked.position - config.n_positions)  # beyond the context, look back over one context
    view = view_token(
        backend,
        served.model.head,
        served.model.tokenizer,
        ids[skipped : asked.position + 1],
        asked.position - skipped,
        sampling=_sampling(asked),
        layer=asked.layer,
        best=top,
    )
    return seen | {"position": asked.position, "skipped": skipped} | _one_place(view, served, asked.layer)


def _sampling(asked: InspectRequest) -> Sampling:
    given = {name: getattr(asked, name) for name in _FILTERS if getattr(asked, name) is not None}
    return Sampling(top_k=max(0, asked.top_k or 0), **given)


def _every_token(backend: Backend, served: ServedModel, ids: Sequence[int], top: int) -> dict[str, Any]:
    tokenizer = served.model.tokenizer
    blank: list[Any] = [None] * len(ids)
    seen: dict[str, Any] = {
        "token_ids": list(ids),
        "byte_ends": [end for _, end in tokenizer.offsets(ids)],
        "ranks": blank,
        "token_logprobs": blank,
        "entropies": blank,
        "top_logprobs": [[] for _ in ids],
        "perplexity": None,
        "bits_per_byte": None,
    }
    if len(ids) > 1:
        scored = score(backend, tokenizer, ids, score_first=False, best=top)
        seen |= {
            "ranks": list(scored.ranks),
            "token_logprobs": _short(scored.logprobs),
            "entropies": _short(scored.entropies),
            "top_logprobs": [_pairs(best) for best in scored.best],
            "perplexity": finite(scored.perplexity),
            "bits_per_byte": finite(scored.bits_per_byte),
        }
    named = {*ids, *(token for best in seen["top_logprobs"] for token, _ in best)}
    return seen | {"pieces": served.pieces(named)}


def _one_place(view: TokenView, served: ServedModel, layer: int | None) -> dict[str, Any]:
    named = {each.token for each in view.alternatives} | {token for depth in view.depths for token, _ in depth.best}
    attention: list[list[float]] | None = None
    if view.attention_HS is not None:
        attention = [[round(weight, 5) for weight in row_S] for row_S in view.attention_HS.tolist()]
    return {
        "entropy": view.entropy,
        "kept": view.kept,
        "alternatives": [
            {"id": each.token, "logprob": each.logprob, "filtered_logprob": each.filtered_logprob}
            for each in view.alternatives
        ],
        "lens": [
            {"depth": at.depth, "rank": at.rank, "logprob": at.logprob, "top_logprobs": _pairs(at.best)}
            for at in view.depths
        ],
        "layer": layer,
        "attention": attention,
        "pieces": served.pieces(named),
    }


def _short(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 5) for value in values]


def _pairs(best: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(token, round(logprob, 5)) for token, logprob in best]
