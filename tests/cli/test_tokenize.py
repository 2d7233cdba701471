"""`gpt2 tokenize`, `detokenize` and `tokenizer train`: the same ids from every source, and answers to bad input."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from gpt2 import files
from gpt2.errors import TokenizerError
from gpt2.tokenizer import Tokenizer

TEXT = "Hello world, 你好 😀\n  end\n"


def lines(ids: list[int]) -> str:
    return "".join(f"{i}\n" for i in ids)


def test_one_id_a_line(gpt2) -> None:
    ran = gpt2("tokenize", "Hello world")
    assert (ran.code, ran.out, ran.err) == (0, "15496\n995\n", "")


def test_argument_file_and_standard_input_give_the_same_ids(gpt2, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(TEXT.encode("utf-8"))
    expected = lines(Tokenizer.published().encode(TEXT))
    assert gpt2("tokenize", TEXT).out == expected
    assert gpt2("tokenize", "--file", str(file)).out == expected
    assert gpt2("tokenize", stdin=TEXT.encode() + b"\n").out == expected  # one newline ends the line
    assert gpt2("tokenize", "-", stdin=TEXT.encode() + b"\r\n").out == expected


def test_empty_text_has_no_ids(gpt2) -> None:
    assert gpt2("tokenize", "").out == ""
    assert gpt2("tokenize", stdin=b"").out == ""
    assert json.loads(gpt2("tokenize", "--json", "").out) == {"ids": [], "pieces": [], "offsets": []}


def test_json_has_pieces_and_byte_offsets(gpt2) -> None:
    found = json.loads(gpt2("tokenize", "--json", "Hi 😀").out)
    assert found == {
        "ids": [17250, 30325, 222],
        "pieces": ["Hi", list(" 😀".encode())[:-1], [0x80]],
        "offsets": [[0, 2], [2, 6], [6, 7]],
    }


def test_pieces_stand_beside_their_ids(gpt2) -> None:
    assert gpt2("tokenize", "--pieces", 'Hi 😀\n"').out == (
        '17250\t"Hi"\n30325\tbytes 20 f0 9f 98\n222\tbytes 80\n198\t"\\n"\n1\t"\\""\n'
    )


def test_special_tokens_are_text_unless_allowed(gpt2) -> None:
    assert "50256" not in gpt2("tokenize", "a<|endoftext|>").out.split()
    assert gpt2("tokenize", "--allow-special", "a<|endoftext|>").out == "64\n50256\n"


def test_bytes_that_are_not_utf_8_are_named_and_the_way_on_offered(gpt2, tmp_path: Path) -> None:
    ran = gpt2("tokenize", stdin=b"h\xc3\xa9\xff!")
    assert (ran.code, ran.out) == (1, "")
    assert "byte 0xFF at offset 3" in ran.err
    assert "--errors replace" in ran.err
    replaced = gpt2("tokenize", "--errors", "replace", stdin=b"h\xc3\xa9\xff!")
    assert replaced.out == lines(Tokenizer.published().encode("hé\ufffd!"))
    file = tmp_path / "text"
    file.write_bytes(b"x" * 100_000 + b"\xc3")  # a character that never ends, beyond the first block
    ran = gpt2("tokenize", "--file", str(file))
    assert ran.code == 1
    assert f"{file} cannot be read as text: byte 0xC3 at offset 100000" in ran.err


def test_two_sources_are_one_too_many(gpt2, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("x", encoding="utf-8")
    assert gpt2("tokenize", "x", "--file", str(file)).code == 2


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("15496", "995"), b""),
        (("15496 995",), b""),
        ((), b"15496\n995\n"),
        ((), b"[15496, 995]"),
        (("-",), b"15496,995"),
    ],
)
def test_ids_from_anywhere_give_the_text(gpt2, arguments: tuple[str, ...], stdin: bytes) -> None:
    ran = gpt2("detokenize", *arguments, stdin=stdin)
    assert (ran.code, ran.out, ran.err) == (0, "Hello world", "")


def test_tokenize_and_detokenize_undo_each_other(gpt2) -> None:
    ids = gpt2("tokenize", TEXT).out
    assert gpt2("detokenize", stdin=ids.encode()).out == TEXT
    assert json.loads(gpt2("detokenize", "--json", stdin=ids.encode()).out) == {"text": TEXT}


def test_ids_that_are_none(gpt2) -> None:
    ran = gpt2("detokenize", "50257")
    assert ran.code == 1
    assert "50257" in ran.err
    assert "0 to 50256" in ran.err
    ran = gpt2("detokenize", "1", "Hello")
    assert ran.code == 2
    assert "'Hello'" in ran.err
    for word in ("1_5", "\u0663", "1.0", "0x10", "1e3", "9" * 5000):
        ran = gpt2("detokenize", word)
        assert (ran.code, ran.out) == (2, "")
        assert "an id is a whole number" in ran.err


def test_bytes_among_ids_are_named(gpt2) -> None:
    ran = gpt2("detokenize", stdin=b"15496 \xff")
    assert ran.code == 2
    assert "an id is a whole number" in ran.err


def test_a_model_without_vocabulary_files_has_the_vocabulary_it_is_run_with(
    gpt2, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder / name, tmp_path)
    assert gpt2("tokenize", "--model", str(tmp_path), "Hello world").out == "15496\n995\n"


def test_a_vocabulary_is_learned_and_used(gpt2, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text, out = tmp_path / "text", tmp_path / "learned"
    text.write_text("low lower lowest new newer newest " * 20, encoding="utf-8")
    ran = gpt2("tokenizer", "train", str(text), "--out", str(out), "--vocab-size", "265", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["vocab_size"] == 265
    ids = gpt2("tokenize", "--model", str(out), "lowest").out
    assert 0 < len(ids.split()) < len("lowest")
    assert gpt2("detokenize", "--model", str(out), stdin=ids.encode()).out == "lowest"

    before = (out / "vocab.json").read_bytes()
    again = gpt2("tokenizer", "train", str(text), "--out", str(out), "--vocab-size", "260")
    assert again.code == 2
    assert "already has vocab.json" in again.err
    assert (out / "vocab.json").read_bytes() == before


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.zst", "a.txt.gz", "a.txt"])
def test_a_vocabulary_is_learned_from_files_as_prepare_reads_them(gpt2, tmp_path: Path, name: str) -> None:
    pytest.importorskip("tokenizers")
    texts = ["low lower lowest new newer newest " * 20, "néw 😀 text " * 20]
    plain, out, expected = tmp_path / "plain", tmp_path / "learned", tmp_path / "expected"
    plain.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    lines = "".join(json.dumps({"id": "lollol" * 9, "body": text}) + "\n" for text in texts)
    data = "\ufeff".encode() + (lines.encode() if "json" in name else plain.read_bytes())
    if name.endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".zst"):
        data = pytest.importorskip("zstandard").compress(data)
    (tmp_path / name).write_bytes(data)
    assert gpt2("tokenizer", "train", str(plain), "--out", str(expected), "--vocab-size", "280").code == 0
    ran = gpt2("tokenizer", "train", str(tmp_path / name), "--out", str(out), "--vocab-size", "280", "--field", "body")
    assert ran.code == 0
    assert ("--field has no effect" in ran.err) == ("txt" in name)
    for file in ("vocab.json", "merges.txt"):
        assert (out / file).read_bytes() == (expected / file).read_bytes()


def test_a_vocabulary_is_learned_from_a_folder(gpt2, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    folder, out, expected = tmp_path / "texts", tmp_path / "learned", tmp_path / "expected"
    (folder / "fr").mkdir(parents=True)
    plain = folder / "fr" / "a.txt"
    plain.write_text("été élève déjà " * 20, encoding="utf-8")
    (folder / "b.jsonl").write_text(json.dumps({"text": "кошка 猫 " * 20}) + "\n", encoding="utf-8")
    (folder / "c.png").write_bytes(b"\x89PNG")
    ran = gpt2("tokenizer", "train", str(folder), "--out", str(out), "--vocab-size", "280")
    assert ran.code == 0
    assert "1 file of another kind (.png)" in ran.err
    files = (str(folder / "b.jsonl"), str(plain))
    assert gpt2("tokenizer", "train", *files, "--out", str(expected), "--vocab-size", "280").code == 0
    for file in ("vocab.json", "merges.txt"):
        assert (out / file).read_bytes() == (expected / file).read_bytes()


def test_lines_without_the_field_are_named(gpt2, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "a.jsonl").write_text('{"body": "low lower"}\n', encoding="utf-8")
    ran = gpt2("tokenizer", "train", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "x"), "--vocab-size", "280")
    assert ran.code == 1
    assert "a.jsonl, line 1, has no text in a field 'text': it holds the fields body." in ran.err


def test_two_cannot_learn_into_one_folder(gpt2, tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "learned"
    text.write_text("banana band " * 50, encoding="utf-8")
    with files.lock(out):
        ran = gpt2("tokenizer", "train", str(text), "--out", str(out), "--vocab-size", "260")
        assert (ran.code, "in use by another process" in ran.err) == (1, True)
        assert [entry.name for entry in out.iterdir()] == [".lock"]


def test_a_text_too_small_for_the_vocabulary_says_so(gpt2, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text = tmp_path / "text"
    text.write_text("abab", encoding="utf-8")
    ran = gpt2("tokenizer", "train", str(text), "--out", str(tmp_path / "learned"), "--vocab-size", "5000")
    assert ran.code == 0
    assert ran.out == ""
    assert "no more than 258 ids" in ran.err
    assert gpt2("tokenizer", "train", str(text), "--out", str(tmp_path / "x"), "--vocab-size", "256").code == 2


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (TokenizerError, 1)])
def test_learning_that_fails_or_is_stopped_leaves_nothing(
    gpt2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("gpt2.tokenizer.learn", stop)
    (tmp_path / "text").touch()
    out = tmp_path / "new" / "learned"
    assert gpt2("tokenizer", "train", str(tmp_path / "text"), "--out", str(out), "--vocab-size", "300").code == code
    assert [file.name for file in tmp_path.iterdir()] == ["text"]


def test_a_folder_without_a_vocabulary_is_named(gpt2, tmp_path: Path) -> None:
    ran = gpt2("tokenize", "--model", str(tmp_path), "x")
    assert ran.code == 1
    assert f"{tmp_path} holds no vocabulary" in ran.err


def test_a_byte_order_mark_comes_back_and_is_said(gpt2, tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfHello world\n"
    file = tmp_path / "bom.txt"
    file.write_bytes(data)
    ran = gpt2("tokenize", "--file", str(file))
    assert ran.err.startswith(f"warning: {file} begins with a byte order mark")
    assert gpt2("detokenize", stdin=ran.out.encode()).out == data.decode()
    assert gpt2("tokenize", stdin=data + b"\n").out == ran.out


def test_utf_16_is_named(gpt2, tmp_path: Path) -> None:
    for data in (b"\xff\xfeH\0i\0", b"\xfe\xff\0H\0i"):
        ran = gpt2("tokenize", stdin=data)
        assert (ran.code, ran.out) == (1, "")
        assert "as UTF-16 does. Save it as UTF-8." in ran.err
        assert "--errors" not in ran.err
    ran = gpt2("tokenize", stdin=b"\xff")
    assert "--errors replace" in ran.err


def test_ids_after_a_byte_order_mark_are_ids(gpt2) -> None:
    for more in ((), ("--json",)):
        expected = gpt2("detokenize", *more, "31373", "995").out
        assert gpt2("detokenize", *more, stdin=b"\xef\xbb\xbf31373\n995").out == expected


def test_the_name_of_a_file_is_text_and_a_warning(gpt2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "an essay.txt").write_text("other", encoding="utf-8")
    ran = gpt2("tokenize", "an essay.txt")
    assert ran.out == lines(Tokenizer.published().encode("an essay.txt"))
    told = "an essay.txt is a file, but is taken as text; --file 'an essay.txt' tokenizes it\n"
    assert ran.err == f"warning: {told}"
    for text in ("another.txt", ".", "a\0b"):
        assert gpt2("tokenize", text).err == ""
