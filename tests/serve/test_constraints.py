"""Constrained output: what was demanded, or an error; never free text in its place."""

import contextlib
import json
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llguidance import LLMatcher

from gpt2.language_model import LanguageModel
from gpt2.serve import Limits, ServedModel, vocabulary
from gpt2.serve.constraints import _Without
from gpt2.serve.trial import Trial

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def ask(tiny: Any, **fields: Any) -> tuple[int, Any]:
    status, _, answer = tiny.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 40, "seed": 1} | fields)
    return status, answer["choices"][0] if status == 200 else answer["error"]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_k": 3, "seed": 7}, {"n": 3, "stream": False}])
@pytest.mark.parametrize(
    "form",
    [
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}},
    ],
    ids=lambda form: next(iter(form)),
)
def test_json_of_a_schema(tiny: Any, form: dict[str, Any], settings: dict[str, Any]) -> None:
    status, choice = ask(tiny, **form, **settings)
    assert status == 200 and choice["finish_reason"] == "stop"
    person = json.loads(choice["text"])
    assert person["name"] in ("Ann", "Bob") and 0 <= person["age"] <= 99


def test_regular_expressions_choices_and_grammars(tiny: Any) -> None:
    for seed in range(4):
        text = ask(tiny, structured_outputs={"regex": "(cat|dog)s? [0-9]{3}"}, seed=seed)[1]["text"]
        assert re.fullmatch("(cat|dog)s? [0-9]{3}", text)
        assert ask(tiny, structured_outputs={"choice": [" yes", ' "no"', "\u00e9"]}, seed=seed)[1]["text"] in (
            " yes", ' "no"', "\u00e9"
        )  # fmt: skip
        assert (
            ask(tiny, structured_outputs={"grammar": 'start: "a" | "b" start'}, seed=seed)[1]["text"].strip("b") in "a"
        )


def test_what_is_cut_off_says_so(tiny: Any) -> None:
    status, choice = ask(tiny, structured_outputs={"regex": "[a-z]{200}"}, max_tokens=5)
    assert (status, choice["finish_reason"]) == (200, "length")


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "(("}},
        {"structured_outputs": {"json": {"type": "nonsense"}}},
        {"structured_outputs": {"json": {"$ref": "#/nowhere"}}},
        {"structured_outputs": {"json": {"$ref": "https://example.org/schema"}}},
        {"structured_outputs": {"json": {"not": {"type": "string"}}}},
        {"structured_outputs": {"json": "{"}},
        {
            "structured_outputs": {
                "json": {"type": "object", "x-guidance": {"lenient": True}, "if": {}, "unevaluatedItems": 1}
            }
        },
        {"structured_outputs": {"json": False}},
        {"structured_outputs": {"choice": []}},
        {"structured_outputs": {"grammar": "nonsense"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"structured_outputs": {"regex": "(" * 300 + "a" + ")" * 300}},
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a"}, "ignore_eos": True},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "yaml"}},
    ],
    ids=str,
)
def test_what_cannot_be_obeyed_is_refused(tiny: Any, fields: dict[str, Any]) -> None:
    status, error = ask(tiny, **fields)
    assert status == 400, error
    assert error["param"] in ("structured_outputs", "response_format", "structured_outputs.json")
    assert tiny.request("GET", "/health/live")[0] == 200


def test_two_forms_at_once_are_named_as_the_client_names_them(tiny: Any) -> None:
    fields = {"structured_outputs": {"regex": "a", "choice": ["a"]}, "response_format": {"type": "json_object"}}
    status, error = ask(tiny, **fields)
    assert status == 400 and error["param"] == "structured_outputs"
    assert error["message"].endswith("got response_format and structured_outputs.regex and structured_outputs.choice.")


def test_a_costly_grammar_is_refused_before_it_holds_anybody_up(serve: Any) -> None:
    running = serve(limits=Limits(grammar_seconds=0.001))
    asked = {"prompt": "a", "max_tokens": 5, "structured_outputs": {"regex": "(a{300}){300}"}}
    status, _, answer = running.request("POST", "/v1/completions", asked)
    assert status == 400 and "grammar_seconds is 0.001" in answer["error"]["message"]


def _chain(name: str, n: int) -> str:
    """Rules of which each names the next; in capitals they are terminals."""
    return "\n".join([f"start: {name}0", *(f"{name}{i}: {name}{i + 1}" for i in range(n)), f'{name}{n}: "a"'])


def _references(n: int) -> dict[str, Any]:
    defined = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)}
    return {"$defs": {**defined, f"d{n}": {"type": "null"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "form",
    [{"grammar": _chain("r", 4000)}, {"grammar": _chain("A", 4000)}, {"json": _references(1400)}],
    ids=["rules", "terminals", "references"],
)
def test_a_grammar_too_deep_for_the_stack_is_refused_and_the_server_goes_on(tiny: Any, form: dict[str, Any]) -> None:
    status, error = ask(tiny, structured_outputs=form)
    assert status == 400 and "too deep or too costly" in error["message"]
    status, choice = ask(tiny, structured_outputs={"choice": ["ab"]})
    assert status == 200 and choice["text"] == "ab"


def test_a_grammar_that_takes_a_minute_to_refuse_is_refused_in_time(serve: Any) -> None:
    running = serve(limits=Limits(grammar_seconds=0.1))
    status, error = ask(running, structured_outputs={"regex": "a?" * 30_000})
    assert status == 400 and "grammar_seconds is 0.1" in error["message"]


@pytest.mark.parametrize(
    "form",
    [{"grammar": _chain("r", 200)}, {"grammar": _chain("A", 200)}, {"json": _references(60)}],
    ids=["rules", "terminals", "references"],
)
def test_depth_that_people_write_is_taken(tiny: Any, form: dict[str, Any]) -> None:
    assert ask(tiny, structured_outputs=form, max_tokens=1)[0] == 200


def test_what_tries_grammars_is_started_again_where_it_was_ended_and_ends_with_the_server(
    tiny_model: LanguageModel,
) -> None:
    tokenizer = tiny_model.tokenizer
    assert tokenizer.eot is not None
    trial = Trial(tokenizer.vocabulary.tokens, eot=tokenizer.eot, special=[])
    one = LLMatcher.grammar_from_regex("a")
    assert trial.fault(one, 1e6) is None
    first = trial._process
    assert first is not None
    first.kill()
    first.wait()
    assert "did not end well" in str(trial.fault(one, 1e6))
    assert trial.fault(one, 1e6) is None
    second = trial._process
    trial.close()
    assert second is not None and second.poll() is not None
    with pytest.raises(RuntimeError):
        trial.fault(one, 1e6)


def test_who_waits_too_long_behind_the_grammars_of_others_is_told(serve: Any, until: Any) -> None:
    running = serve(limits=Limits(queue_seconds=0.01))
    grammarian, may_end = running.served.grammarian, threading.Event()
    grammarian.submit(may_end.wait)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, running, structured_outputs={"choice": ["ab"]})
        until(lambda: grammarian._work_queue.qsize() == 1)
        time.sleep(0.02)
        may_end.set()
        status, error = asking.result()
    assert (status, error["code"]) == (429, "queue_seconds")


def test_a_grammar_that_grows_with_its_text_ends_before_it_holds_anybody_up(tiny: Any) -> None:
    status, error = ask(tiny, structured_outputs={"grammar": "start: e\ne: e e | /[a-z ]/"}, max_tokens=60)
    assert status == 400 and "Too many items" in error["message"] and "Simplify it" in error["message"]
    for same in ("start: c*\nc: /[a-z ]/", "start: /[a-z ]*/", "start: x\nx: x /[a-z ]/ | "):
        status, choice = ask(tiny, structured_outputs={"grammar": same}, max_tokens=60)
        assert status == 200 and re.fullmatch("[a-z ]*", choice["text"])


def test_nowhere_to_go_is_an_error_and_not_free_text(tiny: Any) -> None:
    status, error = ask(tiny, structured_outputs={"choice": ["ab"]}, allowed_token_ids=[5])
    assert status == 400 and "no token is left" in error["message"]
    status, error = ask(tiny, structured_outputs={"choice": ["a"]}, min_tokens=5)
    assert status == 400


def test_allowed_tokens_and_bad_words(tiny: Any) -> None:
    answer = ask(tiny, allowed_token_ids=[464, 3797], max_tokens=8)[1]
    assert re.fullmatch("(The| cat){8}", answer["text"])
    free = ask(tiny, temperature=0, max_tokens=4, logprobs=0)[1]["logprobs"]["tokens"]
    other = ask(tiny, temperature=0, max_tokens=4, logprobs=0, bad_words=[free[0]])[1]["logprobs"]["tokens"]
    assert other[0] != free[0] and not {free[0].strip(), free[0]} & set(other)


def test_bad_words_are_their_plain_definition_however_many() -> None:
    draws = random.Random(0)
    sequences = [tuple(draws.choices(range(4), k=draws.randint(1, 5))) for _ in range(60)]
    rule = _Without(sequences, 4)
    assert rule.lengths == [0, 1, 2, 3, 4]  # what is looked up at each place
    for _ in range(200):
        kept = [each for each in sequences if draws.random() < 0.2]
        follower, said = _Without(kept or sequences, 4).begin(), []
        for _ in range(12):
            banned = {last for *before, last in kept or sequences if said[len(said) - len(before) :] == before}
            assert follower.allowed().tolist() == [token not in banned for token in range(4)]
            said.append(draws.randrange(4))
            follower.advance(said[-1])


def test_two_first_grammars_make_one_vocabulary(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    served, made, both = ServedModel(tiny_model, name="tiny"), [], threading.Barrier(2)

    def make(model: LanguageModel) -> object:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # in vain, where the other waits for this one
        made.append(object())
        return made[-1]

    monkeypatch.setattr(vocabulary, "Vocabulary", make)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(lambda: served.vocabulary) for _ in range(2)]
    assert [each.result() for each in asked] == made * 2


def test_no_constraint_asked_is_none_applied(tiny: Any) -> None:
    free = ask(tiny)[1]["text"]
    assert ask(tiny, response_format={"type": "text"})[1]["text"] == free
    assert ask(tiny, allowed_token_ids=None, bad_words=[], structured_outputs=None)[1]["text"] == free
