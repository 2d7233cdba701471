"""What samples repeat: each passage beside a plain search in the words, and counts near groups by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt2.data.ngrams import words_of
from gpt2.data.repeated import Near, count_near, find_repeated
from gpt2.errors import DataError

RNG = np.random.default_rng(4)
VOCABULARY = [f"w{i}" for i in range(400)]
DOCUMENTS = [" ".join(RNG.choice(VOCABULARY, 300)) for _ in range(12)]


def plain(sample: str, documents: list[str], n: int) -> int:
    """Words of the longest common passage of at least n words, by trying all."""
    words, best = words_of(sample), 0
    text = [f" {' '.join(words_of(document))} " for document in documents]
    for begin in range(len(words)):
        for end in range(begin + max(n, best + 1), len(words) + 1):
            if not any(f" {' '.join(words[begin:end])} " in each for each in text):
                break
            best = end - begin
    return best


@pytest.fixture
def train(tmp_path: Path) -> list[Path]:
    records = [
        {"text": text, "source": f"github.com/o/{i % 2}", "licence": "CC0" if i % 3 else "MIT"}
        for i, text in enumerate(DOCUMENTS)
    ]
    for part in (0, 1):
        lines = "\n".join(json.dumps(record) for record in records[part::2])
        (tmp_path / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    return [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]


def test_passages_are_those_of_a_plain_search(train: list[Path]) -> None:
    words = [document.split() for document in DOCUMENTS]
    samples = [
        " ".join(words[0][10:40]),
        "Nothing, " + " ".join(words[1][5:14]).upper() + "! " + " ".join(words[1][15:21]),
        " ".join(words[2][:12] + words[3][:25] + words[3][30:50]),
        " ".join(RNG.choice(VOCABULARY, 40)),
        "too short",
        " ".join(words[0][30:45]),
        " ".join(words[4][0:9] * 3),
    ]
    found = find_repeated(samples, train, n=5, shown=20)
    assert {each.sample: each.n_words for each in found.longest} == {
        i: longest for i, sample in enumerate(samples) if (longest := plain(sample, DOCUMENTS, 5))
    }
    assert [each.n_words for each in found.longest] == sorted((each.n_words for each in found.longest), reverse=True)
    assert found.longest[0].text == " ".join(words[0][10:40])
    assert (found.samples, found.touched) == (6, 5)
    assert found.frequent[0].samples == 2  # the ten words that two samples share
    assert set(found.frequent[0].text.split()) <= set(words[0][30:40])
    assert (found.documents, found.text_bytes) == (12, sum(map(len, DOCUMENTS)))
    by_licence = {licence: pair for (source, licence), pair in found.sources.items() if source == "github.com/o/1"}
    assert sum(pair[0] for pair in by_licence.values()) == 6
    assert sum(pair[1] for pair in by_licence.values()) == sum(map(len, DOCUMENTS[1::2]))
    assert sum(pair[0] for (_, licence), pair in found.sources.items() if licence == "MIT") == 4


def test_how_often_a_passage_stands_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three four. One two, three: four! one two three five", encoding="utf-8")
    found = find_repeated(["One two three four five"], [tmp_path / "a.txt"], n=3)
    assert found.frequent[0].times == 3
    assert (found.longest[0].text, found.longest[0].times) == ("one two three four", 2)
    assert (found.ngrams, found.found) == (3, 2)
    assert found.sources["a.txt", ""][0] == 1


def test_workers_change_nothing(train: list[Path]) -> None:
    samples = [" ".join(document.split()[3:30]) for document in DOCUMENTS[:4]]
    groups, categories = {"a": frozenset({"w1"})}, {"c": frozenset({"w2", "w3"})}
    one, two = (find_repeated(samples, train, groups=groups, categories=categories, workers=k) for k in (1, 2))
    assert one == two
    by_hand = Near(mentions=0, near={})
    for document in DOCUMENTS:
        words = document.split()
        for i, word in enumerate(words):
            if word == "w1":
                near = by_hand.near.get("c", 0) + bool({"w2", "w3"} & set(words[i + 1 : i + 21]))
                by_hand = Near(mentions=by_hand.mentions + 1, near={"c": near})
    assert one.near["a"].mentions == by_hand.mentions > 0
    assert one.near["a"].near.get("c", 0) == by_hand.near["c"]


def test_what_stands_near_a_group() -> None:
    groups, categories = {"g": frozenset({"cat", "cats"})}, {"x": frozenset({"red"}), "y": frozenset({"old"})}
    words = ["cat", *["a"] * 19, "red", "cats", "old", "red"]
    assert list(count_near(words, groups, categories)) == [("g", ["x"]), ("g", ["x", "y"])]
    assert list(count_near(["cat", *["a"] * 20, "red"], groups, categories)) == [("g", [])]


def test_empty_lines_are_passed_over_as_prepare_does(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a b c"}\n\n{"text": "a b d"}\n', encoding="utf-8")
    assert find_repeated(["a b c"], [tmp_path / "a.jsonl"], n=2).documents == 2


def test_what_cannot_be_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"txt": "a"}', encoding="utf-8")
    with pytest.raises(DataError, match="no sample has 8 words"):
        find_repeated(["short"], [tmp_path / "a.jsonl"])
    for line in ('{"txt": "a"}', '{"text": "a", "more": ' + "[" * 100_000):
        (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
        with pytest.raises(DataError, match="line 1"):
            find_repeated(["a b c"], [tmp_path / "a.jsonl"], n=2)
