"""`POST /v1/completions` as the `openai` client sees it: every field, one answer and streams."""

import asyncio
from typing import Any

import numpy as np
import openai
import pytest

from gpt2.language_model import LanguageModel
from gpt2.serve import Limits
from gpt2.serve.plan import Plan, make_plan
from gpt2.serve.schema import CompletionRequest

PROMPT = "The cat sat on"


def stream_of(client: openai.OpenAI, **fields: Any) -> tuple[dict[int, str], dict[int, str | None], list[Any]]:
    """Texts and finish reasons by index, and the chunks."""
    texts: dict[int, str] = {}
    reasons: dict[int, str | None] = {}
    chunks = list(client.completions.create(stream=True, **fields))
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason is not None:
                assert choice.index not in reasons, "a finish reason comes once"
                reasons[choice.index] = choice.finish_reason
            else:
                assert choice.index not in reasons, "nothing follows a finish reason"
    return texts, reasons, chunks


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "seed": 5},
        {"prompt": ["one", "two and more"], "n": 2, "logprobs": 2},
        {"prompt": [464, 3797], "echo": True, "logprobs": 1},
        {"prompt": [[464], [3797, 3332]], "echo": True},
        {"prompt": None, "echo": True, "logprobs": 0},
        {"prompt": "", "seed": 9},
        {"stop": [" the", "e"], "seed": 2},
        {"temperature": 0, "logprobs": 3},
        {"presence_penalty": 1.5, "frequency_penalty": -0.5, "logit_bias": {"262": 5}},
        {"extra_body": {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.3, "typical_p": 0.9}},
        {"extra_body": {"no_repeat_ngram": 2, "ignore_eos": True, "min_tokens": 2}},
        {"top_p": 0.5, "logprobs": 20},
    ],
    ids=str,
)
def test_a_stream_joins_to_what_is_answered_at_once(tiny: Any, fields: dict[str, Any]) -> None:
    client = tiny.client()
    fields = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "seed": 1} | fields
    answer = client.completions.create(**fields)
    texts, reasons, chunks = stream_of(client, **fields)
    assert texts == {choice.index: choice.text for choice in answer.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in answer.choices}
    if fields.get("logprobs") is not None:
        for choice in answer.choices:
            parts = [c.logprobs for chunk in chunks for c in chunk.choices if c.index == choice.index]
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                assert getattr(choice.logprobs, name) == [e for part in parts for e in getattr(part, name)]


@pytest.mark.parametrize(
    ("prompt", "fields", "settings"),
    [
        (PROMPT, {"temperature": 0}, {"temperature": 0}),
        (PROMPT, {"seed": 3}, {"seed": 3}),
        (PROMPT, {"seed": 3, "top_p": 0.7, "presence_penalty": 1}, {"seed": 3, "top_p": 0.7, "presence_penalty": 1}),
        (PROMPT, {"seed": 4, "n": 2, "best_of": 3}, {"seed": 4, "n": 2, "best_of": 3}),
        ("", {"seed": 5}, {"seed": 5}),
    ],
)
def test_the_text_is_the_model_s(
    tiny: Any, tiny_model: LanguageModel, prompt: str, fields: dict[str, Any], settings: dict[str, Any]
) -> None:
    answer = tiny.client().completions.create(model="tiny", prompt=prompt, max_tokens=10, **fields)
    ours = tiny_model.generate(prompt, max_tokens=10, **settings)
    assert [choice.text for choice in answer.choices] == [sample.text for sample in ours.samples]
    assert answer.usage.prompt_tokens == max(1, len(tiny_model.tokenizer.encode(prompt)))


def test_the_same_seed_gives_the_same_bytes_whatever_else_runs(tiny: Any) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 11, "logprobs": 1}
    alone = tiny.client().completions.create(**fields).choices[0]

    async def many() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="none", timeout=120) as client:
            calls = []
            for number in range(10):
                calls.append(client.completions.create(model="tiny", prompt=f"{number} " * number, max_tokens=9))
                calls.append(client.completions.create(**fields))
            return (await asyncio.gather(*calls))[1::2]

    for answer in asyncio.run(many()):
        assert answer.choices[0] == alone


def test_choices_are_numbered_prompt_by_prompt(tiny: Any, tiny_model: LanguageModel) -> None:
    answer = tiny.client().completions.create(model="tiny", prompt=["a", "b c"], n=2, max_tokens=4, seed=1, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    assert answer.usage.prompt_tokens == 3 and answer.usage.completion_tokens == sum(
        len(tiny_model.generate(text, n=2, max_tokens=4, seed=1).samples[i].tokens)
        for text in ("a", "b c")
        for i in (0, 1)
    )


def test_echo_with_logprobs_is_what_the_harness_sums(tiny: Any, tiny_model: LanguageModel) -> None:
    texts = ["Hello world, again", " caf\u00e9 \U0001f600", "x"]
    prompts = [tiny_model.tokenizer.encode(text) for text in texts]
    answer = tiny.client().completions.create(
        model="tiny", prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
    )
    for ids, choice in zip(prompts, answer.choices, strict=True):
        found = choice.logprobs
        scored = tiny_model.score(tiny_model.tokenizer.decode(ids))
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(ids) + 1
        assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
        for place, (token, logprob) in enumerate(zip(ids[1:], found.token_logprobs[1:-1], strict=True), start=1):
            context = tiny_model.logits(ids[:place])[-1].astype(float)
            expected = context[token] - context.max() - np.log(np.exp(context - context.max()).sum())
            assert logprob == pytest.approx(expected, abs=1e-4)
            top = found.top_logprobs[place]
            assert 1 <= len(top) <= 2
            assert (logprob == max(top.values())) == (token == int(context.argmax()))
            assert top[found.tokens[place]] == logprob
        assert scored.ids == tuple(ids)


def test_end_of_text_is_the_one_generated_entry(serve: Any, scripted: Any) -> None:
    client = serve(scripted(n_prompt=2)).client()
    answer = client.completions.create(
        model="scripted", prompt=[464, 3797], max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    choice = answer.choices[0]
    assert choice.logprobs.tokens == ["The", " cat", "<|endoftext|>"]
    assert (choice.text, choice.finish_reason) == ("The cat", "stop")
    assert choice.logprobs.text_offset == [0, 3, 7]


def test_max_tokens_zero_scores_and_generates_nothing(tiny: Any) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "Hello there", "echo": True, "logprobs": 2}
    scored = tiny.client().completions.create(max_tokens=0, **fields)
    longer = tiny.client().completions.create(max_tokens=1, **fields)
    assert scored.choices[0].text == "Hello there" and scored.usage.completion_tokens == 0
    assert scored.choices[0].logprobs.token_logprobs == longer.choices[0].logprobs.token_logprobs[:-1]
    assert tiny.client().completions.create(model="tiny", prompt="a", max_tokens=0).choices[0].text == ""


@pytest.mark.parametrize(
    "text", ["caf\u00e9 au lait", "\U0001f469\u200d\U0001f4bb \u65e5\u672c\u8a9e", "\u00e9\u00e9\u00e9"]
)
def test_characters_split_over_tokens_come_whole_and_their_parts_have_names_of_their_own(
    serve: Any, scripted: Any, tiny_model: LanguageModel, text: str
) -> None:
    by_byte = {tiny_model.tokenizer.token_bytes(i): i for i in range(256)}
    ids = [by_byte[bytes([byte])] for byte in text.encode()]
    client = serve(scripted(ids)).client()
    fields: dict[str, Any] = {"model": "scripted", "prompt": "a", "max_tokens": 100, "logprobs": 2, "temperature": 0}
    answer = client.completions.create(**fields)
    texts, _, chunks = stream_of(client, **fields)
    assert answer.choices[0].text == texts[0] == text
    assert all("\ufffd" not in chunk.choices[0].text for chunk in chunks)
    found = answer.choices[0].logprobs
    assert len(found.tokens) == len(ids) + 1
    assert all(len(top) == 2 for top in found.top_logprobs)  # no name stands for two tokens
    offsets = [len(text.encode()[:place].decode(errors="ignore")) for place in range(len(text.encode()))]
    assert found.text_offset == [*offsets, len(text)]


def test_a_stop_string_is_found_at_every_border(serve: Any, scripted: Any, tiny_model: LanguageModel) -> None:
    text = "one two three"
    by_byte = {tiny_model.tokenizer.token_bytes(i): i for i in range(256)}
    client = serve(scripted([by_byte[bytes([byte])] for byte in text.encode()])).client()
    for begin in range(len(text)):
        for end in range(begin + 1, len(text) + 1, 4):
            stop = text[begin:end]
            fields: dict[str, Any] = {"model": "scripted", "prompt": "a", "max_tokens": 50, "stop": [stop, "zebra"]}
            expected = text[: text.index(stop)]
            texts, reasons, chunks = stream_of(client, temperature=0, **fields)
            assert (texts, reasons) == ({0: expected}, {0: "stop"})
            assert chunks[-1].choices[0].stop_reason == stop
            extra = {"include_stop_str_in_output": True}
            shown = client.completions.create(temperature=0, extra_body=extra, **fields)
            assert shown.choices[0].text == expected + stop


def test_nothing_on_the_way_may_hold_a_stream_back(tiny: Any) -> None:
    _, headers, _ = tiny.request("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 2, "stream": True})
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")


def test_usage_in_a_stream(tiny: Any) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "seed": 1}
    *_, chunks = stream_of(tiny.client(), stream_options={"include_usage": True}, **fields)
    assert chunks[-1].choices == [] and all(chunk.usage is None for chunk in chunks[:-1])
    whole = tiny.client().completions.create(**fields).usage
    assert chunks[-1].usage.completion_tokens == whole.completion_tokens == 5
    *_, chunks = stream_of(
        tiny.client(), stream_options={"include_usage": True, "continuous_usage_stats": True}, **fields
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and counts[0] > 0


def test_the_extensions_of_the_answer(tiny: Any, tiny_model: LanguageModel) -> None:
    extra = {"return_token_ids": True, "return_tokens_as_token_ids": True, "prompt_logprobs": 2, "request_id": "mine-1"}
    raw = tiny.client().completions.with_raw_response.create(
        model="tiny", prompt="Hello there", max_tokens=3, logprobs=1, seed=1, extra_body=extra
    )
    answer = raw.parse()
    choice = answer.choices[0]
    assert raw.headers["x-request-id"] == "mine-1" and answer.id == "cmpl-mine-1"
    assert choice.prompt_token_ids == [15496, 612]
    assert choice.logprobs.tokens == [f"token_id:{token}" for token in choice.token_ids]
    assert choice.prompt_logprobs[0] is None
    assert choice.prompt_logprobs[1]["612"]["decoded_token"] == " there"
    assert answer.system_fingerprint.startswith("gpt2-")


def test_logprobs_and_prompt_logprobs_have_each_as_many_as_were_asked(tiny: Any) -> None:
    fields = {"model": "tiny", "prompt": [464, 3797, 3332], "max_tokens": 1, "echo": True, "logprobs": 1}
    [choice] = tiny.client().completions.create(extra_body={"prompt_logprobs": 4}, **fields).choices
    assert all(1 <= len(top) <= 2 for top in choice.logprobs.top_logprobs[1:])  # the likeliest and the token itself
    for shown in choice.prompt_logprobs[1:]:
        assert [each["rank"] for each in shown.values()][:4] == [1, 2, 3, 4] and len(shown) <= 5


def planned(tiny: Any, namespace: str = "", **fields: Any) -> Plan:
    asked = CompletionRequest.model_validate({"prompt": [[1, 2], [3, 4, 5]], "max_tokens": 4} | fields)
    return make_plan(asked, tiny.served, Limits(), namespace=namespace)


def test_what_is_asked_becomes_what_the_scheduler_is_told(tiny: Any) -> None:
    plan = planned(tiny, n=2, best_of=5, priority=3, presence_penalty=0.5, frequency_penalty=-0.5, min_tokens=1)
    assert plan.n_tokens == (2 + 5 * 4) + (3 + 5 * 4)
    for request in plan.requests:
        assert request.priority == -3, "the lower begins first"
        told = request.sampling
        assert (told.n, told.candidates, told.min_tokens) == (2, 5, 1)
        assert (told.presence_penalty, told.frequency_penalty) == (0.5, -0.5)
    asked = {"echo": True, "logprobs": 2}
    for n, wanted in ((1, 2), (3, 3)):
        assert planned(tiny, prompt_logprobs=n, **asked).requests[0].sampling.prompt_logprobs == wanted


def test_prompts_with_a_seed_share_it_and_others_have_their_own(tiny: Any) -> None:
    assert [request.sampling.seed for request in planned(tiny, seed=7).requests] == [7, 7]
    assert planned(tiny, seed=-1).requests[0].sampling.seed == 2**64 - 1
    one, other = (request.sampling.seed for request in planned(tiny).requests)
    assert one != other


def test_computed_prompts_are_shared_within_a_key_and_a_salt_alone(tiny: Any) -> None:
    spaces = [
        planned(tiny, namespace, **salt).requests[0].namespace
        for namespace in ("ann", "eve")
        for salt in ({}, {"cache_salt": "s"}, {"cache_salt": "t"})
    ]
    assert len(set(spaces)) == 6
    assert planned(tiny, "eve", cache_salt="t").requests[0].namespace == spaces[-1]


def test_truncation_keeps_the_end(tiny: Any) -> None:
    long = " word" * 100
    answer = tiny.client().completions.create(
        model="tiny", prompt=long, max_tokens=10, extra_body={"truncate_prompt_tokens": -1}
    )
    assert answer.usage.prompt_tokens == 54
    answer = tiny.client().completions.create(
        model="tiny", prompt=long + " cat", max_tokens=1, echo=True, extra_body={"truncate_prompt_tokens": 2}
    )
    assert answer.choices[0].text.startswith(" word cat")


def test_end_of_text_in_a_prompt_is_the_token_unless_told(tiny: Any) -> None:
    ask = tiny.client().completions.create
    assert ask(model="tiny", prompt="<|endoftext|>", max_tokens=1).usage.prompt_tokens == 1
    literal = ask(model="tiny", prompt="<|endoftext|>", max_tokens=1, extra_body={"parse_special": False})
    assert literal.usage.prompt_tokens == 7


def test_unknown_fields_are_named(tiny: Any) -> None:
    raw = tiny.client().completions.with_raw_response.create(
        model="tiny", prompt="a", max_tokens=1, extra_body={"temprature": 1, "until": ["x"], "a\nb": 1}
    )
    assert raw.headers["x-ignored-fields"] == "?, temprature, until"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "stream": True}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/score", {"text": "a"}),
        ("/v1/inspect", {"prompt": "a b"}),
        ("/v1/tasks/summarize", {"text": "a"}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
    ],
)
def test_every_path_names_unknown_fields(tiny: Any, path: str, body: dict[str, Any]) -> None:
    status, headers, _ = tiny.request("POST", path, {**body, "poolling": "last"})
    assert (status, headers["x-ignored-fields"]) == (200, "poolling")
    assert "x-ignored-fields" not in tiny.request("POST", path, body)[1]


def test_a_missing_model_is_the_first(tiny: Any) -> None:
    status, _, answer = tiny.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert (status, answer["model"]) == (200, "tiny")


def test_the_asynchronous_client(tiny: Any) -> None:
    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="none", timeout=120) as client:
            fields: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "seed": 2}
            whole = await client.completions.create(**fields)
            parts = [part.choices[0].text async for part in await client.completions.create(stream=True, **fields)]
            return whole.choices[0].text, "".join(parts)

    whole, joined = asyncio.run(both())
    assert whole == joined != ""
