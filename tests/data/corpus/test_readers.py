"""Every reader, whatever a file holds: pages or damage told, and never an error."""

import bz2
import dataclasses
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpus.test_archives import THREE
from tests.data.corpus.test_books_and_dumps import dump, write_book

from gpt2.data.corpus.sources import KINDS, Input, SourceSpec, find_inputs, read_input
from gpt2.data.corpus.sources.addresses import recommended

Write = Callable[[Path], None]


def write_parquet(path: Path) -> None:
    table = {"text": ["one", None, "two"], "url": ["http://a.example", None, "x"], "license": ["MIT", None, None]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)


LINES = "\n".join(json.dumps({"text": "Some text.", "url": "http://a.example", "score": 9}) for _ in range(3))
SOUND: dict[str, Write] = {
    "warc": lambda path: path.write_bytes(b"".join(THREE)) and None,
    "html": lambda path: path.write_bytes(b"<html><body><p>A page.</p></body></html>") and None,
    "jsonl": lambda path: path.write_text(LINES, encoding="utf-8") and None,
    "text": lambda path: path.write_text("*** START OF THE PROJECT GUTENBERG EBOOK X ***\nText.") and None,
    "parquet": write_parquet,
    "epub": lambda path: write_book(path) and None,
    "mediawiki": lambda path: path.write_bytes(dump(("A", "0", "'''An''' [[article]]."), ("B", "0", "{{x}}"))) and None,
}


def test_no_reader_is_left_out() -> None:
    assert {*SOUND, "addresses", "reddit"} == {*KINDS}


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=20)
@given(data=st.data())
def test_any_spoilt_file_is_read(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / f"spoilt-{kind}"
    SOUND[kind](path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(whole)))
        whole[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    one = Input(spec=SourceSpec(path=str(path)), kind=kind, files=(str(path),), labels=("x",), bytes=len(whole))
    damage: list[Any] = []
    for page in read_input(one, damage.append, lambda n_bytes: None):
        assert page.where.startswith("x")
        assert page.id


@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_any_dump_of_submissions_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "spoilt-submissions"
    path.write_bytes(LINES.encode() + b"\n" + data + b"\n" + LINES.encode())
    found = list(recommended(path, lambda damage: None, lambda n_bytes: None))
    assert len(found) >= 5  # of six, what was put between may spoil one


PACKINGS = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".lz4": lz4.frame.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("ending", PACKINGS)
@pytest.mark.parametrize("name", ["a.html", "a.jsonl", "a.txt", "a.xml", "a.warc"])
def test_what_is_packed_reads_like_what_is_not(tmp_path: Path, name: str, ending: str) -> None:
    def pages() -> list[Any]:
        (one,) = find_inputs([SourceSpec(path=str(tmp_path))])
        found = list(read_input(dataclasses.replace(one, labels=("a",)), damage.append, lambda n_bytes: None))
        (tmp_path / one.labels[0]).rename(tmp_path.with_name("unpacked"))
        return [one.kind, *found]

    damage: list[Any] = []
    SOUND[next(kind for kind, (endings, _) in KINDS.items() if name.endswith(endings))](tmp_path / name)
    plain = pages()
    (tmp_path / (name + ending)).write_bytes(PACKINGS[ending](tmp_path.with_name("unpacked").read_bytes()))
    assert pages() == plain
    assert len(plain) > 1
    assert not damage


def pack_wide(data: bytes) -> bytes:
    """In zstd with a window of 256 MiB: dumps of submissions come with eight times as much."""
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    pack = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    return pack.compress(data) + pack.flush()


def test_a_wide_window_is_for_dumps_of_submissions(tmp_path: Path) -> None:
    (tmp_path / "RS_2019-01.zst").write_bytes(pack_wide(LINES.encode()))
    (tmp_path / "a.jsonl.zst").write_bytes(pack_wide(LINES.encode()))
    damage: list[Any] = []
    assert len(list(recommended(tmp_path / "RS_2019-01.zst", damage.append, lambda n_bytes: None))) == 3
    assert not damage
    one = next(one for one in find_inputs([SourceSpec(path=str(tmp_path))]) if one.kind == "jsonl")
    assert not list(read_input(one, damage.append, lambda n_bytes: None))
    assert "needs a larger window than 128 MiB: unpack the file first" in damage[0].why


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        for name, kind in (("x.jsonl", "jsonl"), ("x.html", "html"), ("y/x.html", "html")):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            SOUND[kind](tmp_path / folder / name)
    named = [SourceSpec(path=str(tmp_path / name), name=f"s{name < 'c'}") for name in ("a", "b", "c")]
    alone = [SourceSpec(path=str(tmp_path / name / "x.jsonl")) for name in ("a", "b", "c")]
    for specs in (named, alone):
        pages = [page for one in find_inputs(specs) for page in read_input(one, print, lambda n_bytes: None)]
        assert len({page.id for page in pages}) == len(pages) >= 9
    labels = {label for one in find_inputs(named) if one.spec.name == "sFalse" for label in one.labels}
    assert labels == {"x.jsonl (3)", "x.html", "y/x.html"}  # a line may say what source it is of, a page may not


def test_a_folders_read_me_is_no_document(tmp_path: Path) -> None:
    for name in ("README.md", "a.txt", "sub/LICENSE.txt", "sub/b.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    (one,) = find_inputs([SourceSpec(path=str(tmp_path))])
    assert one.labels == ("a.txt", "sub/b.md")
    (one,) = find_inputs([SourceSpec(path=str(tmp_path / "README.md"))])  # asked for by name
    assert one.labels == ("README.md",)
