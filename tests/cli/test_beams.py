"""`gpt2 generate --beams`: the search of `LanguageModel.beam_search`, and what cannot go with it."""

import json
from pathlib import Path

import pytest

import gpt2 as package
from gpt2.cli import output
from gpt2.language_model import LanguageModel

SHORT = ("--max-tokens", "8", "--backend", "reference")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return package.load(tiny_folder, backend="reference")


@pytest.fixture
def search(gpt2, tiny_folder: Path):
    def run(*arguments: str, stdin: bytes = b""):
        return gpt2("generate", "--model", str(tiny_folder), *SHORT, *arguments, stdin=stdin)

    return run


def test_the_likeliest_texts_best_first(search, model: LanguageModel) -> None:
    ran = search("Once upon", "--beams", "3", "--n", "2")
    first, second = model.beam_search("Once upon", max_tokens=8, n=2, beams=3)
    assert (ran.code, ran.out) == (0, f"{first.text}\n---\n{second.text}\n")
    assert "16 tokens in " in ran.err
    assert "to repeat:" not in ran.err
    assert search("--beams", "3", "--n", "2", stdin=b"Once upon\n").out == ran.out


def test_json_and_the_settings_that_have_a_say(search, model: LanguageModel) -> None:
    ran = search("a a", "--beams", "4", "--length-penalty", "-1", "--no-repeat-ngram", "2", "--json")
    [beam] = model.beam_search("a a", max_tokens=8, beams=4, length_penalty=-1.0, no_repeat_ngram=2)
    sample = {"text": beam.text, "tokens": list(beam.ids), "finish_reason": beam.finish_reason, "score": beam.score}
    assert json.loads(ran.out) == {"prompt": "a a", "samples": [sample]}


def test_a_file_in_order_and_what_fails_is_placed(search, model: LanguageModel, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Once\nupon\n" + "a " * 300 + "\n", encoding="utf-8")
    ran = search("--file", str(prompts), "--beams", "2")
    once, upon = (model.beam_search(prompt, max_tokens=8, beams=2)[0].text for prompt in ("Once", "upon"))
    assert (ran.code, ran.out) == (1, f"{once}\n---\n{upon}\n")
    assert "prompt 3: The prompt cannot be continued" in ran.err


def test_where_there_is_nothing_to_generate(search, tmp_path: Path) -> None:
    ran = search("Once", "--beams", "2", "--n", "2", "--max-tokens", "0")
    assert (ran.code, ran.out) == (0, "\n---\n\n")  # as without a search: each text has its place
    assert "tokens in" not in ran.err
    ran = search("Once", "--beams", "2", "--max-tokens", "0", "--json")
    empty = {"text": "", "tokens": [], "finish_reason": "length", "score": 0.0}
    assert json.loads(ran.out) == {"prompt": "Once", "samples": [empty]}
    assert "1 token in " in search("Once", "--beams", "2", "--max-tokens", "1").err
    (tmp_path / "empty.txt").touch()
    ran = search("--file", str(tmp_path / "empty.txt"), "--beams", "2")
    assert (ran.code, ran.out) == (0, "")
    assert "nothing was written: the file holds no prompt" in ran.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--beams", "2", "--temperature", "1"), "--beams cannot go with --temperature"),
        (("--beams", "2", "--seed", "1"), "--beams cannot go with --seed"),
        (("--beams", "2", "--stop", "x"), "--beams cannot go with --stop"),
        (("--beams", "2", "--logprobs", "1"), "--beams cannot go with --logprobs"),
        (("--beams", "2", "--draft", "none"), "--beams cannot go with --draft"),
        (("--beams", "2", "--n", "3"), "--beams must be at least --n, which are chosen from them: got 2"),
        (("--beams", "2", "--length-penalty", "31"), "31.0 is not in the range -30<=x<=30"),
        (("--length-penalty", "1"), "--length-penalty is of beam search"),
    ],
)
def test_what_has_no_say_is_refused(search, arguments: tuple[str, ...], expected: str) -> None:
    ran = search("Once", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err


def test_the_prompt_is_shown_on_a_terminal_but_not_before_json(search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    assert "Once" in search("Once", "--beams", "2").err
    assert "Once" not in search("Once", "--beams", "2", "--json").err
