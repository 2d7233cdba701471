"""A scored text in colours: every token, its class, and nothing of the text as HTML."""

import re
from dataclasses import replace
from types import SimpleNamespace

from gpt2.generation import score
from gpt2.generation.coloured import MOST_TOKENS, shown


def test_each_token_has_its_note_and_the_text_comes_back(toy: SimpleNamespace):
    scores = score(toy.Backend(), toy.Tokenizer(), "a<b>&\t\n" * 3, score_first=False)
    page = scores.html()
    assert scores._repr_html_() == page
    ranks = [int(rank.replace(",", "")) for rank in re.findall(r'title="rank ([\d,]+)', page)]
    assert ranks == list(scores.ranks[1:])
    assert "<b>" not in page
    assert page.count("&lt;") == 3
    assert page.count("⏎<br>") == page.count("⇥</span>") == 3
    assert "\ufffd" not in page


def test_the_tokens_of_a_character_show_it_together(toy: SimpleNamespace):
    scores = score(toy.Backend(), toy.Tokenizer(), "é 今天 🍕!")
    assert scores.pieces.count("\ufffd") == 12
    assert "".join(scores.completed) == scores.text
    page = scores.html()
    assert "\ufffd" not in page
    notes = re.findall(r'title="([^"]*)">([^<]*)</span>', page)
    assert [text for _, text in notes] == ["é", " ", "今", "天", " ", "🍕", "!"]
    assert [len(note.split("; ")) for note, _ in notes] == [2, 1, 3, 3, 1, 4, 1]
    [depth, *_] = re.findall(r"rgba\(214,120,20,([\d.]+)\)", page)
    worst = max(rank for rank in scores.ranks[:2] if rank is not None)
    assert float(depth) == (0.0 if worst < 10 else 0.2 if worst < 100 else 0.45)


def test_each_class_ends_below_its_number(toy: SimpleNamespace):
    ranks = (None, 1_000, 999, 100, 99, 10, 9)
    scores = score(toy.Backend(), toy.Tokenizer(), "a" * len(ranks), score_first=False)
    page = replace(scores, ranks=ranks).html()
    depths = re.findall(r"rgba\(214,120,20,([\d.]+)\)", page)
    assert list(map(float, depths)) == [0.75, 0.45, 0.45, 0.2, 0.2, 0]


def test_bytes_that_are_no_character_are_signs_in_the_end(toy: SimpleNamespace):
    scores = score(toy.Backend(), toy.Tokenizer(), [0xE4, 0x41, 0xE4, 0xBB])
    assert scores.completed == ("", "\ufffdA", "", "\ufffd")
    assert "".join(scores.completed) == scores.text


def test_what_turns_the_direction_of_writing_is_not_in_the_page():
    assert shown("a\u202eb\u061cc\x1b") == "a\ufffdb\ufffdc\ufffd"


def test_a_text_in_hebrew_runs_from_right_to_left(toy: SimpleNamespace):
    assert "unicode-bidi:plaintext" in score(toy.Backend(), toy.Tokenizer(), "א!").html()


def test_of_a_long_text_the_beginning_is_shown(toy: SimpleNamespace):
    page = score(toy.Backend(), toy.Tokenizer(), "a" * (MOST_TOKENS + 5)).html()
    assert page.count("<span") == MOST_TOKENS
    assert "and 5 tokens more" in page
