"""Reading sources: every kind, every compression, every way they can be broken."""

import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data import Document, ReadOptions, documents, find_sources, read_documents
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer

TOKENIZER = Tokenizer.published()
PACKED = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def texts(path: Path | str, **options: object) -> list[str]:
    """The documents, pieces joined."""
    found: list[str] = []
    for document in read_documents(path, ReadOptions(**options)):
        if document.begins:
            found.append("")
        found[-1] += document.text
    return found


@pytest.mark.parametrize("packed", PACKED)
def test_json_lines_in_every_compression(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.jsonl{packed}"
    lines = [{"text": "One.\r\nTwo."}, {"id": 3, "text": ""}, {"text": "Zoë 🦊"}]
    path.write_bytes(PACKED[packed]("\n\n".join(map(json.dumps, lines)).encode()))
    assert list(read_documents(path)) == [
        Document(text="One.\r\nTwo.", where=f"{path}, line 1"),
        Document(text="", where=f"{path}, line 3"),
        Document(text="Zoë 🦊", where=f"{path}, line 5"),
    ]


def test_rows_of_parquet_are_held_a_few_at_a_time(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["word " * 20_000] * 600}), tmp_path / "a.parquet")
    tracemalloc.start()
    assert sum(1 for _ in read_documents(tmp_path / "a.parquet")) == 600
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20_000_000  # of the 60 MB that they are


def test_a_window_that_is_too_large_is_named_as_such(tmp_path: Path) -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    pack = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(pack.compress(b"One.") + pack.flush())
    with pytest.raises(DataError, match=r"packed with a larger window than 128 MiB. Unpack it first \(`zstd -d"):
        texts(tmp_path / "a.txt.zst")


@pytest.mark.parametrize("packed", PACKED)
def test_a_plain_text_is_one_document_kept_as_it_is(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(PACKED[packed]("\ufeff One\r\n\n\ttwo \n".encode()))
    assert texts(path) == [" One\r\n\n\ttwo \n"]


def test_a_plain_text_is_split_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one<|endoftext|>two<|endoftext|><|endoftext|>three\n", encoding="utf-8")
    assert texts(path, split_on="<|endoftext|>") == ["one", "two", "", "three\n"]


@settings(deadline=None)
@given(
    parts=st.lists(st.text(st.sampled_from("ab \n|é🦊'1"), max_size=30), max_size=8),
    separator=st.sampled_from([None, "||", "\n\n", "a"]),
    piece=st.integers(1, 20),
)
def test_pieces_of_any_size_join_to_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], separator: str | None, piece: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    text = (separator or " ").join(parts)
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_PIECE", piece)
        found = texts(path, split_on=separator)
        pieces = list(read_documents(path, ReadOptions(split_on=separator)))
    wanted = text.split(separator) if separator else [text]
    assert found == (wanted if wanted[-1] else wanted[:-1])
    ids = [token for each in pieces for token in TOKENIZER.encode(each.text)]
    assert ids == [token for each in wanted for token in TOKENIZER.encode(each)]
    assert [each.begins for each in pieces] == [True, *(each.ends for each in pieces)][: len(pieces)]


def test_a_text_without_a_place_to_cut_is_cut_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 1000, encoding="utf-8")
    monkeypatch.setattr(documents, "_PIECE", 10)
    pieces = [document.text for document in read_documents(path, ReadOptions(max_document_bytes=100))]
    assert "".join(pieces) == "x" * 1000
    assert max(map(len, pieces)) <= 120


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"good \xff bad", "the byte 0xff at offset 5 "),
        ("a.txt", b"\xef\xbb\xbfgood \xc3", "the byte 0xc3 at offset 8 "),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "the byte 0xe9 at offset 24 "),
        (
            "a.txt",
            b"\xe9t\xe9, \x93so\x94",
            "(`iconv -f cp1252 -t utf-8`, if it is an old one)",
        ),  # latin1 has no quotes
        (
            "a.txt",
            b"PK\x03\x04\x14\0\xff",
            "is a Word document, or another zip archive. Save the document as plain text",
        ),
        ("a.jsonl", b"PK\x03\x04\x14\0\xff", "is a Word document"),
        (
            "a.txt",
            b"\xd0\xcf\x11\xe0\xa1\xb1",
            "is an old Word document, or another of Office's. Save the document as plain",
        ),
        ("a.txt", b"%PDF-1.4\n%\xe2\xe3", "is a PDF. Save the document as plain text"),
        ("a.txt.gz", gzip.compress(b"PK\x03\x04\x14", mtime=0), "is a Word document"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2, is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1, is not JSON"),
        ("a.jsonl", b'{"body": "a", "id": 1}', "no text in a field 'text': it holds the fields body, id"),
        ("a.jsonl", b'{"text": 3}', "no text in a field 'text'"),
        ("a.jsonl", b'{"text": 5}', "no text in a field 'text': that field holds a number. Put a text there"),
        ("a.jsonl", b'{"id": 1, "text": null}', "no text in a field 'text': that field holds null. Put a text there"),
        ("a.jsonl", b'"text"', "it holds str"),
        ("a.jsonl", b'{"text": "ab\\ud83d"}', "half a surrogate pair at character 2"),
        ("a.jsonl", b'{"text": "' + b"a" * 200 + b'"}', "line 1, is longer than 100 bytes"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9], "is cut off"),
        ("a.jsonl.gz", b"not an archive", "is broken"),
        ("a.jsonl.zst", PACKED[".zst"](b'{"text": "a"}\n' * 99)[:-5], "is cut off"),
        ("a.jsonl.zst", PACKED[".zst"](b'{"text": "a"}\n') + b"rubbish", "is broken"),
        ("a.txt.zst", b"not an archive", "is broken"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_documents(path, ReadOptions(max_document_bytes=100 if b"aaa" in data else 1 << 20)))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_names_in_capitals_are_known_too(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_bytes(b"one")
    (tmp_path / "B.JSONL").write_bytes(b'{"text": "two"}\n')
    (tmp_path / "C.Jsonl.GZ").write_bytes(gzip.compress(b'{"text": "three"}\n') + b"\0" * 512)
    (tmp_path / "D.TXT.ZST").write_bytes(PACKED[".zst"](b"four"))
    found = find_sources([tmp_path])
    assert found == find_sources(found)
    assert [text for name in found for text in texts(Path(name))] == ["one", "two", "three", "four"]


def test_an_archive_is_not_read_as_replacement_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04\x14\0\xff")
    with pytest.raises(DataError, match="is a Word document"):
        texts(tmp_path / "a.txt", errors="replace")


def test_a_bad_byte_far_into_a_file_is_named_by_its_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é ".encode() * 50 + b"\xff")
    for piece in (1, 2, 7, 1000):
        monkeypatch.setattr(documents, "_PIECE", piece)
        with pytest.raises(DataError, match="offset 150 "):
            list(read_documents(path))


def test_replace_reads_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\xffb")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\xff\\ud83db"}')
    assert texts(tmp_path / "a.txt", errors="replace") == ["a\ufffdb"]
    assert texts(tmp_path / "a.jsonl", errors="replace") == ["a\ufffd\ufffdb"]


LONG = pytest.mark.long


def test_zeros_after_an_archive_are_padding(tmp_path: Path) -> None:
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(b"one ") + bytes(3000) + gzip.compress(b"two") + bytes(5))
    assert [document.text for document in read_documents(str(file))] == ["one two"]
    file.write_bytes(bytes(3000))
    with pytest.raises(DataError, match="is broken"):
        list(read_documents(str(file)))


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", pytest.param("a.txt.zst", marks=LONG)])
def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED[path.suffix](b"a" * (128 << 20)))
    tracemalloc.start()
    try:
        if "jsonl" in name:
            with pytest.raises(DataError, match="longer than 1,048,576 bytes"):
                texts(path, max_document_bytes=1 << 20)
        else:
            assert sum(len(each.text) for each in read_documents(path, ReadOptions(max_document_bytes=1))) == 128 << 20
        assert tracemalloc.get_traced_memory()[1] < 96 << 20
    finally:
        tracemalloc.stop()


def test_archives_one_behind_another_are_one_file(tmp_path: Path) -> None:
    for packed in (".gz", ".zst"):
        path = tmp_path / f"a.txt{packed}"
        path.write_bytes(b"".join(PACKED[packed](part) for part in (b"one ", b"", b"two" * 10_000)))
        assert texts(path) == ["one " + "two" * 10_000]


def test_how_much_was_read_adds_up_to_the_file(tmp_path: Path) -> None:
    for packed in PACKED:
        path = tmp_path / f"a.jsonl{packed}"
        path.write_bytes(PACKED[packed](b"".join(b'{"text": "%d"}\n' % n for n in range(5000))))
        seen: list[int] = []
        assert len(list(read_documents(path, on_read=seen.append))) == 5000
        assert sum(seen) == path.stat().st_size


def test_standard_input_is_text_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, wanted in (({}, ['{"text": "a"}\n']), ({"kind": "jsonl"}, ["a"])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n'), encoding="utf-8"))
        assert texts("-", **options) == wanted
        assert not sys.stdin.buffer.closed


def test_a_folder_gives_its_files_in_order_without_the_hidden_and_the_unknown(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.jsonl.zst", "a/b/c.md", ".hidden.txt", ".git/a.txt", "photo.jpg", "a/README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(name).relative_to(tmp_path).as_posix() for name in find_sources([tmp_path])]
    assert found == ["a/b/c.md", "a/z.jsonl.zst", "b.txt"]
    assert find_sources([tmp_path / "b.txt", "-"]) == [str(tmp_path / "b.txt"), "-"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.txt", "no such file or folder"),
        ("photo.jpg", "kind is not known.*save any other document as plain text"),
        ("empty", "holds no file"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=said) as caught:
        find_sources([tmp_path / name])
    assert name in str(caught.value)


def test_a_file_of_unknown_name_is_read_when_its_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "novel").write_text("Call me", encoding="utf-8")
    assert find_sources([tmp_path / "novel"], "text") == [str(tmp_path / "novel")]
    assert texts(tmp_path / "novel", kind="text") == ["Call me"]


@pytest.mark.parametrize("option", ["field", "split_on"])
def test_a_name_of_no_text_is_refused(option: str) -> None:
    with pytest.raises(DataError, match="No text can be read by"):
        ReadOptions(**{option: "\udcff"})


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "c"], "n": [1, 2, 3]}), path)
    assert list(read_documents(path)) == [
        Document(text="a", where=f"{path}, row 1"),
        Document(text="c", where=f"{path}, row 3"),
    ]
    with pytest.raises(DataError, match="has no column 'body': it has text, n"):
        list(read_documents(path, ReadOptions(field="body")))
    with pytest.raises(DataError, match="no text in the column 'n': row 1 holds int"):
        list(read_documents(path, ReadOptions(field="n")))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.parquet is broken"):
        list(read_documents(path))


@settings(deadline=None)
@given(data=st.binary(max_size=300), name=st.sampled_from(["a.txt", "a.jsonl", "a.jsonl.gz", "a.txt.zst"]))
def test_no_bytes_make_a_reader_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    for content in (data, PACKED[path.suffix if path.suffix in PACKED else ""](data)):
        path.write_bytes(content)
        try:
            said = "".join(texts(path)) + str(path)
        except DataError as error:
            said = str(error)
        assert str(path) in said
