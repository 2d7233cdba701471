"""Quality rules: each limit by itself, the files, and the published cases."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpt2.data.corpus.page import Dropped, Page
from gpt2.data.corpus.personal import mask_text
from gpt2.data.corpus.quality import Lines, Repetition, Words
from gpt2.data.corpus.rule_sets import make_steps, read_set, shipped_sets
from gpt2.errors import ConfigError

PROSE = "The cat sat on the mat, and the dog lay by the fire. It had been a long day for both of them.\n" * 1


def verdict(step: Any, text: str) -> str:
    result = step(Page(where="", text=text))
    return result.reason if isinstance(result, Dropped) else ""


def test_every_shipped_set_can_be_used() -> None:
    assert shipped_sets() == ["c4", "c4-lines", "c4-paragraphs", "fineweb", "gopher", "webtext"]
    for name in shipped_sets():
        for label, step in make_steps(name):
            assert label.startswith(f"{name}.")
            assert isinstance(step(Page(where="", text=PROSE * 3)), Page | Dropped)
            assert isinstance(step(Page(where="", text="")), Page | Dropped)


def test_a_limit_is_the_last_value_that_is_kept() -> None:
    assert verdict(Words(min_words=3), "one two three") == ""
    assert verdict(Words(min_words=3), "one two") == ".min_words"
    assert verdict(Lines(max_short_lines=0.5, short_line_characters=3), "abc\nabcd") == ""
    assert verdict(Lines(max_short_lines=0.4, short_line_characters=3), "abc\nabcd") == ".max_short_lines"


def test_what_was_seen_is_said() -> None:
    dropped = Repetition(set_name="mine", max_duplicate_lines=0.2)(Page(where="", text="a\nb\na\nc"))
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.detail) == ("mine.max_duplicate_lines", "0.25 > 0.2")


@pytest.mark.parametrize("n", range(5, 11))
def test_duplicate_ngrams_equal_a_plain_count(n: int) -> None:
    words = [str(number % 13 if number % 7 else number) for number in range(120)]
    seen: set[str] = set()
    characters = at = 0
    while at < len(words) - n + 1:
        gram = " ".join(words[at : at + n])
        if gram in seen:
            characters += len("".join(words[at : at + n]))
            at += n
        else:
            seen.add(gram)
            at += 1
    text = " ".join(words)
    measured = dict(Repetition()._measures(text)).get(f"max_duplicate_{n}gram_characters", 0)
    assert measured == pytest.approx(characters / len(text))


def test_a_set_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[words]\nmin_stop_words = 1\nstop_words = ["der", "und"]\n', encoding="utf-8")
    ((label, step),) = make_steps(str(path))
    assert label == "mine.words"
    assert verdict(step, "Katze und Hund") == ""
    assert verdict(step, "cat and dog") == "mine.min_stop_words"


def test_a_set_with_a_byte_order_mark_or_of_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[words]\nmin_words = 3\n", encoding="utf-8-sig")
    assert read_set(str(path)) == {"words": {"min_words": 3}}
    path.write_bytes("# caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not readable TOML"):
        read_set(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[wrods]\n", "unknown section 'wrods'. Did you mean 'words'"),
        ("[words]\nmin_word = 3\n", "unknown rule 'min_word'. Did you mean 'min_words'"),
        ('[words]\nmin_words = "3"\n', "min_words of the set .* must be a number: got '3'"),
        ("[words]\nmin_words = true\n", "must be a number: got True"),
        ("[words]\nstop_words = 3\n", "must be a list of texts: got 3"),
        ("[cleaning]\nremove_citations = 1\n", "must be true or false: got 1"),
        ("words = 3\n", "unknown section 'words'"),
        ("[words\n", "is not readable TOML"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        make_steps(str(tmp_path / "mine.toml"))
    with pytest.raises(ConfigError, match=r"no rule set 'gofer'\. Did you mean 'gopher'"):
        read_set("gofer")


STEP_OF = {
    "GopherRepetitionFilter": "gopher.repetition",
    "GopherQualityFilter": "gopher.words",
    "C4QualityFilter": "c4.cleaning",
    "C4ParagraphFilter": "c4-paragraphs.paragraphs",
    "FineWebQualityFilter": "fineweb.lines",
}
LIMIT_OF = {
    "min_doc_words": "min_words",
    "max_doc_words": "max_words",
    "line_punct_thr": "min_lines_ending_in_punctuation",
    "short_line_thr": "max_short_lines",
    "short_line_length": "short_line_characters",
    "new_line_ratio": "max_newlines_per_word",
}
RULE_OF = {
    "dup_line_frac": "max_duplicate_lines",
    "dup_para_frac": "max_duplicate_paragraphs",
    "dup_line_char_frac": "max_duplicate_line_characters",
    "dup_para_char_frac": "max_duplicate_paragraph_characters",
    "top_2_gram": "max_top_2gram_characters",
    "top_3_gram": "max_top_3gram_characters",
    "duplicated_5_n_grams": "max_duplicate_5gram_characters",
    "gopher_short_doc": "min_words",
    "gopher_below_avg_threshold": "min_mean_word_length",
    "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_hashes": "max_hashes_per_word",
    "gopher_too_many_ellipsis": "max_ellipses_per_word",
    "gopher_below_alpha_threshold": "min_alphabetic_words",
    "lorem_ipsum": "drop_pages_with",
    "curly_bracket": "drop_pages_with",
    "too_few_sentences": "min_sentences",
    "contains:paragraphs": "min_paragraphs",
    "empty": "empty",
    "line_punct_ratio": "min_lines_ending_in_punctuation",
    "short_line_ratio": "max_short_lines",
}


def test_the_26_published_cases(web: Path) -> None:
    lines = (web / "quality_filter_cases.jsonl").read_text(encoding="utf-8").split("\n")
    cases: list[dict[str, Any]] = [json.loads(line) for line in lines if line]
    assert len(cases) == 26
    for case in cases:
        name = STEP_OF[case["filter"]]
        step: Any = dict(make_steps(name.split(".")[0]))[name]
        step = dataclasses.replace(step, **{LIMIT_OF[key]: value for key, value in case["params"].items()})
        reason = verdict(step, case["text"])
        assert (reason == "") is case["keep"], case["id"]
        if case["reason"]:
            assert reason.split(".")[1] == RULE_OF[case["reason"]], case["id"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to ann.b+c@mail.example.org now.", "Write to <mail> now."),
        ("from 192.168.1.77, or 2001:db8::8a2e:370:7334", "from <ip>, or <ip>"),
        ("call +44 20 7946 0958 or (555) 555-0199", "call <phone> or <phone>"),
        ("card 4111 1111 1111 1111, not 4111 1111 1111 1112", "card <card>, not 4111 1111 1111 1112"),
        ("In 1969, at 10:30:05, version 1.2.3.400 cost $1,234.56.", None),
        ("ISBN 978-3-16-148410-0; 0000 0000 0000 0000; 3.14159265358979", None),
        ("std::vector<int> and @mention and a@b", None),
    ],
)
def test_masking(text: str, masked: str | None) -> None:
    assert mask_text(text)[0] == (text if masked is None else masked)
