"""Text to token ids and back, as lm-evaluation-harness, vLLM and llama.cpp ask for it."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gpt2.serve.faults import bad_request, json_response
from gpt2.serve.large import large_answer
from gpt2.serve.schema import DetokenizeRequest, TokenizeRequest
from gpt2.serve.service import Service, read

_LONG_CHARACTERS = 10_000


async def tokenize(service: Service, request: Request) -> Response:
    """The ids of a text."""
    asked = await read(request, TokenizeRequest, service.limits)
    served = service.models.get(asked.model)
    if (asked.prompt is None) == (asked.content is None):
        raise bad_request("One text is needed, as prompt or as content.", "prompt")
    text = asked.prompt if asked.prompt is not None else asked.content or ""

    def answer_of() -> dict[str, Any]:
        param = "content" if asked.prompt is None else "prompt"
        ids = served.ids_of(text, param, parse_special=asked.parse_special)
        answer: dict[str, Any] = {"count": len(ids), "max_model_len": served.n_positions, "tokens": ids}
        if asked.with_pieces:
            pieces = {token: _piece(served.model.tokenizer.token_bytes(token)) for token in set(ids)}
            answer["tokens"] = [{"id": token, "piece": pieces[token]} for token in ids]
        if asked.return_token_strs:
            answer["token_strs"] = [served.token_names[token] for token in ids]
        return answer

    return await large_answer(answer_of) if len(text) > _LONG_CHARACTERS else json_response(answer_of())


async def detokenize(service: Service, request: Request) -> Response:
    """The text of ids, under both names that clients look for."""
    asked = await read(request, DetokenizeRequest, service.limits)
    served = service.models.get(asked.model)
    served.check_ids(asked.tokens, "tokens")
    text = served.model.tokenizer.decode(asked.tokens)
    return json_response({"prompt": text, "content": text})


async def tokenizer_info(service: Service, request: Request) -> Response:
    """What lm-evaluation-harness asks before it uses a remote tokenizer."""
    served = service.models.get(request.query_params.get("model"))
    tokenizer = served.model.tokenizer
    end = None if tokenizer.eot is None else tokenizer.decode([tokenizer.eot])
    return json_response(
        {
            "tokenizer_class": "GPT2Tokenizer",
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": served.n_positions,
            "bos_token": end,
            "eos_token": end,
            "unk_token": end,
            "pad_token": None,
            "bos_token_id": tokenizer.eot,
            "eos_token_id": tokenizer.eot,
            "add_prefix_space": False,
            "chat_template": None,
            "hash": tokenizer.hash,
        }
    )


def _piece(piece: bytes) -> str | list[int]:
    """A token as text, or, as in llama.cpp, as a list of bytes if it is not whole characters."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
