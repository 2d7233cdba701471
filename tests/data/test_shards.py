"""Shards: what is written is read, and what is broken is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data import PrepareConfig, TokenStream, prepare, read_shard, verify, write_shard
from gpt2.data.shards import HEADER_BYTES, header
from gpt2.errors import ShardError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": f"Document {n}."}) + "\n" for n in range(20)), encoding="utf-8")
    prepare([source], tmp_path / "shards")
    return tmp_path / "shards"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 65535)), st.sampled_from([65536, 70000]))
def test_a_shard_gives_back_its_ids(tmp_path_factory: pytest.TempPathFactory, ids: list[int], vocab_size: int) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.bin"
    write_shard(path, ids, vocab_size=vocab_size)
    assert read_shard(path).tolist() == ids
    assert path.stat().st_size == 1024 + len(ids) * (2 if vocab_size == 65536 else 4)


def test_the_bytes_are_those_that_the_field_reads(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", [1, 50256], vocab_size=50257)
    data = (tmp_path / "a.bin").read_bytes()
    assert np.frombuffer(data[:1024], "<i4")[:4].tolist() == [20240520, 1, 2, 0]
    assert data[1024:] == b"\x01\x00\x50\xc4"


def test_a_large_vocabulary_says_so_in_the_version(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", [65536], vocab_size=65537)
    assert np.frombuffer((tmp_path / "a.bin").read_bytes()[:1024], "<i4")[:3].tolist() == [20240520, 2, 1]


def test_an_id_outside_the_vocabulary_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="between 0 and 9"):
        write_shard(tmp_path / "a.bin", [3, 10], vocab_size=10)
    assert not (tmp_path / "a.bin").exists()


def test_ids_are_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="whole numbers"):
        write_shard(tmp_path / "a.bin", np.array([1.0, 2.5]), vocab_size=10)
    write_shard(tmp_path / "a.bin", [], vocab_size=10)
    assert read_shard(tmp_path / "a.bin").size == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-1], "is broken: its header says 2 tokens, so 1,028 bytes, and it has 1,027"),
        (lambda data: data + b"\0\0", "it has 1,030"),
        (lambda data: data[:500], "is not a token shard"),
        (lambda data: data[:501], "is not a token shard"),
        (lambda data: b"", "is not a token shard"),
        (lambda data: b"\0" * 4 + data[4:], "is not a token shard"),
        (lambda data: data[:4] + b"\x07" + data[5:], "version 7"),
        (lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:], "is broken"),
    ],
)
def test_a_broken_shard_is_named_with_what_is_wrong(tmp_path: Path, spoil, said: str) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, [1, 2], vocab_size=50257)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ShardError, match=said) as caught:
        read_shard(path)
    assert str(path) in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=1100))
def test_no_bytes_make_the_reader_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.bin"
    for content in (data, header(len(data) // 2, 1) + data):
        path.write_bytes(content)
        try:
            assert read_shard(path).size == len(data) // 2
        except ShardError:
            assert content == data or len(data) % 2


def test_a_sound_folder_has_nothing_to_complain_of(folder: Path) -> None:
    assert list(verify(folder)) == []


def test_one_changed_byte_is_found(folder: Path) -> None:
    shard = folder / "train-00000.bin"
    data = bytearray(shard.read_bytes())
    data[HEADER_BYTES + 3] ^= 1
    shard.write_bytes(data)
    assert any("train-00000.bin has another SHA-256" in line for line in verify(folder))


def test_an_id_above_the_vocabulary_is_found(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["vocab_size"] = 100
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert list(verify(folder)) == ["train-00000.bin holds the id 50256, and the vocabulary ends at 99"]


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "train-00000.bin").unlink()
    with pytest.raises(ShardError, match=r"train-00000\.bin cannot be .*: No such file or directory\. Put it back"):
        TokenStream.open(folder)
    assert any("train-00000.bin is missing" in line for line in verify(folder))
    with pytest.raises(ShardError, match="there is no such folder"):
        TokenStream.open(folder / "nowhere")
    (folder.parent / "text.txt").write_text("Once", encoding="utf-8")
    with pytest.raises(ShardError, match="it is a file"):
        TokenStream.open(folder.parent / "text.txt")


def test_a_shard_of_another_length_is_named(folder: Path) -> None:
    write_shard(folder / "train-00000.bin", [1, 2, 3], vocab_size=50257)
    with pytest.raises(ShardError, match="holds 3 tokens, and the manifest says"):
        TokenStream.open(folder)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "not a finished folder"),
        ("{", "not readable JSON"),
        ("[]", "does not describe token shards"),
        ('{"files": {}}', "does not describe token shards"),
        ('{"format": "token shards"}', "does not describe token shards"),
        ('{"format": "token shards", "files": {"a": 3}, "vocab_size": 1, "tokenizer_hash": "", "eot": 0}', "does not"),
    ],
)
def test_a_folder_without_its_manifest_is_refused(folder: Path, manifest: str | None, said: str) -> None:
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ShardError, match=said):
        TokenStream.open(folder)
    with pytest.raises(ShardError, match=said):
        list(verify(folder))


def test_a_split_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ShardError, match="no validation split"):
        TokenStream.open(folder, "validation")


def test_the_stream_runs_over_shards_and_begins_again(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in range(1, 9)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt2.data.blocks.BLOCK_DOCUMENTS", 3)
        prepare([source], tmp_path / "shards")
        patch.setattr("gpt2.data.blocks.BLOCK_DOCUMENTS", 1)
        prepare([source], tmp_path / "many", config=PrepareConfig(shard_tokens=1))
    one, many = TokenStream.open(tmp_path / "shards"), TokenStream.open(tmp_path / "many")
    assert len(one.shards) == 1
    assert len(many.shards) == 8
    whole = one.shards[0].tolist()
    assert one.n_tokens == many.n_tokens == len(whole)
    for start in range(len(whole)):
        for count in (0, 1, 5, len(whole), 2 * len(whole) + 1):
            wanted = [whole[(start + at) % len(whole)] for at in range(count)]
            assert one.read(start, count).tolist() == wanted
            assert many.read(start, count).tolist() == wanted
