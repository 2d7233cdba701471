"""`gpt2 translate`, `summarize` and `answer`: the prompt as it is shown, and that the verb is the method."""

import json
from pathlib import Path

import pytest

import gpt2 as package
from gpt2.language_model import LanguageModel


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return package.load(tiny_folder, backend="reference")


@pytest.fixture
def ask(gpt2, tiny_folder: Path):
    def run(verb: str, *arguments: str, stdin: bytes = b""):
        return gpt2(verb, "--model", str(tiny_folder), "--backend", "reference", *arguments, stdin=stdin)

    return run


def test_translate(ask, model: LanguageModel) -> None:
    shown = ask("translate", "Un chat dort.", "--show-prompt")
    assert shown.out == "Un chat dort. =\n"
    assert "the first 5 examples are left out" in shown.err  # the tiny model's context is 64 tokens
    assert ask("translate", "Un chat dort.").out == model.translate("Un chat dort.") + "\n"
    other = ask("translate", "--from", "english", "--to", "german", "--show-prompt", stdin=b"A cat sleeps.\n").out
    assert other == "A cat sleeps. =\n"


def test_summarize(ask, model: LanguageModel, tmp_path: Path) -> None:
    article = "A cat slept. " * 40
    file = tmp_path / "article.txt"
    file.write_text(article, encoding="utf-8")
    shown = ask("summarize", "--file", str(file), "--show-prompt")
    assert shown.out.startswith("A cat slept. A cat slept.")
    assert shown.out.endswith("\nTL;DR:\n")
    assert "of the article's 120 words" in shown.err
    found = json.loads(ask("summarize", article, "--seed", "3", "--json").out)
    assert found["answer"] == model.summarize(article, seed=3)
    assert found["prompt"] + "\n" == shown.out
    assert found["seed"] == 3
    assert "seed" in ask("summarize", "A cat.").err


def test_answer(ask, model: LanguageModel, tmp_path: Path) -> None:
    assert ask("answer", "Where?", "--show-prompt").out.endswith("\nQ: Where?\nA:\n")
    shown = ask("answer", "Where?", "--context", "A cat is here.", "--show-prompt", "--json")
    assert json.loads(shown.out) == {"prompt": "A cat is here.\n\nQ: Where?\nA:", "left_out": ""}
    assert ask("answer", "Where?", "--context", "A cat is here.").out == (
        model.answer("Where?", context="A cat is here.") + "\n"
    )
    prompts = tmp_path / "mine.toml"
    prompts.write_text('[answer]\nquestion = "Question: "\n', encoding="utf-8")
    assert "Question: Where?" in ask("answer", "Where?", "--prompts", str(prompts), "--show-prompt").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("translate", ""), 1, "the text is empty"),
        (("translate", "a", "--to", "latin"), 2, "no 'latin'"),
        (("summarize", "a", "--file", __file__), 2, "exclude each other"),
        (("answer", "a", "--context", "b", "--context-file", __file__), 2, "exclude each other"),
        (("answer", "why " * 60), 1, "cannot be given to the model"),
    ],
)
def test_what_cannot_be_asked(ask, arguments: tuple[str, ...], code: int, message: str) -> None:
    ran = ask(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
