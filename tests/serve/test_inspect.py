"""`/v1/inspect` and `/v1/tasks` say what the rooms below them say; the page's files are small and inline nothing."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2 import tasks
from gpt2.generation import Sampling, score
from gpt2.inspect import view_token
from gpt2.language_model import LanguageModel
from gpt2.tasks import Prompts

TEXT = "Once upon a time, étoile 😀"
PAGE = Path(gpt2.__file__).parent / "serve" / "page"


def ask(tiny: Any, **body: Any) -> dict[str, Any]:
    status, _, answer = tiny.request("POST", "/v1/inspect", body)
    assert status == 200, answer
    return answer


def refused(tiny: Any, path: str = "/v1/inspect", **body: Any) -> dict[str, Any]:
    status, _, answer = tiny.request("POST", path, body)
    assert status == 400, answer
    return answer["error"]


def test_every_token_is_ranked_as_by_score(tiny: Any, tiny_model: LanguageModel) -> None:
    seen = ask(tiny, prompt=TEXT, top_logprobs=3)
    tokenizer = tiny_model.tokenizer
    scored = score(tiny_model.backend, tokenizer, TEXT, score_first=False, best=3)
    assert (seen["object"], seen["model"], seen["weights"]) == ("inspection", "tiny", "fp32")
    assert (seen["n_layer"], seen["n_head"], seen["n_positions"], seen["n_tokens"]) == (2, 2, 64, len(scored.ids))
    assert seen["token_ids"] == list(scored.ids)
    assert seen["ranks"] == list(scored.ranks)
    assert seen["ranks"][0] is seen["token_logprobs"][0] is seen["entropies"][0] is None
    assert seen["token_logprobs"][1:] == pytest.approx(list(scored.logprobs[1:]), abs=1e-5)
    assert seen["entropies"][1:] == pytest.approx(list(scored.entropies[1:]), abs=1e-5)
    assert [[token for token, _ in best] for best in seen["top_logprobs"]] == [
        [token for token, _ in best] for best in scored.best
    ]
    assert seen["perplexity"] == pytest.approx(scored.perplexity)
    assert seen["bits_per_byte"] == pytest.approx(scored.bits_per_byte)
    assert seen["byte_ends"] == [end for _, end in tokenizer.offsets(scored.ids)]
    assert seen["byte_ends"][-1] == len(TEXT.encode())
    assert {int(token) for token in seen["pieces"]} >= set(scored.ids)
    assert all(tiny.served.token_names[int(token)] == name for token, name in seen["pieces"].items())
    assert ask(tiny, prompt=list(scored.ids), top_logprobs=3) == seen


def test_one_place_is_seen_as_by_the_inspect_room(tiny: Any, tiny_model: LanguageModel) -> None:
    ids = tiny_model.tokenizer.encode(TEXT)
    settings = {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2}
    for position in (1, 3, len(ids)):
        seen = ask(tiny, prompt=TEXT, position=position, layer=1, top_logprobs=8, **settings)
        view = view_token(
            tiny_model.backend,
            tiny_model.head,
            tiny_model.tokenizer,
            ids,
            position,
            sampling=Sampling(**settings),
            layer=1,
            best=8,
        )
        assert (seen["position"], seen["skipped"], seen["kept"], seen["layer"]) == (position, 0, view.kept, 1)
        assert [(each["id"], each["logprob"], each["filtered_logprob"]) for each in seen["alternatives"]] == [
            (each.token, pytest.approx(each.logprob, abs=1e-6), pytest.approx(each.filtered_logprob, abs=1e-6))
            for each in view.alternatives
        ]
        assert [(at["depth"], at["rank"]) for at in seen["lens"]] == [(at.depth, at.rank) for at in view.depths]
        assert (seen["lens"][0]["rank"] is None) == (position == len(ids))
        assert view.attention_HS is not None
        assert [
            row == pytest.approx(wanted, abs=1e-5)
            for row, wanted in zip(seen["attention"], view.attention_HS.tolist(), strict=True)
        ]
        assert {str(each["id"]) for each in seen["alternatives"]} <= seen["pieces"].keys()
    assert ask(tiny, prompt=TEXT, position=2)["attention"] is None
    bare = ask(tiny, prompt=TEXT, position=2, top_logprobs=0)
    assert (bare["alternatives"], bare["lens"][0]["top_logprobs"], bare["kept"]) == ([], [], 50257)
    banned = ask(tiny, prompt=TEXT, position=2, top_logprobs=1, top_k=1, logit_bias={str(ids[2]): 100})
    assert (banned["kept"], banned["alternatives"][0]["filtered_logprob"]) == (1, None)


def test_texts_of_any_length_are_seen(tiny: Any, tiny_model: LanguageModel) -> None:
    assert ask(tiny, prompt="")["token_ids"] == []
    one = ask(tiny, prompt="Once")
    assert (one["ranks"], one["perplexity"], one["top_logprobs"]) == ([None], None, [[]])
    long = tiny_model.tokenizer.encode("and on " * 60)
    seen = ask(tiny, prompt=long)
    assert len(seen["ranks"]) == len(long) > 64
    late = ask(tiny, prompt=long, position=len(long), layer=0)
    assert late["skipped"] == len(long) - 64
    assert len(late["attention"][0]) == 64
    near = ask(tiny, prompt=long[-64:], position=64, layer=0)
    assert late["alternatives"] == near["alternatives"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ["a", "b"]}, "prompt", "one text: got 2"),
        ({"prompt": [1, 2, 60000]}, "prompt", "no token 60000"),
        ({"prompt": TEXT, "position": 0}, "position", "greater than or equal to 1"),
        ({"prompt": "Once upon", "position": 3}, "position", "1 to the number of tokens, 2"),
        ({"prompt": TEXT, "position": 1, "layer": 2}, "layer", "0 to 1: got 2"),
        ({"prompt": TEXT, "layer": 0}, "layer", "with position alone"),
        ({"prompt": TEXT, "top_logprobs": 21}, "top_logprobs", "the limit logprobs is 20"),
        ({"prompt": TEXT, "temperature": 3}, "temperature", "less than or equal to 2"),
        ({"prompt": TEXT, "position": "1"}, "position", "integer"),
        ({"prompt": TEXT, "position": 1, "logit_bias": {"50257": 1}}, "logit_bias", "no token 50257"),
        ({}, "prompt", "missing"),
    ],
)
def test_what_cannot_be_seen_is_refused_by_name(tiny: Any, body: dict[str, Any], param: str, words: str) -> None:
    error = refused(tiny, **body)
    assert error["param"] == param
    assert words in error["message"]


def test_tasks_are_asked_and_read_as_by_their_room(running: Any) -> None:
    model = gpt2.load("gpt2-mini", backend="reference")
    server = running(model, name="mini")
    try:
        prompts, room = Prompts.ours(), model.room
        wanted = tasks.summarize.ask("A long story.", prompts=prompts.summarize, room=room)
        written = " One. Two. Three. Four."
        status, _, answer = server.request(
            "POST", "/v1/tasks/summarize", {"text": "A long story.", "continuation": written}
        )
        assert status == 200
        assert answer["prompt"] == wanted.prompt
        assert answer["sampling"] == {"max_tokens": 100, "temperature": 1.0, "top_k": 2, "stop": []}
        assert answer["answer"] == "One. Two. Three."
        wanted = tasks.answer.ask("Who?", prompts=prompts.answer, room=room, context="Ann.")
        answer = server.request("POST", "/v1/tasks/answer", {"text": "Who?", "context": "Ann."})[2]
        assert answer["prompt"] == wanted.prompt
        assert "answer" not in answer
        body = {"text": "Guten Tag.", "source": "german", "target": "french", "continuation": " Bonjour. Oui\nx"}
        answer = server.request("POST", "/v1/tasks/translate", body)[2]
        assert (answer["answer"], answer["sampling"]["stop"]) == ("Bonjour.", ["\n"])
        assert "no 'dutch'" in refused(server, "/v1/tasks/translate", text="x", source="dutch")["message"]
        assert "empty" in refused(server, "/v1/tasks/summarize", text=" ")["message"]
        dots = {"text": "x", "continuation": "." * 131_071 + "x"}
        assert server.request("POST", "/v1/tasks/summarize", dots)[2]["answer"] == dots["continuation"]
        dots["continuation"] += "x"
        error = refused(server, "/v1/tasks/summarize", **dots)
        assert error["param"] == "continuation" and "at most 131072 characters" in error["message"]
        assert server.request("POST", "/v1/tasks/chat", {"text": "x"})[0] == 404
    finally:
        server.stop()
        model.close()


# --- the page's files ------------------------------------------------------------------------------------------------


def test_the_page_comes_under_a_strict_policy_and_is_small(tiny: Any) -> None:
    sizes = 0
    for name in ("", *(f"page/{path.name}" for path in PAGE.iterdir())):
        status, headers, body = tiny.request("GET", f"/{name}")
        assert status == 200
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        sizes += 0 if name == "page/index.html" else len(body)
    assert sizes < 150_000


class _Inline(HTMLParser):
    """Collects what a strict policy would not run, and what lies elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in given) or "style" in given:
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on")]
        self.found += [value for value in given.values() if value and "//" in value]


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    page = _Inline()
    page.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert page.found == []
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
        for imported in re.findall(r"from \"([^\"]+)\"", text) if path.suffix == ".js" else []:
            assert (PAGE / imported).is_file()
