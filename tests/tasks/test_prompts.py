"""The prompts as data: ours, and a user's file over them."""

from pathlib import Path

import pytest

from gpt2.errors import DataError
from gpt2.tasks import Prompts


def test_ours_have_the_papers_settings() -> None:
    ours = Prompts.ours()
    assert (ours.summarize.top_k, ours.summarize.max_tokens, ours.summarize.sentences) == (2, 100, 3)
    assert ours.summarize.hint == "TL;DR:"
    assert {"english", "french"} <= set(ours.translate.languages)
    assert ours.answer.answer == "A:"
    assert len(ours.answer.examples) >= 3


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[summarize]\nhint = "In short:"\n[[answer.examples]]\nquestion = "Q"\nanswer = "é"\n', encoding="utf-8"
    )
    mine, ours = Prompts.read(file), Prompts.ours()
    assert mine.summarize.hint == "In short:"
    assert mine.summarize.top_k == ours.summarize.top_k
    assert mine.answer.examples == (("Q", "é"),)
    assert mine.answer.question == ours.answer.question
    assert mine.translate == ours.translate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[summarize", "is not TOML"),
        ("[sumarize]", "'sumarize', which means nothing here"),
        ("summarize = 3", "summarize must be a table: got 3"),
        ("[summarize]\nk = 2", "'k', which means nothing here"),
        ("[summarize]\ntop_k = 0", "top_k must be a whole number from 1 on: got 0"),
        ("[answer]\nanswer = 7", "answer must be a text: got 7"),
        ("[answer]\nexamples = [1]", "a table of texts: got 1"),
        ('[[answer.examples]]\nquestion = "a"', "a question and an answer"),
        ('[translate]\nform = "{source}"', "form must hold {target}"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Prompts.read(file)
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'\xef\xbb\xbf[summarize]\r\nhint = "In short:"\r\n')
    assert Prompts.read(file).summarize.hint == "In short:"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        Prompts.read(file)
