"""Tokenizing from afar, scoring, and what a server says of itself."""

import base64
import json
import logging
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2.errors import TokenizerError
from gpt2.generation import Counts, Statistics
from gpt2.language_model import LanguageModel
from gpt2.serve import Limits, large
from gpt2.serve.faults import ApiError, json_bytes
from gpt2.serve.metrics import Metrics
from gpt2.serve.models import ServedModel


def test_the_remote_tokenizer_of_the_harness(tiny: Any) -> None:
    info = tiny.request("GET", "/tokenizer_info")[2]
    assert info["eos_token"] == "<|endoftext|>" and info["model_max_length"] == 64
    encoded = tiny.request("POST", "/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False})[2]
    assert encoded["tokens"] == [50256]
    text = " caf\u00e9 \U0001f600\n<|endoftext|>x"
    for name in ("prompt", "content"):
        ids = tiny.request("POST", "/tokenize", {name: text})[2]["tokens"]
        decoded = tiny.request("POST", "/detokenize", {"tokens": ids})[2]
        assert decoded == {"prompt": text, "content": text}
    literal = tiny.request("POST", "/tokenize", {"prompt": "<|endoftext|>", "parse_special": False})[2]
    assert literal["count"] == 7


def test_pieces_of_characters(tiny: Any) -> None:
    asked = {"prompt": "\U0001f600", "with_pieces": True, "return_token_strs": True}
    answer = tiny.request("POST", "/tokenize", asked)[2]
    assert bytes(byte for token in answer["tokens"] for byte in token["piece"]).decode() == "\U0001f600"
    assert answer["token_strs"][0].startswith("bytes:\\x")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "content": "b"}),
        ("/tokenize", {"prompt": 1}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [50257]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "1"}),
        ("/v1/score", {}),
        ("/v1/score", {"text": ""}),
        ("/v1/score", {"text": "a", "stride": 65}),
        ("/v1/score", {"text": "a", "score_first": False}),
        ("/v1/score", {"text": ["a"] * 65}),
        ("/v1/score", {"text": "a " * 40_000}),
        ("/v1/score", {"text": "a", "top_logprobs": 21}),
    ],
)
def test_bad_input(tiny: Any, path: str, body: dict[str, Any]) -> None:
    status, _, answer = tiny.request("POST", path, body)
    assert status == 400 and answer["error"]["message"]


def test_a_text_that_the_vocabulary_cannot_write_is_refused_by_its_field() -> None:
    def encode(text: str, *, allow_special: bool) -> list[int]:
        raise TokenizerError("no token of the vocabulary has this byte")

    served = object.__new__(ServedModel)
    served.model = SimpleNamespace(tokenizer=SimpleNamespace(encode=encode))
    with pytest.raises(ApiError, match="this byte") as refused:
        served.ids_of("a", "text", parse_special=None)
    assert (refused.value.status, refused.value.param) == (400, "text")


def test_scores_are_the_model_s_own(tiny: Any, tiny_model: LanguageModel) -> None:
    texts = ["Hello there", " caf\u00e9 \U0001f600", "word " * 100]
    asked = {"text": texts, "top_logprobs": 2, "stride": 16}
    answer = tiny.request("POST", "/v1/score", asked)[2]
    for text, found in zip(texts, answer["data"], strict=True):
        ours = tiny_model.score(text, stride=16, best=2)
        assert found["token_ids"] == list(ours.ids) and found["ranks"] == list(ours.ranks)
        assert found["token_logprobs"] == pytest.approx(ours.logprobs, abs=1e-6)
        assert found["perplexity"] == pytest.approx(ours.perplexity)
        assert all(len(top) == 2 for top in found["top_logprobs"])
        starts = found["text_offset"]
        assert starts[0] == 0 and starts == sorted(starts)
    assert answer["usage"]["prompt_tokens"] == sum(len(tiny_model.tokenizer.encode(text)) for text in texts)


def test_ids_can_be_scored_and_the_first_left_out(tiny: Any, tiny_model: LanguageModel) -> None:
    found = tiny.request("POST", "/v1/score", {"text": [464, 3797], "score_first": False})[2]["data"][0]
    assert found["token_logprobs"][0] is None and found["ranks"][0] is None
    assert found["tokens"] == ["The", " cat"]


def test_a_small_stride_is_refused_where_it_would_cost_more_than_the_longest_text(serve: Any, scripted: Any) -> None:
    backend = scripted(n_positions=32)
    running = serve(backend, limits=Limits(score_tokens=100))

    def asked(text: Any, **fields: Any) -> tuple[int, Any]:
        status, _, answer = running.request("POST", "/v1/score", {"text": text, **fields})
        return status, answer

    longest = [1] * 100
    status, answer = asked(longest, stride=1)  # 69 windows, nearly all of 32 tokens
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (400, "stride", "score_tokens")
    assert "at 1 the windows come to 2,208 tokens, and the limit score_tokens of 100 allows 180" in error["message"]
    assert "a stride of at least 16" in error["message"] and backend.n_steps == 0
    assert "at least 14" in asked([1] * 90, stride=13)[1]["error"]["message"] and backend.n_steps == 0
    assert asked([[1] * 60, [1] * 40], stride=1)[0] == 400 and backend.n_steps == 0
    for text, fields in (
        ([1] * 90, {"stride": 14}),
        (longest, {"stride": 16}),
        (longest, {}),
        (longest, {"stride": 32}),
        ([[1] * 32] * 3, {"stride": 1}),  # all of them within one window
        ([1] * 35, {"stride": 1}),
    ):
        assert asked(text, **fields)[0] == 200
    assert asked([*longest, 1])[1]["error"]["param"] == "text"


def test_embeddings_are_the_model_s_own_by_openai_s_client(tiny: Any, tiny_model: LanguageModel) -> None:
    client, texts = tiny.client(), ["Hello there", " caf\u00e9 \U0001f600", "word " * 30]
    ours = tiny_model.embed(texts)
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": ours.shape[1]}):
        found = client.embeddings.create(model="tiny", input=texts, **options)  # in base64, where it does not say
        packed = [each.embedding for each in found.data]
        if options.get("encoding_format") == "base64":
            packed = [np.frombuffer(base64.b64decode(each), "<f4") for each in packed]
        assert np.array(packed, np.float32) == pytest.approx(ours, abs=1e-6)
        assert (found.object, found.model, [each.index for each in found.data]) == ("list", "tiny", [0, 1, 2])
        n_tokens = sum(len(tiny_model.tokenizer.encode(text)) for text in texts)
        assert (found.usage.prompt_tokens, found.usage.total_tokens) == (n_tokens, n_tokens)
    last = client.embeddings.create(model="tiny", input="Hello there", extra_body={"pooling": "last"})
    assert last.data[0].embedding == pytest.approx(tiny_model.embed("Hello there", pooling="last"), abs=1e-6)
    ids = tiny_model.tokenizer.encode("Hello there")
    for given in (ids, [ids, ids]):
        for each in client.embeddings.create(model="tiny", input=given).data:
            assert each.embedding == pytest.approx(ours[0], abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "input", "input is missing"),
        ({"input": []}, "input", "an empty list holds no text; give at least one: got []"),
        ({"input": None}, "input", "must be a string"),
        ({"input": ""}, "input", "input has no vector: it is empty"),
        ({"input": ["a", ""]}, "input[1]", "it is empty"),
        ({"input": [99999]}, "input", "no token 99999"),
        ({"input": ["a", [1]]}, "input", "must be a string"),
        ({"input": [1] * 65}, "input", "it has 65 tokens, and the context of tiny is 64"),
        ({"input": ["a"] * 65}, "input", "prompts is 64, and the request has 65"),
        ({"input": "a", "dimensions": 8}, "dimensions", "the vectors of tiny have 16"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", '"hex"'),
        ({"input": "a", "pooling": "max"}, "pooling", '"max"'),
        ({"input": "a", "model": "other"}, "model", "'tiny'"),
    ],
)
def test_what_has_no_embedding_is_refused_by_name(tiny: Any, fields: dict[str, Any], param: str, said: str) -> None:
    status, _, answer = tiny.request("POST", "/v1/embeddings", fields)
    assert status == (404 if param == "model" else 400)
    assert answer["error"]["param"] == param and said in answer["error"]["message"]


def test_embeddings_are_bounded_as_scores_are(serve: Any) -> None:
    running = serve(limits=Limits(score_tokens=5))
    status, _, answer = running.request("POST", "/v1/embeddings", {"input": [[1] * 3, [2] * 3]})
    assert (status, answer["error"]["code"]) == (400, "score_tokens") and "6 tokens" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/score", {"text": [[number] * 60 for number in range(40)], "top_logprobs": 20}),
        ("/v1/inspect", {"prompt": "one two " * 1000, "top_logprobs": 20}),
        ("/v1/completions", {"prompt": ["a b" * 20] * 40, "max_tokens": 0, "echo": True, "logprobs": 20}),
        ("/v1/completions", {"prompt": ["a b" * 20] * 40, "max_tokens": 1, "prompt_logprobs": 20}),
        ("/v1/detect", {"text": "one two " * 1000}),
        ("/tokenize", {"prompt": "one two " * 5000, "with_pieces": True}),
    ],
)
def test_a_large_answer_stops_nobody(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any]
) -> None:
    """While an encoder works no other thread runs, so all of it at once would stop the event loop beside it too."""
    encode, made = json.JSONEncoder.encode, []

    def noted(encoder: json.JSONEncoder, value: object) -> str:
        text = encode(encoder, value)
        made.append((threading.current_thread(), len(text)))
        return text

    with monkeypatch.context() as patch:
        patch.setattr(json.JSONEncoder, "encode", noted)
        status, headers, _ = tiny.request("POST", path, fields)
    assert status == 200 and int(headers["content-length"]) > 50_000
    assert max(size for _, size in made) < 50_000
    assert sum(size for thread, size in made if thread is tiny.thread) < 1000


@pytest.mark.parametrize("most", [1, 5, 100])
def test_an_answer_in_parts_is_that_in_one(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    value = {"a": [[1, "é", (None, 0.5)], [], {}, {"b": {3: [True], "c": ""}}], 7: list(range(40)), "": ()}
    monkeypatch.setattr(large, "_MOST_VALUES", most)
    parts = list(large.json_parts(value))
    assert b"".join(parts) == json_bytes(value)
    assert most == 100 or len(parts) > 20


def test_what_is_small_is_encoded_together_in_a_large_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    monkeypatch.setattr(large, "json_bytes", lambda value: encoded.append(value) or json_bytes(value))
    value = {"tokens": list(range(10_000))}
    assert b"".join(large.json_parts(value)) == json_bytes(value)
    assert len(encoded) < 20


def test_metrics_count_what_was_done(serve: Any, scripted: Any) -> None:
    running = serve(scripted([464] * 4))
    running.client().completions.create(model="scripted", prompt=[1, 2], max_tokens=3, n=2)
    running.request("GET", "/wp-admin.php")
    status, headers, text = running.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    label = '{model_name="scripted"}'
    assert lines[f"gpt2_prompt_tokens_total{label}"] == "2.0"
    assert lines[f"gpt2_generation_tokens_total{label}"] == "6.0"
    assert lines['gpt2_request_success_total{finished_reason="length",model_name="scripted"}'] == "2.0"
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert lines[f"gpt2_{name}_count{label}"] == "1.0"
    assert lines[f"gpt2_inter_token_latency_seconds_count{label}"] == "4.0"
    assert lines['gpt2_http_requests_total{path="other",status="404"}'] == "1.0"


def test_what_a_request_asked_and_got_is_measured(serve: Any, scripted: Any) -> None:
    running = serve(scripted([464] * 4))
    fields: dict[str, Any] = {"model": "scripted", "prompt": [[1, 2], [3, 4, 5]], "max_tokens": 3, "n": 2}
    usage = running.client().completions.create(best_of=4, **fields).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 24, 29)  # all that was drawn
    assert usage.prompt_tokens_details.cached_tokens == 0
    text = running.request("GET", "/metrics")[2].decode()
    for name, value in (
        ("prompt_tokens_total", 5.0),
        ("generation_tokens_total", 24.0),
        ("request_prompt_tokens_sum", 5.0),
        ("request_generation_tokens_sum", 24.0),
        ("request_params_n_sum", 2.0),
        ("request_params_max_tokens_sum", 3.0),
    ):
        assert f'gpt2_{name}{{model_name="scripted"}} {value}\n' in text


def test_metrics_take_over_what_a_scheduler_counts_and_holds() -> None:
    metrics = Metrics()
    for counts, sequences in (
        (
            Counts(steps=3, prompt_tokens=10, generated_tokens=7, drafted_tokens=4, accepted_tokens=2, prefix_tokens=5),
            6,
        ),
        (
            Counts(steps=8, prompt_tokens=30, generated_tokens=9, drafted_tokens=6, accepted_tokens=3, prefix_tokens=9),
            3,
        ),
    ):
        now = Statistics(
            running=2,
            waiting=1,
            sequences=sequences,
            kv_bytes=640,
            reserved_bytes=0,
            prefix_entries=0,
            prefix_bytes=0,
            counts=counts,
        )
        metrics.take("m", now, places=4)
        assert f'gpt2_kv_cache_usage_perc{{model_name="m"}} {min(1.0, sequences / 4)}\n' in metrics.text().decode()
    for name, value in (
        ("num_requests_running", 2),
        ("num_requests_waiting", 1),
        ("kv_cache_bytes", 640),
        ("engine_steps_total", 8),
        ("generation_tokens_total", 9),
        ("spec_decode_num_draft_tokens_total", 6),
        ("spec_decode_num_accepted_tokens_total", 3),
        ("prefix_cache_hits_total", 9),
        ("prefix_cache_queries_total", 39),  # 30 were computed
    ):
        assert f'gpt2_{name}{{model_name="m"}} {value}.0\n' in metrics.text().decode()


def test_what_was_computed_before_is_told_for_all_prompts_together(serve: Any, scripted: Any) -> None:
    client = serve(scripted([464] * 4)).client()
    prompts = [list(range(1, 41)), list(range(101, 141))]

    def cached(prompt: Any) -> int:
        usage = client.completions.create(model="scripted", prompt=prompt, max_tokens=1, temperature=0).usage
        return usage.prompt_tokens_details.cached_tokens

    assert [cached(prompt) for prompt in prompts] == [0, 0]
    first, second = (cached(prompt) for prompt in prompts)
    assert 0 < first < 40 and 0 < second < 40
    assert cached(prompts) == first + second


@pytest.mark.parametrize(("stream", "status"), [(True, 200), (False, 499)])
def test_what_was_generated_for_whoever_left_is_counted(
    serve: Any, scripted: Any, until: Any, stream: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    backend = scripted([464] * 200)
    running = serve(backend, sequences=1)
    backend.hold_after(3)
    with caplog.at_level(logging.INFO, "gpt2.serve.access"):
        body = {"prompt": "a", "max_tokens": 50, "stream": stream}
        connection = running.send("POST", "/v1/completions", body)
        until(lambda: backend.waits)
        connection.close()
        until(lambda: caplog.records)  # the server has seen it, while the fourth step still runs
    backend.gate.set()
    until(lambda: not backend.slots)
    text = running.request("GET", "/metrics")[2].decode()
    assert 'gpt2_generation_tokens_total{model_name="scripted"} 4.0' in text
    assert 'gpt2_request_cancelled_total{model_name="scripted"} 1.0' in text
    assert f'gpt2_http_requests_total{{path="/v1/completions",status="{status}"}} 1.0' in text
    [line] = caplog.records
    assert (line.fields["status"], line.fields["left"]) == (status, True)  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_leaves_the_queue_is_499(
    serve: Any, scripted: Any, until: Any, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = scripted([464] * 200)
    running = serve(backend)
    backend.hold_after(0)
    with caplog.at_level(logging.INFO, "gpt2.serve.access"):
        connection = running.send("POST", "/v1/completions", {"prompt": "a", "max_tokens": 50, "stream": stream})
        until(lambda: backend.waits)
        connection.close()
        until(lambda: caplog.records)
    backend.gate.set()
    until(lambda: not backend.slots)
    text = running.request("GET", "/metrics")[2].decode()
    assert 'gpt2_request_cancelled_total{model_name="scripted"} 1.0' in text
    assert 'gpt2_http_requests_total{path="/v1/completions",status="499"} 1.0' in text


def test_the_dashboard_asks_for_metrics_that_there_are(tiny: Any) -> None:
    dashboard = (Path(__file__).parents[2] / "docs" / "examples" / "grafana.json").read_text(encoding="utf-8")
    asked = set(re.findall(r"\bgpt2_[a-z0-9_]+", " ".join(re.findall(r'"expr": "(.*)"', dashboard))))
    text = tiny.request("GET", "/metrics")[2].decode()
    families = set(re.findall(r"# TYPE (\S+)", text))
    assert len(asked) > 12
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= families


def test_the_page_has_a_strict_policy(tiny: Any) -> None:
    status, headers, body = tiny.request("GET", "/")
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8" and b"<html" in body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert tiny.request("GET", "/", headers=[f"If-None-Match: {headers['etag']}"])[0] == 304
    assert tiny.request("HEAD", "/")[0] == 200


def test_the_description_has_every_path(tiny: Any) -> None:
    described = tiny.request("GET", "/openapi.json")[2]
    assert described["openapi"] == "3.1.0"
    assert {"/v1/completions", "/v1/score", "/v1/embeddings", "/tokenize", "/detokenize"} <= described["paths"].keys()
    fields = described["components"]["schemas"]["CompletionRequest"]["properties"]
    assert {"prompt", "logit_bias", "structured_outputs", "cache_salt"} <= fields.keys()
    for kind, name in (("EmbeddingRequest", "input"), ("ScoreRequest", "text")):
        assert {"type": "null"} not in described["components"]["schemas"][kind]["properties"][name]["anyOf"]
