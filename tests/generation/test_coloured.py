"""A scored text in colours: every token, its class, and nothing of the text as HTML."""

import re
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


def test_what_turns_the_direction_of_writing_is_not_in_the_page():
    assert shown("a\u202eb\u061cc\x1b") == "a\ufffdb\ufffdc\ufffd"


def test_of_a_long_text_the_beginning_is_shown(toy: SimpleNamespace):
    page = score(toy.Backend(), toy.Tokenizer(), "a" * (MOST_TOKENS + 5)).html()
    assert page.count("<span") == MOST_TOKENS
    assert "and 5 tokens more" in page
