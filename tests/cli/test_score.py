"""`gpt2 score`: the table, the totals, and every source of text."""

import json
import math
from pathlib import Path

import pytest

import gpt2 as package
from gpt2.language_model import LanguageModel

TEXT = "The cat sat on the mat, étoile 😀."


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return package.load(tiny_folder, backend="reference")


@pytest.fixture
def score(gpt2, tiny_folder: Path):
    def run(*arguments: str, stdin: bytes = b""):
        return gpt2("score", "--model", str(tiny_folder), "--backend", "reference", *arguments, stdin=stdin)

    return run


def test_json_is_what_the_model_says(score, model: LanguageModel) -> None:
    found = json.loads(score(TEXT, "--json").out)
    expected = model.score(TEXT)
    assert [each["token"] for each in found["tokens"]] == model.tokenizer.encode(TEXT)
    assert [each["logprob"] for each in found["tokens"]] == list(expected.logprobs)
    assert found["perplexity"] == expected.perplexity
    assert found["bits_per_byte"] == pytest.approx(-found["logprob"] / math.log(2) / len(TEXT.encode()))
    assert found["perplexity_per_word"] == pytest.approx(math.exp(-found["logprob"] / len(TEXT.split())))


def test_the_table_has_a_line_for_each_token_and_the_totals(score, model: LanguageModel) -> None:
    lines = score(TEXT).out.splitlines()
    n_tokens = len(model.tokenizer.encode(TEXT))
    assert lines[0].split() == ["piece", "logprob", "rank", "entropy"]
    assert lines[n_tokens + 1] == ""
    assert lines[n_tokens + 2].split() == ["tokens", "scored", str(n_tokens)]
    assert score(TEXT, "--totals").out.splitlines() == lines[n_tokens + 2 :]


def test_a_character_of_several_tokens_is_shown_by_the_last(score) -> None:
    pieces = [line.split()[0] for line in score("今🙂").out.split("\n\n")[0].splitlines()]
    assert pieces == ["piece", r"\xe4\xbb", "今", r"\xf0\x9f", "🙂"]


def test_a_newline_does_not_break_the_table(score) -> None:
    assert "␊" in score("a\nb").out


def test_text_may_come_from_anywhere(score, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    expected = score(TEXT, "--json").out
    assert score("--file", str(file), "--json").out == expected
    assert score("-", "--json", stdin=TEXT.encode()).out == expected
    assert score("--json", stdin=f"{TEXT}\n".encode()).out == expected


def test_a_text_beyond_the_context_slides(score, model: LanguageModel) -> None:
    text = "word " * 200
    found = json.loads(score(text, "--json", "--totals", "--stride", "16").out)
    assert found["tokens_scored"] == len(model.tokenizer.encode(text))
    assert found["perplexity"] == model.score(text, stride=16).perplexity
    assert found["perplexity"] != model.score(text, stride=64).perplexity


def test_a_huge_perplexity_is_not_written_in_full(score) -> None:
    found = json.loads(score("unbroken" * 3, "--json", "--totals").out)
    assert found["perplexity_per_word"] > 1e12
    shown = score("unbroken" * 3, "--totals").out.splitlines()[3].split()
    assert shown == ["perplexity", "per", "word", f"{found['perplexity_per_word']:.3g}"]


def test_an_infinite_perplexity_is_still_json(score) -> None:
    found = json.loads(score("unbroken" * 60, "--json", "--totals").out)
    assert found["perplexity_per_word"] is None


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "expected"),
    [
        (("",), b"", 1, "cannot be scored"),
        (("a", "--stride", "65"), b"", 2, "got 65"),
        (("a", "--file", __file__), b"", 2, "exclude each other"),
        (("-",), b"ab\xff", 1, "byte 0xff at offset 2"),
    ],
)
def test_what_cannot_be_scored(score, arguments: tuple[str, ...], stdin: bytes, code: int, expected: str) -> None:
    ran = score(*arguments, stdin=stdin)
    assert (ran.code, ran.out) == (code, "")
    assert expected in ran.err


def test_a_byte_order_mark_is_not_scored(score, tmp_path: Path) -> None:
    file = tmp_path / "bom.txt"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    expected = score(TEXT, "--json").out
    assert score("--file", str(file), "--json").out == expected
    assert score("--json", stdin=file.read_bytes()).out == expected


def test_utf_16_is_named(score, tmp_path: Path) -> None:
    file = tmp_path / "notepad.txt"
    file.write_bytes(TEXT.encode("utf-16"))
    ran = score("--file", str(file))
    assert ran.code == 1
    assert "it begins with 0xff 0xfe, as UTF-16 does. Save it as UTF-8." in ran.err
    assert "--errors" not in ran.err


def test_the_name_of_a_file_is_text_and_a_warning(score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "essay.txt").write_text(TEXT, encoding="utf-8")
    expected = score("essay.txt", "--json").out
    monkeypatch.chdir(tmp_path)
    ran = score("essay.txt", "--json", "--quiet")
    assert ran.out == expected
    assert ran.err == "warning: essay.txt is a file, but is taken as text; --file essay.txt scores it\n"
    (tmp_path / "-").touch()  # and yet - is standard input
    ran = score("-", "--json", "--quiet", stdin=TEXT.encode())
    assert ran.err == "" and ran.code == 0


def test_without_words_there_is_no_perplexity_per_word(score) -> None:
    ran = score("   ", "--totals")
    assert ran.out.splitlines()[3].split() == ["perplexity", "per", "word", "-"]
    assert json.loads(score("   ", "--json").out)["perplexity_per_word"] is None
