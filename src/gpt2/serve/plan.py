"""From a client's request to the scheduler's requests: every check that needs a model or a limit."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2.generation import Constraint, Request, Sampling
from gpt2.serve.faults import ApiError, bad_request, limit_exceeded
from gpt2.serve.limits import Limits
from gpt2.serve.models import ServedModel
from gpt2.serve.schema import CompletionRequest

_DEFAULT_MAX_TOKENS = 16
# Other servers' names for constraints. Ignoring one would return free text as if it obeyed the constraint.
_OTHER_GRAMMARS = ("grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to compute for one HTTP request, and how to answer it.

    Attributes:
        asked: the request.
        prompts: as ids; an empty one is the end-of-text token.
        shown: how many ids of each prompt `echo` shows: none of an empty one.
        requests: one for each prompt.
        n: continuations of each prompt.
        n_tokens: at most, of prompts and continuations; for the queue.
    """

    asked: CompletionRequest
    prompts: tuple[list[int], ...]
    shown: tuple[int, ...]
    requests: tuple[Request, ...]
    n: int
    n_tokens: int


def make_plan(
    asked: CompletionRequest, served: ServedModel, limits: Limits, *, namespace: str = "", deadline: float | None = None
) -> Plan:
    """Check a request, and turn it into the scheduler's.

    Args:
        asked: the client's request.
        served: the model it is for.
        limits: the server's.
        namespace: of its key; only requests of one namespace share computed prompts.
        deadline: by which it must have a place, in the scheduler's clock.

    Raises:
        ApiError: 400, naming the field, the limit and the value.
    """
    _refuse_unsupported(asked)
    _check_limits(asked, limits)
    max_tokens = _DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
    given = [
        served.ids_of(prompt, _param("prompt", number, asked.prompt), parse_special=asked.parse_special)
        for number, prompt in enumerate(asked.prompt)
    ]
    given = [_truncated(ids, asked, served, max_tokens) for ids in given]
    prompts = tuple(ids or [_start(served)] for ids in given)
    for number, ids in enumerate(prompts):
        _check_context(ids, max_tokens, served, _param("prompt", number, prompts))
    sampling = _sampling(asked, max_tokens, served)
    constraint = _constraint(asked, served, limits)
    base = secrets.randbits(64) if asked.seed is None else asked.seed % 2**64
    requests = tuple(
        Request(
            prompt=ids,
            # With a seed, equal prompts of one request have equal continuations, as if each were sent alone.
            sampling=replace(sampling, seed=base if asked.seed is not None else (base + number) % 2**64),
            priority=-(asked.priority or 0),
            namespace=f"{namespace}/{asked.cache_salt or ''}",
            start_by=deadline,
            constraint=constraint,
        )
        for number, ids in enumerate(prompts)
    )
    return Plan(
        asked=asked,
        prompts=prompts,
        shown=tuple(map(len, given)),
        requests=requests,
        n=sampling.n,
        n_tokens=sum(len(ids) + sampling.candidates * max_tokens for ids in prompts),
    )


def _constraint(asked: CompletionRequest, served: ServedModel, limits: Limits) -> Constraint | None:
    wanted = (asked.response_format, asked.structured_outputs, asked.allowed_token_ids, asked.bad_words or None)
    if all(demand is None for demand in wanted):
        return None
    from gpt2.serve.constraints import constraint_of  # imports llguidance, which few requests need

    return constraint_of(asked, served, limits)


def _refuse_unsupported(asked: CompletionRequest) -> None:
    if asked.suffix:
        raise bad_request("suffix cannot be used: GPT-2 continues a text, and cannot fill in before another.", "suffix")
    if asked.use_beam_search or asked.length_penalty not in (None, 1.0):
        name = "use_beam_search" if asked.use_beam_search else "length_penalty"
        raise bad_request(f"{name} cannot be used: the server has no beam search. best_of ranks samples.", name)
    if asked.stream_options is not None and not asked.stream:
        raise bad_request("stream_options can be used with stream alone: set stream to true.", "stream_options")
    if asked.stream and asked.best_of is not None and asked.best_of > (asked.n or 1):
        raise bad_request(
            "stream cannot be used with best_of: which are the best is known when all are done.", "best_of"
        )
    for name, value in sorted((asked.model_extra or {}).items()):
        if value is None:  # the same as absent
            continue
        if name == "messages":
            raise bad_request(
                "messages cannot be used: GPT-2 has no chat. Send the beginning of a text as prompt.", name
            )
        if name in _OTHER_GRAMMARS:
            raise bad_request(f"{name} is not a field here: use response_format or structured_outputs.", name)


def _check_limits(asked: CompletionRequest, limits: Limits) -> None:
    n_prompts, n = len(asked.prompt), max(asked.n or 1, asked.best_of or 1)
    longest_stop, longest_word = (max(map(len, texts or ()), default=0) for texts in (asked.stop, asked.bad_words))
    entries = max(len(asked.logit_bias), len(asked.allowed_token_ids or ()), len(asked.bad_words or ()))
    for what, given, limit, most, param in (
        ("There are too many prompts", n_prompts, "prompts", limits.prompts, "prompt"),
        ("There are too many continuations", n, "n", limits.n, "n" if n == asked.n else "best_of"),
        ("There are too many sequences", n_prompts * n, "sequences", limits.sequences, "n"),
        ("logprobs asks for too many tokens", asked.logprobs or 0, "logprobs", limits.logprobs, "logprobs"),
        (
            "prompt_logprobs asks for too many tokens",
            asked.prompt_logprobs or 0,
            "logprobs",
            limits.logprobs,
            "prompt_logprobs",
        ),
        ("There are too many stop strings", len(asked.stop), "stops", limits.stops, "stop"),
        (
            "There are too many stop tokens",
            len(asked.stop_token_ids or ()),
            "stops",
            limits.stops,
            "stop_token_ids",
        ),
        (
            "A stop string is too long",
            f"one of {longest_stop} characters" if longest_stop > limits.stop_characters else 0,
            "stop_characters",
            limits.stop_characters,
            "stop",
        ),
        (
            "A bad word is too long",
            f"one of {longest_word} characters" if longest_word > limits.stop_characters else 0,
            "stop_characters",
            limits.stop_characters,
            "bad_words",
        ),
        ("There are too many tokens to favour or forbid", entries, "bias_entries", limits.bias_entries, "logit_bias"),
    ):
        if isinstance(given, str) or given > most:
            raise limit_exceeded(what, given, limit, most, param=param)


def _truncated(ids: list[int], asked: CompletionRequest, served: ServedModel, max_tokens: int) -> list[int]:
    keep = asked.truncate_prompt_tokens
    if keep is None:
        return ids
    if keep == -1:
        keep = max(1, served.n_positions - max_tokens)
    if keep == 0:
        raise bad_request("truncate_prompt_tokens must be -1 or at least 1: got 0.", "truncate_prompt_tokens")
    return ids[-keep:]


def _start(served: ServedModel) -> int:
    eot = served.model.tokenizer.eot
    if eot is None:
        raise bad_request(
            "An empty prompt cannot be continued: this model's vocabulary has no end-of-text token to start from. "
            "Give a prompt of at least one token.",
            "prompt",
        )
    return eot


def _check_context(ids: Sequence[int], max_tokens: int, served: ServedModel, param: str) -> None:
    limit = served.n_positions
    if len(ids) + max_tokens > limit:
        if max_tokens >= limit:
            advice = f"max_tokens alone is too large, whatever the prompt: ask for {limit - 1:,} at most."
        else:
            advice = (
                f"Shorten the prompt, ask for fewer tokens, or keep the end of the prompt alone with "
                f"truncate_prompt_tokens=-1. (lm-evaluation-harness: pass max_length={limit}.)"
            )
        raise ApiError(
            400,
            f"{param} and max_tokens do not fit: {len(ids):,} and {max_tokens:,} tokens, and the context of "
            f"{served.name} is {limit:,}. {advice}",
            param="prompt",
            code="context_length_exceeded",
        )


def _sampling(asked: CompletionRequest, max_tokens: int, served: ServedModel) -> Sampling:
    n = asked.n or 1
    if asked.best_of is not None and asked.best_of < n:
        raise bad_request(f"best_of must be at least n: got best_of={asked.best_of}, n={n}.", "best_of")
    if (asked.min_tokens or 0) > max_tokens:
        raise bad_request(
            f"min_tokens may not exceed max_tokens: got {asked.min_tokens} and {max_tokens}.", "min_tokens"
        )
    served.check_ids(list(asked.logit_bias), "logit_bias")
    served.check_ids(asked.stop_token_ids or (), "stop_token_ids")
    wanted = [asked.logprobs] if asked.echo and asked.logprobs is not None else []
    wanted += [asked.prompt_logprobs] if asked.prompt_logprobs is not None else []
    chosen: dict[str, Any] = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": None if asked.top_k is None else max(0, asked.top_k),
        "min_p": asked.min_p,
        "typical_p": asked.typical_p,
        "repetition_penalty": asked.repetition_penalty,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "no_repeat_ngram": asked.no_repeat_ngram,
        "min_tokens": asked.min_tokens,
        "ignore_eot": asked.ignore_eos,
        "best_of": asked.best_of,
    }
    return Sampling(
        max_tokens=max_tokens,
        n=n,
        logprobs=asked.logprobs,
        prompt_logprobs=max(wanted, default=None),
        logit_bias=asked.logit_bias,
        stop=asked.stop,
        stop_ids=tuple(asked.stop_token_ids or ()),
        overflow="refuse",
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _param(name: str, number: int, among: Sequence[object]) -> str:
    return name if len(among) == 1 else f"{name}[{number}]"
