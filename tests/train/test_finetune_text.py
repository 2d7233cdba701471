import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from gpt2.data import TokenStream
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer
from gpt2.train.feed import MARKS
from gpt2.train.finetune_data import prepare_text
from gpt2.train.finetune_text import read_examples


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "one\n\ntwo", [("", "one\n\ntwo")]),
        ("a.txt", "one<|endoftext|>two", [("", "one"), ("", "two")]),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}', [("", "one"), ("", "two")]),
        ("a.jsonl", '{"prompt": "p", "completion": "c"}', [("p", "c")]),
        ("a.csv", 'text,other\n"a, b",1\nc,2\n', [("", "a, b"), ("", "c")]),
        ("a.csv", 'anything\n"two\nlines"\nc\n', [("", "two\nlines"), ("", "c")]),
        ("a.csv", "completion,prompt\nc,p\n", [("p", "c")]),
        ("a.tsv", "text\tother\none, two\tx\n", [("", "one, two")]),
    ],
)
def test_each_kind_of_file_is_read(tmp_path: Path, name: str, text: str, expected: list[tuple[str, str]]) -> None:
    assert [(e.prompt, e.text) for e in read_examples(write(tmp_path, name, text))] == expected


@pytest.mark.parametrize("name", ["my.tsv/a.csv", "my.tsv.csv", "A.TSV", "a.tsv.gz", "a.csv.gz", "my.csv/a.TSV.gz"])
def test_a_table_is_parted_as_its_own_name_says(tmp_path: Path, name: str) -> None:
    separator = "\t" if ".tsv" in Path(name).name.lower().removeprefix("my.tsv") else ","
    table = f"text{separator}other\none{separator}x\n"
    path = write(tmp_path, name, table)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(table.encode()))
    assert [e.text for e in read_examples(path)] == ["one"]


def test_a_folder_gives_all_its_files_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b/two.txt", "two")
    write(tmp_path, "a/one.csv", "text\none\n")
    write(tmp_path, "three.jsonl", '{"text": "three"}')
    assert [e.text for e in read_examples(tmp_path)] == ["one", "two", "three"]


def test_a_field_of_another_name_can_be_named(tmp_path: Path) -> None:
    assert [e.text for e in read_examples(write(tmp_path, "a.jsonl", '{"body": "one"}'), field="body")] == ["one"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txet": "y"}', r"line 2, has no text 'text'.*misspell it, as 'txet'"),
        ("a.jsonl", '{"prompt": "x", "completon": "y"}', "misspell it, as 'completon'"),
        ("a.jsonl", '{"messages": []}', "knows no chat"),
        ("a.jsonl", "[1]", "is not an object"),
        ("a.jsonl", "{", "line 1, is not JSON"),
        ("a.csv", "text,other\na,b,c\n", "line 2, has 3 cells, and the first line names 2 columns"),
        ("a.csv", 'text,other\n"a,b\nc,d\n', "line 3, has 1 cell,.*and close them"),
        ("a.csv", "text;other\na, b;c\n", "names 1 column.*parts them by semicolons"),
        ("a.jsonl", '{"text": 1}', "line 1, has no text in 'text': it holds 1"),
        ("a.csv", "x,y\na,b\n", "has no text 'text': it has x, y"),
        ("a.csv", "prompt,answer\na,b\n", r"has no text 'completion': it has prompt, answer\. Call the two fields"),
        ("a.csv", "Prompt,Completion\na,b\n", r"has Prompt, Completion\. Write the names .* in lower case\.$"),
        (
            "a.jsonl",
            '{"PROMPT": "a", "completion": "b"}',
            r"has PROMPT, completion\. Write the names .* in lower case\.$",
        ),
        ("a.pdf", "x", r"its kind is not known\. Known are .*\.csv.*call it \.txt"),
        (
            "a.docx",
            "x",
            r"its kind is not known.*; `gpt2 corpus build` reads EPUB and HTML; save any other document as plain",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_examples(write(tmp_path, name, text)))


def test_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_examples(tmp_path / "novel.txt"))
    with pytest.raises(DataError, match=r"is an empty folder.*Known are .*\.csv"):
        list(read_examples(tmp_path))
    write(tmp_path, "a.pdf", "x")
    with pytest.raises(DataError, match=r"holds no file.*Known are .*\.tsv"):
        list(read_examples(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"), [("", "nothing to learn"), (" \n", "nothing to learn"), ("a few words", "too short")]
)
def test_too_little_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "a.txt", text)
    with pytest.raises(DataError, match=message):
        prepare_text(path, tmp_path / "out", Tokenizer.published(), field="", validation=0.1)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_what_is_not_utf8_can_be_replaced(tmp_path: Path, name: str) -> None:
    texts = {"a.txt": b"caf\xe9", "a.csv": b"text\ncaf\xe9\n", "a.jsonl": b'{"text": "caf\xe9"}'}
    (tmp_path / name).write_bytes(texts[name])
    with pytest.raises(DataError, match=r"0xe9 at offset .*--errors replace"):
        list(read_examples(tmp_path / name))
    assert [e.text for e in read_examples(tmp_path / name, errors="replace")] == ["caf\ufffd"]
    (tmp_path / name).write_bytes(texts[name].decode("latin1").encode("utf-16"))
    with pytest.raises(DataError, match=r"it begins as UTF-16 does.*iconv -f utf-16"):
        list(read_examples(tmp_path / name))


def test_half_a_surrogate_pair_is_named_by_its_line_or_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", r'{"prompt": "a\ud83d", "completion": "b"}')
    with pytest.raises(DataError, match=r"line 1, holds half a surrogate pair at character 1\. .*--errors replace"):
        list(read_examples(path))
    assert [e.prompt for e in read_examples(path, errors="replace")] == ["a\ufffd"]


def test_a_line_of_many_megabytes_is_one_example(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps({"text": "word " * 2_000_000}) + '\n{"text": "next"}')
    assert [len(e.text) for e in read_examples(path)] == [10_000_000, 4]


def test_whole_documents_are_held_out(tmp_path: Path) -> None:
    texts = [f"Document {i}. " + "word " * (50 + i) for i in range(40)]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts))
    tokenizer = Tokenizer.published()
    prepared = prepare_text(path, tmp_path / "out", tokenizer, field="", validation=0.1)
    found: dict[str, list[str]] = {}
    for split in ("train", "validation"):
        stream = TokenStream.open(tmp_path / "out", split)
        text = tokenizer.decode(stream.read(0, stream.n_tokens).tolist())
        found[split] = text.split("<|endoftext|>")[1:]
    assert sorted(found["train"] + found["validation"]) == sorted(texts)
    assert len(found["validation"]) == prepared.validation_documents > 1
    total = prepared.tokens + prepared.validation_tokens
    assert 0.1 <= prepared.validation_tokens / total <= 0.2
    assert prepared.opening.startswith("Document ")
    again = prepare_text(path, tmp_path / "out", tokenizer, field="", validation=0.1)
    assert again == prepared
    path.write_text(path.read_text(encoding="utf-8") + json.dumps({"text": "more"}), encoding="utf-8")
    changed = prepare_text(path, tmp_path / "out", tokenizer, field="", validation=0.1)
    assert changed.documents + changed.validation_documents == prepared.documents + prepared.validation_documents + 1
    write(tmp_path, "latest", "step-00000001\n")  # from now on a step has been learned from it
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="began with another text"):
        prepare_text(path, tmp_path / "out", tokenizer, field="", validation=0.1)


@pytest.mark.parametrize("texts", [["word " * 1000], ["word " * 1000, "other " * 3000]])
def test_where_no_document_can_be_spared_the_end_of_the_longest_is_held_out(tmp_path: Path, texts: list[str]) -> None:
    path = write(tmp_path, "a.txt", "<|endoftext|>".join(texts))
    prepared = prepare_text(path, tmp_path / "out", Tokenizer.published(), field="", validation=0.1)
    assert prepared.validation_documents in (0, 1)
    total = prepared.tokens + prepared.validation_tokens
    assert 0.05 < prepared.validation_tokens / total < 0.3
    assert prepared.documents >= 1


@pytest.mark.parametrize("n_short", [0, 1, 40])
def test_a_tenth_is_held_out_whichever_document_is_the_last(tmp_path: Path, n_short: int) -> None:
    tokenizer, mark = Tokenizer.published(), "<|endoftext|>"
    texts = ["one " * 900, "two " * 1000, "three " * 900, *["short text"] * n_short]
    path = write(tmp_path, "a.txt", mark.join(texts))
    prepared = prepare_text(path, tmp_path / "out", tokenizer, field="", validation=0.1)
    total = prepared.tokens + prepared.validation_tokens
    assert prepared.validation_tokens == round(total / 10)
    assert prepared.lines()[0].endswith(
        f"held out: the longest one's last {round(total / 10)} tokens, since no whole document can be spared"
    )
    learned, held_out = (TokenStream.open(tmp_path / "out", split) for split in ("train", "validation"))
    text = tokenizer.decode(held_out.read(0, held_out.n_tokens).tolist())
    assert text.split() == ["two"] * len(text.split())
    begins = tokenizer.decode(learned.read(0, learned.n_tokens).tolist())
    assert begins + text == mark + mark.join([*texts[:1], *texts[2:], texts[1]])  # no end follows where it was cut


def test_what_no_single_document_can_give_is_taken_from_several(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "<|endoftext|>".join(["one " * 200, "two " * 100]))
    prepared = prepare_text(path, tmp_path / "out", Tokenizer.published(), field="", validation=0.9)
    assert (prepared.validation_tokens, prepared.documents) == (round(0.9 * 304), 2)


def test_only_completions_and_their_ends_are_learned(tmp_path: Path) -> None:
    pairs = [(f"Question {i}? Say it.", f" Answer {i} it is.") for i in range(60)]
    lines = [json.dumps({"prompt": p, "completion": c}) for p, c in pairs]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    tokenizer = Tokenizer.published()
    prepared = prepare_text(path, tmp_path / "out", tokenizer, field="", validation=0.1)
    stream, marks = (TokenStream.open(tmp_path / "out", f"train{suffix}") for suffix in ("", MARKS))
    ids, wanted = stream.read(0, stream.n_tokens), marks.read(0, marks.n_tokens).astype(bool)
    assert stream.n_tokens == marks.n_tokens == prepared.tokens
    assert prepared.wanted_tokens == wanted.sum()
    learned = "".join(tokenizer.decode(ids[wanted].tolist()).split("<|endoftext|>"))
    assert "Question" not in learned
    assert all(completion in learned for _, completion in pairs if completion in tokenizer.decode(ids.tolist()))
    begins = np.flatnonzero(ids == tokenizer.eot)
    assert wanted[begins[1:]].all()  # a completion's end is learned, so that generation stops there
    assert prepared.opening.startswith("Question")


def test_empty_examples_are_passed_over_and_counted(tmp_path: Path) -> None:
    tokenizer = Tokenizer.published()
    pairs = [(f"Question {i}? Say it.", f" Answer {i} it is.") for i in range(60)]
    empty = [("What then?", ""), ("And then?", " \n")]
    for name, some in (("some", pairs), ("more", [*pairs[:30], *empty, *pairs[30:]])):
        lines = "\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in some)
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, "a.jsonl", lines)
        prepared = prepare_text(path, tmp_path / name / "out", tokenizer, field="", validation=0.1)
        assert prepared.empty == (2 if name == "more" else 0)
        assert any(line.startswith("skipped: 2 ") for line in prepared.lines()) == (name == "more")
    shards = [sorted((tmp_path / name / "out").glob("*.bin")) for name in ("some", "more")]
    assert len(shards[0]) == 4  # to learn from and held out, each with its marks
    assert [shard.read_bytes() for shard in shards[0]] == [shard.read_bytes() for shard in shards[1]]


def test_files_of_other_kinds_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/t.csv"):
        write(tmp_path, f"in/{name}", "text\n" + "word " * 1000)
    prepared = prepare_text(tmp_path / "in", tmp_path / "out", Tokenizer.published(), field="", validation=0.1)
    assert len(prepared.lines()) == 1
    for name in ("novel.docx", "sub/other.DOCX", "a.pdf", "LICENSE", ".hidden.odt"):
        write(tmp_path, f"in/{name}", "x")
    prepared = prepare_text(tmp_path / "in", tmp_path / "more", Tokenizer.published(), field="", validation=0.1)
    said = f"skipped in {tmp_path / 'in'}: 4 files of other kinds (.docx, LICENSE, .pdf)"
    said += "; save documents as plain text (.txt) to have them read"
    assert prepared.lines()[1:] == [said]
    again = prepare_text(tmp_path / "in", tmp_path / "more", Tokenizer.published(), field="", validation=0.1)
    assert again == prepared


def test_a_file_of_no_bytes_is_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "in/a.txt", "word " * 1000)
    for name in ("b.txt", "c.md"):
        write(tmp_path, f"in/{name}", "")
    prepared = prepare_text(tmp_path / "in", tmp_path / "out", Tokenizer.published(), field="", validation=0.1)
    assert (prepared.documents, prepared.empty) == (1, 2)
