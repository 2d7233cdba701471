"""Preparing: the same bytes whatever the workers and the interruptions, and nothing lost."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
from gpt2 import files
from gpt2.data import PrepareConfig, Progress, ReadOptions, TokenStream, blocks, folder_writer, prepare, verify
from gpt2.data import documents as documents_room
from gpt2.errors import DataError, FolderInUseError, ShardError
from gpt2.tokenizer import Tokenizer

EOT = 50256
TOKENIZER = Tokenizer.published()
CONFIG = PrepareConfig(validation=0.2, shard_tokens=500)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_CHARACTERS", 400)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A JSONL and a plain text; 61 documents, two of them empty and two alike."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [{"text": f"Story {n}: " + "the fox ran over the hill. " * (n % 7)} for n in range(59)]
    lines[20:20] = [{"text": ""}, {"text": " \n"}, {"text": "Story 3: " + "the fox ran over the hill. " * 3}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (folder / "b.txt").write_text("A long text.\n\n" * 100, encoding="utf-8")
    return [folder / "a.jsonl", folder / "b.txt"]


@pytest.fixture(scope="module")
def expected(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one uninterrupted run writes."""
    out = tmp_path_factory.mktemp("expected") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_CHARACTERS", 400)
        prepare(corpus, out, config=CONFIG)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def documents(folder: Path, split: str) -> list[str]:
    stream = TokenStream.open(folder, split)
    ids = stream.read(0, stream.n_tokens)
    assert ids[0] == EOT
    return [TOKENIZER.decode(part[1:].tolist()) for part in np.split(ids, np.flatnonzero(ids == EOT)[1:])]


def test_every_document_is_there_once_in_order_begun_by_eot(corpus: list[Path], tmp_path: Path) -> None:
    manifest = prepare(corpus, tmp_path / "out")
    lines = [json.loads(line)["text"] for line in corpus[0].read_text(encoding="utf-8").splitlines()]
    wanted = [*(line for line in lines if line.strip()), corpus[1].read_text(encoding="utf-8")]
    assert documents(tmp_path / "out", "train") == wanted
    assert manifest["documents"] == len(wanted) == 61
    assert manifest["empty_documents"] == 2
    assert manifest["tokens"] == sum(len(TOKENIZER.encode(text)) + 1 for text in wanted)
    assert manifest["text_bytes"] == sum(len(text.encode()) for text in wanted)
    assert list(verify(tmp_path / "out")) == []
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))


def test_the_split_follows_the_hash_of_the_text(corpus: list[Path], tmp_path: Path) -> None:
    manifest = prepare(corpus, tmp_path / "out", config=CONFIG)
    train, validation = (documents(tmp_path / "out", split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 61
    assert manifest["splits"]["validation"]["documents"] == len(validation) > 3
    for text in (*train, *validation):
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        assert (int.from_bytes(digest, "little") / 2**64 < 0.2) == (text in validation)
    assert not set(train) & set(validation)


def test_a_long_text_goes_the_same_way_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_room, "_PIECE", 200)
    monkeypatch.setattr(documents_room, "_CUT_WITHIN", 50)
    monkeypatch.setattr(blocks, "SPLIT_CHARACTERS", 100)
    texts = [f"Story {n}. " + "The fox ran over the hill. " * 20 for n in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    (tmp_path / "b.txt").write_text("|".join(["x", *texts]), encoding="utf-8")
    sides: list[list[str]] = []
    for name in ("a.jsonl", "b.txt"):
        found = blocks.cut_blocks([str(tmp_path / name)], ReadOptions(split_on="|"), validation=0.5)
        pieces = [piece for block in found for piece in block.pieces]
        sides.append([piece.split for piece in pieces if piece.begins and piece.text != "x"])
    assert sides[0] == sides[1]
    assert len({*sides[0]}) == 2


@pytest.mark.parametrize(("validation", "split"), [(0, "train"), (1, "validation")])
def test_all_to_one_split(corpus: list[Path], tmp_path: Path, validation: float, split: str) -> None:
    assert list(prepare(corpus, tmp_path, config=PrepareConfig(validation=validation))["splits"]) == [split]


def test_shards_end_between_blocks_and_say_what_they_hold(expected: dict[str, bytes]) -> None:
    listed = json.loads(expected["manifest.json"])["files"]
    assert set(expected) == {*listed, "manifest.json"}
    assert len([name for name in listed if name.startswith("train")]) > 2
    for name, facts in listed.items():
        data = expected[name]
        assert facts["bytes"] == len(data) == 1024 + 2 * facts["tokens"]
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        assert np.frombuffer(data[:12], "<i4").tolist() == [20240520, 1, facts["tokens"]]
        assert np.count_nonzero(np.frombuffer(data[1024:], "<u2") == EOT) == facts["documents"]
    train = [facts["tokens"] for facts in listed.values() if facts["split"] == "train"]
    assert all(500 <= tokens < 1000 for tokens in train[:-1])


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.long)])
def test_the_number_of_workers_changes_no_byte(
    corpus: list[Path], expected: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    prepare(corpus, tmp_path / "out", config=CONFIG, workers=workers)
    assert contents(tmp_path / "out") == expected


def stop_after(n_blocks: int, error: BaseException) -> Callable[[Progress], None]:
    count = iter(range(n_blocks))

    def tell(progress: Progress) -> None:
        if next(count, None) is None:
            raise error

    return tell


@given(stops=st.lists(st.integers(0, 12), max_size=4), record_seconds=st.sampled_from([-1.0, 1e9]))
@settings(deadline=None, max_examples=15)
def test_stopped_anywhere_and_resumed_equals_uninterrupted(
    corpus: list[Path],
    expected: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    stops: list[int],
    record_seconds: float,
) -> None:
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_writer, "_RECORD_SECONDS", record_seconds)
        for n_blocks in stops:
            for error in (KeyboardInterrupt(), OSError("the disk is full")):
                try:
                    prepare(corpus, out, config=CONFIG, tokenizer=TOKENIZER, progress=stop_after(n_blocks, error))
                except (KeyboardInterrupt, OSError) as caught:
                    assert caught is error  # noqa: PT017  # it need not come, when few blocks are left
                    assert not (out / "manifest.json").exists()
        prepare(corpus, out, config=CONFIG, tokenizer=TOKENIZER)
    assert contents(out) == expected


def script(corpus: list[Path], out: Path, progress: str) -> Iterator[str]:
    yield from (sys.executable, "-c")
    yield textwrap.dedent(f"""
        import os, signal
        from gpt2.data import PrepareConfig, blocks, folder_writer, prepare
        blocks.BLOCK_CHARACTERS = 400
        folder_writer._RECORD_SECONDS = -1
        count = iter(range(4))
        def progress(_):
            {progress}
        config = PrepareConfig(validation=0.2, shard_tokens=500)
        prepare({[str(path) for path in corpus]!r}, {str(out)!r}, config=config, progress=progress)
    """)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_resumed_equals_uninterrupted(
    corpus: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    kill = "next(count, None) is None and os.kill(os.getpid(), signal.SIGKILL)"
    environment = {**os.environ, "PYTHONPATH": str(Path(gpt2.__file__).parents[1])}
    for _ in range(2):
        ended = subprocess.run([*script(corpus, out, kill)], env=environment, timeout=600, check=False)
        assert ended.returncode == -signal.SIGKILL
    before = json.loads((out / "progress.json").read_text(encoding="utf-8"))["state"]["blocks"]
    assert before == 10  # five blocks each time
    told: list[Progress] = []
    prepare(corpus, out, config=CONFIG, progress=told.append)
    assert contents(out) == expected
    assert len(told) == sum(1 for _ in blocks.cut_blocks([*map(str, corpus)], ReadOptions(), validation=0.2)) - before


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_who_is_killed_leaves_no_worker_behind(corpus: list[Path], tmp_path: Path) -> None:
    program = f"""import os, signal
from gpt2.data import blocks, prepare
blocks.BLOCK_CHARACTERS = 400
kill = lambda _: os.kill(os.getpid(), signal.SIGKILL)
prepare({[str(path) for path in corpus]!r}, {str(tmp_path / "out")!r}, workers=2, progress=kill)"""
    ended = subprocess.run(  # until nobody holds the other end of its output, its workers neither
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(gpt2.__file__).parents[1])},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL


def test_a_worker_that_dies_costs_only_what_it_was_doing(
    corpus: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def kill_one(progress: Progress) -> None:
        for child in multiprocessing.active_children()[:1]:  # what was encoded already is still told
            child.kill()
            child.join()  # so the next time it is the other: one alone, quick enough, could do all the rest

    with pytest.raises(DataError, match="a worker process died"):
        prepare(corpus, out, config=CONFIG, workers=2, progress=kill_one)
    assert json.loads((out / "progress.json").read_text(encoding="utf-8"))["state"]["blocks"] >= 1
    prepare(corpus, out, config=CONFIG)
    assert contents(out) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked")
def test_a_worker_that_is_starting_does_not_hear_ctrl_c(
    corpus: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys; '--multiprocessing-fork' in sys.orig_argv and signal.raise_signal(signal.SIGINT)",
        encoding="utf-8",
    )
    source = str(Path(gpt2.__file__).parents[1])
    program = f"""from gpt2.data import PrepareConfig, blocks, prepare
blocks.BLOCK_CHARACTERS = 400
config = PrepareConfig(validation=0.2, shard_tokens=500)
prepare({[str(path) for path in corpus]!r}, {str(tmp_path / "out")!r}, config=config, workers=2)"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), source])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert contents(tmp_path / "out") == expected


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit")
def test_a_full_disk_loses_nothing(corpus: list[Path], expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1800, 1800))"
    environment = {**os.environ, "PYTHONPATH": str(Path(gpt2.__file__).parents[1])}
    full = subprocess.run(
        [*script(corpus, out, limit)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert "OSError" in full.stderr
    assert not (out / "manifest.json").exists()
    assert json.loads((out / "progress.json").read_text(encoding="utf-8"))["state"]["blocks"] >= 1
    prepare(corpus, out, config=CONFIG)
    assert contents(out) == expected


def test_a_finished_folder_is_not_done_again(corpus: list[Path], tmp_path: Path) -> None:
    first = prepare(corpus, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")}
    told: list[Progress] = []
    assert prepare(corpus, tmp_path / "out", progress=told.append) == first
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")} == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_configuration_is_refused_with_the_difference(
    corpus: list[Path], tmp_path: Path, *, finished: bool
) -> None:
    stop = None if finished else stop_after(2, KeyboardInterrupt())
    try:
        prepare(corpus, tmp_path / "out", config=CONFIG, progress=stop)
    except KeyboardInterrupt:
        assert not finished
    before = contents(tmp_path / "out")
    other = PrepareConfig(validation=0.1, shard_tokens=500, read=ReadOptions(field="body"))
    with pytest.raises(DataError) as caught:
        prepare(corpus[:1], tmp_path / "out", config=other)
    assert "another configuration" in str(caught.value)
    assert "validation was 0.2 and is now 0.1" in str(caught.value)
    assert "sources[1]" in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_other_documents_under_the_same_name_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"Document {n}. " * 20}) for n in range(10)]
    source.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        prepare([source], tmp_path / "out", progress=stop_after(3, KeyboardInterrupt()))
    source.write_text("\n".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(DataError, match="no longer give the documents"):
        prepare([source], tmp_path / "out")


def test_a_source_mended_behind_what_was_read_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"Document {n}. " * 20}) for n in range(10)]
    source.write_text("\n".join([*lines[:8], lines[8][:-5], lines[9]]), encoding="utf-8")
    with pytest.raises(DataError, match="line 9, is not JSON"):
        prepare([source], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "progress.json").read_text(encoding="utf-8"))["state"]["blocks"] == 4
    source.write_text("\n".join(lines), encoding="utf-8")
    prepare([source], tmp_path / "out")
    prepare([source], tmp_path / "straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_shard_that_vanished_is_named(corpus: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "out", config=CONFIG, progress=stop_after(1, KeyboardInterrupt()))
    (tmp_path / "out" / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin is cut off or lost"):
        prepare(corpus, tmp_path / "out", config=CONFIG)


def test_a_finished_shard_that_was_cut_is_named(corpus: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, out, config=CONFIG, progress=stop_after(8, KeyboardInterrupt()))
    closed = [*json.loads((out / "progress.json").read_text(encoding="utf-8"))["state"]["closed"]]
    os.truncate(out / closed[0], 1100)
    before = contents(out)
    with pytest.raises(ShardError, match=f"{closed[0]} is cut off or lost. Remove the folder"):
        prepare(corpus, out, config=CONFIG)
    assert contents(out) == before


@pytest.mark.parametrize(
    "spoil",
    [
        "[]",
        "",
        '{"settings": {}, "state": {}}',
        ('"blocks": 2', '"blocks": "2"'),
        ('"train": {', '"other": {'),
        ('"tokens"', '"lost"'),
        ('"name"', '"lost"'),
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(corpus: list[Path], tmp_path: Path, spoil: str | tuple[str, str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, out, config=CONFIG, progress=stop_after(1, KeyboardInterrupt()))
    record = (out / "progress.json").read_text(encoding="utf-8")
    damaged = spoil if isinstance(spoil, str) else record.replace(*spoil)
    assert damaged != record
    (out / "progress.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(ShardError, match=r"progress\.json is damaged.*Remove .*out and start anew"):
        prepare(corpus, out, config=CONFIG)


def test_a_manifest_without_settings_is_another_folder(corpus: list[Path], tmp_path: Path) -> None:
    manifest = prepare(corpus, tmp_path / "out")
    del manifest["settings"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="another configuration"):
        prepare(corpus, tmp_path / "out")


def test_one_source_needs_no_list(corpus: list[Path], tmp_path: Path) -> None:
    assert prepare(str(corpus[1]), tmp_path / "out")["documents"] == 1


def test_a_file_in_the_way_stays(corpus: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="it is a file"):
        prepare(corpus, tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_a_folder_with_other_things_in_it_is_not_filled(corpus: list[Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(DataError, match=r"holds thesis\.doc"):
        prepare(corpus, tmp_path)
    assert (tmp_path / "thesis.doc").exists()


def test_a_folder_in_use_is_refused(corpus: list[Path], tmp_path: Path) -> None:
    with files.lock(tmp_path / "out"), pytest.raises(FolderInUseError):
        prepare(corpus, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "\n \n", '{"text": ""}\n{"text": "  "}\n'])
def test_nothing_to_encode_is_said_and_leaves_no_trace(tmp_path: Path, text: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="no document that is not empty"):
        prepare([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_text_larger_than_a_piece_has_the_tokens_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "It's the fox's   \n\n den: 123 foxes, zoë's 🦊🦊!\n" * 200
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("gpt2.data.documents._PIECE", 100)
    manifest = prepare([tmp_path / "a.txt"], tmp_path / "out", config=PrepareConfig(shard_tokens=500))
    assert manifest["documents"] == 1
    assert len(manifest["files"]) > 1
    stream = TokenStream.open(tmp_path / "out")
    assert stream.read(0, stream.n_tokens).tolist() == [EOT, *TOKENIZER.encode(text)]


def test_the_end_mark_written_in_a_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>two", encoding="utf-8")
    prepare([tmp_path / "a.txt"], tmp_path / "out")
    stream = TokenStream.open(tmp_path / "out")
    assert stream.read(0, stream.n_tokens).tolist().count(EOT) == 1


def test_progress_counts_up_and_knows_the_end(corpus: list[Path], tmp_path: Path) -> None:
    told: list[Progress] = []
    manifest = prepare(corpus, tmp_path / "out", progress=told.append)
    assert [each.documents for each in told] == sorted(each.documents for each in told)
    assert told[-1].documents == told[-1].new_documents == manifest["documents"]
    assert told[-1].tokens == manifest["tokens"]
    assert told[-1].text_bytes == told[-1].new_text_bytes == manifest["text_bytes"]
    assert told[-1].source == str(corpus[-1])


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_share_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        PrepareConfig(validation=value)


@pytest.mark.long
@pytest.mark.skipif("GPT2_CORPUS" not in os.environ, reason="GPT2_CORPUS is not set")
def test_the_corpus_is_prepared_alike_by_one_and_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_CHARACTERS", 1 << 20)
    source = Path(os.environ["GPT2_CORPUS"]) / "validation.jsonl.zst"
    one = prepare([source], tmp_path / "one")
    assert one == prepare([source], tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (one["documents"], one["tokens"]) == (497, 930_358)


def test_files_of_other_kinds_in_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.docx"):
        (tmp_path / "in" / name).write_text("A text.", encoding="utf-8")
    caplog.set_level("INFO", logger="gpt2")
    prepare([tmp_path / "in", tmp_path / "in" / "a.txt"], tmp_path / "out")
    said = "1 file of another kind (.docx); save documents as plain text (.txt) to have them read"
    assert caplog.messages == [f"skipped in {tmp_path / 'in'}: {said}"]
    caplog.clear()
    (tmp_path / "in" / "b.docx").rename(tmp_path / "in" / "b.jpg")
    prepare([tmp_path / "in"], tmp_path / "more")
    assert caplog.messages == [f"skipped in {tmp_path / 'in'}: 1 file of another kind (.jpg)"]
