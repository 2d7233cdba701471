"""The overlap of test sets with a training set, beside plain Python sets of strings."""

import gzip
import json
import random
from pathlib import Path

import pytest

from gpt2.data import ReadOptions
from gpt2.data.overlap import Overlap, measure_overlap
from gpt2.errors import DataError

WORDS = [
    "the",
    "of",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "under",
    "over",
    "house",
    "mat",
    "grey",
    "old",
    "small",
    "river",
    "stone",
]


def plain_overlap(train: list[str], test: list[str], n: int) -> tuple[int, int, int]:
    """N-grams, those found, and examples touched, as the paper describes it and no cleverer."""

    def ngrams(text: str) -> list[str]:
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return [" ".join(words[at : at + n]) for at in range(len(words) - n + 1)]

    known = {gram for text in train for gram in ngrams(text)}
    found = [[gram in known for gram in ngrams(text)] for text in test]
    return sum(map(len, found)), sum(map(sum, found)), sum(map(any, found))


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def some_texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(0, 60))) + ". " for _ in range(count)]


def facts(found: Overlap) -> tuple[int, int, int]:
    return found.ngrams, found.found, found.touched


@pytest.mark.parametrize("n", [1, 3, 4, 8])
@pytest.mark.parametrize("confirm", [False, True])
def test_equals_plain_sets(tmp_path: Path, n: int, confirm: bool) -> None:
    train, test = some_texts(1, 300), some_texts(2, 40)
    test[7] = "Before it: " + train[3].upper().replace(" ", " -- ") + "; and after."
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "test.jsonl", test)
    (found,) = measure_overlap(tmp_path / "train.jsonl", tmp_path / "test.jsonl", n=n, confirm=confirm)
    assert facts(found) == plain_overlap(train, test, n)
    assert found.examples == 40


def test_any_number_of_workers_finds_the_same(tmp_path: Path) -> None:
    train, test = some_texts(1, 300), some_texts(2, 40)
    (tmp_path / "train").mkdir()
    for part in range(3):
        write_jsonl(tmp_path / "train" / f"{part}.jsonl", train[part::3])
    write_jsonl(tmp_path / "test.jsonl", test)
    one = measure_overlap(tmp_path / "train", tmp_path / "test.jsonl", n=3, confirm=True)
    assert one == measure_overlap(tmp_path / "train", tmp_path / "test.jsonl", n=3, confirm=True, workers=2)
    assert facts(one[0]) == plain_overlap(train, test, 3)


def test_a_text_read_in_pieces_is_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.data.documents._PIECE", 64)
    monkeypatch.setattr("gpt2.data.documents._CUT_WITHIN", 16)
    text = " ".join(some_texts(3, 10))
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    (tmp_path / "test.txt").write_text(text, encoding="utf-8")
    (found,) = measure_overlap(tmp_path / "train.txt", tmp_path / "test.txt")
    assert found.found == found.ngrams > 50


def test_the_examples_found_most_are_told(tmp_path: Path) -> None:
    train = [" ".join(map(str, range(100)))]
    test = ["nothing of it here at all, my dear old friend", "so 1 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 8 9 10"]
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "test.jsonl", test)
    (found,) = measure_overlap(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    assert [(one.number, one.found, one.ngrams, one.text) for one in found.worst] == [
        (3, 3, 3, "1 2 3 4 5 6 7 8"),
        (2, 1, 2, "1 2 3 4 5 6 7 8"),
    ]
    assert found.percent == pytest.approx(100 * 4 / 8)


def test_test_sets_of_any_form(tmp_path: Path) -> None:
    sentence = "one two three four five six seven eight nine"
    tests = tmp_path / "tests"
    (tests / "below").mkdir(parents=True)
    (tests / "README.md").write_text(sentence, encoding="utf-8")
    (tests / ".hidden.txt").write_text(sentence, encoding="utf-8")
    (tests / "a.json").write_text(json.dumps([{"q": sentence, "n": 1}, [{"deep": [sentence]}]]), encoding="utf-8")
    (tests / "b.tsv.gz").write_bytes(gzip.compress(f"id\t{sentence}".encode()))
    (tests / "below" / "c").write_text("﻿" + sentence, encoding="utf-8")
    (tests / "d.bin").write_bytes(b"\xff\xfe\x00\x81")
    (tests / "e.jsonl").write_text("not json " + sentence, encoding="utf-8")
    write_jsonl(tmp_path / "train.jsonl", [sentence.upper()])
    found = measure_overlap(tmp_path / "train.jsonl", tests)
    assert {Path(one.name).name: (one.examples, one.found) for one in found} == {
        "a.json": (2, 4),
        "b.tsv.gz": (1, 2),
        "c": (1, 2),
        "d.bin": (0, 0),
        "e.jsonl": (1, 2),
    }


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ["a b c"])
    with pytest.raises(DataError, match=r"nowhere cannot be read: there is no such file"):
        measure_overlap(train, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no text of 8 words"):
        measure_overlap(train, write_jsonl(tmp_path / "short.jsonl", ["too short"]))
    with pytest.raises(DataError, match=r"at least 1: got 0"):
        measure_overlap(train, train, n=0)
    for name, content in (("x.parquet", b"nonsense"), ("x.txt", b"\x1f\x8b\x08\0"), ("y.txt", b"\x1f\x8b\xff")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} is broken"):
            measure_overlap(train, tmp_path / name)
    with pytest.raises(DataError, match=r"no text in a field 'body'"):
        measure_overlap(train, write_jsonl(tmp_path / "t.jsonl", ["a b c"]), n=2, read=ReadOptions(field="body"))
