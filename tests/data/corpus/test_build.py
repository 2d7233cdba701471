"""A corpus from end to end: the same for any workers and after any interruption, and clear answers to bad input."""

import dataclasses
import errno
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

import gpt2

pytest.importorskip("pycld2", reason="needs the extra corpus")

from gpt2.data.corpus import (
    CorpusConfig,
    FetchSettings,
    MinHash,
    SourceSpec,
    build,
    read_config,
    read_samples,
    read_stats,
    write_page,
)
from gpt2.errors import ConfigError, DataError

WORDS = re.findall(
    r"\w+",
    """
    the of and to in that was he it his is with as for had you
    not be her on at by which have or from this him but all she they
    were my are me one their so an said them we who would been will no
    when there house river morning garden window letter answer summer mother children village captain
    """,
)
FAST = CorpusConfig(rules=(), min_characters=50, near_duplicates=MinHash(), shard_bytes=20_000)


def prose(seed: int, sentences: int = 12) -> str:
    draw = random.Random(seed)
    return " ".join(" ".join(draw.choices(WORDS, k=draw.randrange(6, 15))).capitalize() + "." for _ in range(sentences))


def write_source(folder: Path, files: int = 4, each: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        lines = []
        for row in range(each):
            text = prose(1000 * file + row)
            if row % 10 == 3:
                text = prose(row)  # the same in every file
            if row % 10 == 7:
                text = prose(row, 40) + f" And number {file}."  # nearly the same in every file
            lines.append(json.dumps({"text": text, "source": f"s{row % 3}", "licence": "CC0-1.0"}))
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def documents(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(out.glob("corpus-*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
        found += [json.loads(line) for line in data.decode().split("\n") if line]
    return found


def shards(out: Path) -> dict[str, bytes]:
    names = ("corpus-*.jsonl.zst", "stats.json", "manifest.json")
    return {path.name: path.read_bytes() for name in names for path in sorted(out.glob(name))}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("corpus") / "source")


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    out = source.parent / "built"
    build([source], out, config=FAST)
    return out


def test_what_is_in_it(built: Path) -> None:
    found = documents(built)
    stats = read_stats(built)
    assert len(found) == stats["contents"]["documents"] == stats["account"]["left"][0]
    assert stats["account"]["entered"]["read"][0] == 160
    assert {reason: count for reason, (count, _) in stats["account"]["dropped"].items()} == {
        "duplicate.text": 12,
        "duplicate.near": 12,
    }
    assert len(found) == 160 - 24
    assert stats["clusters"] == {"4": 4}
    assert set(found[0]) >= {"text", "source", "licence", "id", "language"}
    assert {one["source"] for one in found} == {"s0", "s1", "s2"}
    assert len({one["id"] for one in found}) == len(found)
    assert len(list(built.glob("corpus-*"))) > 2
    assert not (built / "work").exists()
    assert stats["contents"]["tokens"] > 0


def test_the_seed_decides_the_order_and_nothing_else(built: Path, source: Path, tmp_path: Path) -> None:
    build([source], tmp_path / "other", config=dataclasses.replace(FAST, seed=FAST.seed + 1))
    texts, others = ([one["text"] for one in documents(out)] for out in (built, tmp_path / "other"))
    assert texts != others
    assert sorted(texts) == sorted(others)
    lines = [line for file in sorted(source.iterdir()) for line in file.read_text(encoding="utf-8").splitlines()]
    as_written = [json.loads(line)["text"] for line in lines]
    assert texts != sorted(texts, key=as_written.index)


@pytest.mark.long
def test_any_number_of_workers_builds_the_same(source: Path, built: Path, tmp_path: Path) -> None:
    build([source], tmp_path / "out", config=FAST, workers=2)
    assert shards(tmp_path / "out") == shards(built)


SCRIPT = """
import sys
from gpt2.data.corpus import build
from tests.data.corpus.test_build import FAST

if __name__ == "__main__":
    build([sys.argv[1]], sys.argv[2], config=FAST, workers=int(sys.argv[3]))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_anywhere_and_begun_again(source: Path, built: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    root = Path(gpt2.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parents[3]}"}
    command = [sys.executable, str(tmp_path / "run.py"), str(source), str(out), str(workers)]
    for done in range(1, 4):  # killed as soon as one more task is done
        running = subprocess.Popen(command, env=environment, start_new_session=True)
        while running.poll() is None and len(list(out.glob("work/read-*/account.json"))) < done:
            time.sleep(0.01)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("work/read-*/account.json")}
    assert finished or (out / "manifest.json").exists()
    build([source], out, config=FAST, keep_work=True)
    for path, when in finished.items():
        assert path.stat().st_mtime_ns == when, "a finished task was done again"
    assert shards(out) == shards(built)


def test_parts_on_several_machines_build_the_same(
    source: Path, built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gpt2")
    for part in (2, 3, 1):
        assert build([source], tmp_path / "out", config=FAST, part=(part, 3)) == {}
        assert f"part {part} of 3 is read; once all are, the same without a part builds the corpus" in caplog.text
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("work/read-*/account.json")}
    assert len(times) == 4
    build([source], tmp_path / "out", config=FAST, keep_work=True)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert shards(tmp_path / "out") == shards(built)
    with pytest.raises(DataError, match="There is no part 4 of 3"):
        build([source], tmp_path / "b", config=FAST, part=(4, 3))
    assert not (tmp_path / "b").exists()
    with pytest.raises(DataError, match="min_characters was 50 and is now 60"):
        build([source], tmp_path / "out", config=CorpusConfig(rules=(), min_characters=60), part=(1, 3))


def test_a_worker_that_dies_costs_only_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt2.data.workers import run_tasks

    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # a process started anew imports `die_once` by its name
    mark = tmp_path / "died"
    results = dict(run_tasks(die_once, [(number, str(mark)) for number in range(6)], workers=2, start=nothing))
    assert mark.exists()
    assert sorted(results.values()) == list(range(6))


def nothing() -> None:
    pass


def die_once(task: tuple[int, str]) -> int:
    number, mark = task
    if number == 3 and not Path(mark).exists():
        Path(mark).touch()
        os._exit(9)
    return number


def test_a_finished_corpus_is_left_alone(source: Path, built: Path) -> None:
    before = shards(built)
    slower = dataclasses.replace(FAST, fetch=FetchSettings(delay_seconds=9.0))  # is no other corpus
    assert build([source], built, config=slower)["contents"] == read_stats(built)["contents"]
    names = sorted(built.iterdir())
    assert build([source], built, config=slower, part=(1, 2)) == {}  # a machine that comes late
    assert sorted(built.iterdir()) == names
    assert shards(built) == before


def test_another_configuration_is_refused_with_the_difference(source: Path, built: Path, tmp_path: Path) -> None:
    other = CorpusConfig(rules=(), min_characters=60, near_duplicates=MinHash(), shard_bytes=20_000)
    with pytest.raises(DataError, match="min_characters was 50 and is now 60"):
        build([source], built, config=other)


def test_the_page_holds_the_funnel_and_the_handfuls(built: Path) -> None:
    text = write_page(built, read_stats(built)).read_text(encoding="utf-8")
    for part in ("duplicate.near", "Step by step", "Near duplicates", "Kept by language", "CC0-1.0"):
        assert part in text
    assert "<script" not in text
    assert len(read_samples(built, "duplicate.near")) == 6
    with pytest.raises(DataError, match=r"Did you mean 'duplicate\.near'"):
        read_samples(built, "duplicate.nar")


def test_weights(source: Path, tmp_path: Path) -> None:
    plain = CorpusConfig(rules=(), min_characters=0, near_duplicates=None, duplicates=False)
    counts = {}
    for weight in (0.0, 0.5, 1.0, 2.5):
        build([SourceSpec(path=str(source), weight=weight)], tmp_path / str(weight), config=plain)
        found = documents(tmp_path / str(weight))
        counts[weight] = len(found)
        assert len({one["id"] for one in found}) == len(found)
    assert counts[0.0] == 0
    assert counts[1.0] == 160
    assert 55 < counts[0.5] < 105
    assert 2.3 * 160 < counts[2.5] < 2.7 * 160


def test_decontamination(source: Path, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": prose(1005).upper()}), encoding="utf-8")
    config = CorpusConfig(rules=(), near_duplicates=None, decontaminate=(str(tmp_path / "test.jsonl"),))
    stats = build([source], tmp_path / "out", config=config)
    assert stats["account"]["dropped"]["test_sets"][0] == 1
    assert prose(1005) not in {one["text"] for one in documents(tmp_path / "out")}


def page_of(text: str) -> str:
    menu = "".join(f"<li><a href='/{n}'>Link {n}</a></li>" for n in range(8))
    paragraphs = "".join(f"<p>{part}.</p>" for part in text.split(". "))
    return f"<html><head><title>T</title></head><body><ul>{menu}</ul><article>{paragraphs}</article></body></html>"


def test_pages_of_an_archive_and_of_a_folder(tmp_path: Path) -> None:
    from tests.data.corpus.test_archives import record

    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.html").write_text(page_of(prose(1, 40)), encoding="utf-8")
    archive = [
        record(f"https://{host}/x", page_of(prose(n + 5, 40))) for n, host in enumerate(["en.wikipedia.org", "b.org"])
    ]
    (pages / "b.warc.gz").write_bytes(b"".join(map(gzip.compress, archive)) + b"garbage")
    config = CorpusConfig(languages=("en",), language_confidence=0.1, rules=(), drop_wikipedia=True)
    stats = build([SourceSpec(path=str(pages), licence="CC0-1.0")], tmp_path / "out", config=config)
    found = documents(tmp_path / "out")
    assert {(one.get("url", ""), one["licence"]) for one in found} == {("", "CC0-1.0"), ("https://b.org/x", "CC0-1.0")}
    assert not any("Link 3" in one["text"] for one in found)
    assert stats["account"]["dropped"]["address.blocked"][0] == 1
    assert stats["account"]["damaged"] == 1


def test_what_cannot_be_is_said(tmp_path: Path, source: Path) -> None:
    with pytest.raises(DataError, match="no source was named"):
        build([], tmp_path / "a")
    if sys.platform != "win32":
        (tmp_path / "circle").symlink_to("circle")
        with pytest.raises(DataError, match="circle cannot be read: there is no such file or folder"):
            build([tmp_path / "circle"], tmp_path / "out")
    with pytest.raises(DataError, match="nowhere cannot be read: there is no such file or folder"):
        build([tmp_path / "nowhere"], tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds nothing that can be read\. Known are \.warc"):
        build([tmp_path / "empty"], tmp_path / "a")
    with pytest.raises(DataError, match="it has no name"):
        SourceSpec(path="")
    with pytest.raises(DataError, match=r"unknown kind 'wrac'\. Did you mean 'warc'"):
        SourceSpec(path="x", kind="wrac")
    with pytest.raises(DataError, match="it must lie between 0 and 1,000"):
        SourceSpec(path="x", weight=-1.0)
    with pytest.raises(DataError, match="that is not UTF-8"):
        SourceSpec(path="x", licence="\udcff")
    with pytest.raises(DataError, match="named twice among the sources"):
        build([source, source / "0.jsonl"], tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds mine\.txt, which no build left"):
        build([source], tmp_path / "full")
    with pytest.raises(ConfigError, match="no rule set 'gofer'"):
        build([source], tmp_path / "b", config=CorpusConfig(text_rules=("gofer",)))
    with pytest.raises(DataError, match="holds no finished corpus"):
        read_stats(tmp_path)


def test_files_of_unknown_kinds_in_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.docx", "c.odt", "d.jpg", "README.md", "e.txt.bz2"):
        (tmp_path / "in" / name).write_bytes(prose(1).encode())
    caplog.set_level("INFO", "gpt2")
    build([tmp_path / "in"], tmp_path / "out", config=FAST)
    said = "3 files of other kinds (.docx, .odt, .jpg); save documents as plain text (.txt) to have them read"
    assert f"skipped in {tmp_path / 'in'}: {said}" in caplog.messages
    caplog.clear()
    build([tmp_path / "in" / "a.txt"], tmp_path / "one", config=FAST)
    assert "skipped" not in caplog.text


def test_a_source_that_disappears_and_broken_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "source", files=2, each=5)
    with (source / "0.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": 3}\nnot json\n[1]\n' + json.dumps({"text": "\ud800 " + prose(77)}) + "\n")
    building = sys.modules["gpt2.data.corpus.build"]
    find = building.find_inputs

    def find_and_lose(specs: Any) -> Any:
        found = find(specs)
        (source / "1.jsonl").unlink()
        return found

    monkeypatch.setattr(building, "find_inputs", find_and_lose)
    stats = build([source], tmp_path / "out", config=FAST)
    assert stats["contents"]["documents"] == 6
    assert stats["account"]["damaged"] == 4
    assert any("1.jsonl, offset 0: the file is no longer there" in what for what in stats["account"]["damage"])
    lost = write_source(tmp_path / "named", files=2, each=5) / "1.jsonl"
    monkeypatch.setattr(building, "find_inputs", lambda specs: (find(specs), lost.unlink())[0])
    with pytest.raises(DataError, match=r"1\.jsonl is no longer there .* run again to go on"):
        build([lost.with_name("0.jsonl"), lost], tmp_path / "named out", config=FAST)
    assert any("0.jsonl, offset " in what and "line 7 is not JSON" in what for what in stats["account"]["damage"])


def test_a_full_disk_loses_nothing(source: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt2.data.corpus import runs

    plain, calls = runs.np.save, []

    def full(path: Any, array: Any) -> None:
        calls.append(path)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, array)

    monkeypatch.setattr(runs.np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        build([source], tmp_path / "out", config=FAST)
    monkeypatch.setattr(runs.np, "save", plain)
    assert len(list((tmp_path / "out" / "work").glob("read-*"))) == 1
    build([source], tmp_path / "out", config=FAST)
    assert shards(tmp_path / "out") == shards(built)


def test_a_task_that_fails_has_closed_its_part_before_the_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows removes no folder with an open file in it."""
    from gpt2.data.corpus import reading

    parts: list[Any] = []
    seen: list[bool] = []
    opened, removed = reading.PartWriter._open, shutil.rmtree

    def opening(writer: Any) -> Any:
        parts.append(opened(writer))
        return parts[-1]

    def removing(folder: Path, **settings: Any) -> None:
        seen.extend(part.closed for part in parts)
        removed(folder, **settings)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reading.PartWriter, "_open", opening)
    monkeypatch.setattr(reading.RunWriter, "add", full)
    monkeypatch.setattr(shutil, "rmtree", removing)
    with pytest.raises(OSError, match="No space left"):
        build([write_source(tmp_path / "in", files=1)], tmp_path / "out", config=FAST)
    assert seen and all(seen)


def test_nothing_left_is_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("too short", encoding="utf-8")
    stats = build([tmp_path / "a.txt"], tmp_path / "out")
    assert stats["contents"]["documents"] == 0
    assert stats["account"]["dropped"]["length"][0] == 1
    write_page(tmp_path / "out", stats)


@pytest.mark.long
def test_a_line_without_end_in_constant_memory(tmp_path: Path) -> None:
    from gpt2.data.corpus.sources import texts

    line = b'{"text": "' + b"a" * (1 << 20)
    compressor = zstandard.ZstdCompressor().compressobj()
    with (tmp_path / "bomb.jsonl.zst").open("wb") as file:
        file.write(compressor.compress(line))
        for _ in range(2047):  # 2 GB in about 200 kB
            file.write(compressor.compress(b"a" * (1 << 20)))
        file.write(compressor.compress(b'"}\n' + json.dumps({"text": prose(1)}).encode()))
        file.write(compressor.flush())
    damage: list[Any] = []
    pages = list(texts.read_jsonl(tmp_path / "bomb.jsonl.zst", damage.append, lambda n_bytes: None))
    assert [page.text for page in pages] == [prose(1)]
    assert "line 1 is longer than 67,108,864 bytes" in str(damage[0])


def test_configuration_files(tmp_path: Path) -> None:
    path = tmp_path / "corpus.toml"
    path.write_text(
        'languages = ["en", "de"]\nrules = ["gopher"]\n[near_duplicates]\nbands = 9\n'
        '[fetch]\ndelay_seconds = 2.5\nagent = "mine"\n'
        '[[source]]\npath = "a"\nweight = 2.0\n[[source]]\npath = "b"\nkind = "text"\nrules = []\n',
        encoding="utf-8",
    )
    config, sources = read_config(path)
    assert (config.languages, config.rules, config.near_duplicates) == (("en", "de"), ("gopher",), MinHash(bands=9))
    assert config.fetch == FetchSettings(delay_seconds=2.5, agent="mine")
    assert sources == [SourceSpec(path="a", weight=2.0), SourceSpec(path="b", kind="text", rules=())]
    path.write_text('languages = ["de"]\n', encoding="utf-8-sig")
    assert read_config(path)[0].languages == ("de",)
    for text, message in (
        ('langages = ["en"]', r"unknown key 'langages'\. Did you mean 'languages'"),
        ("languages = 3", "languages has the wrong type: got 3"),
        ("near_duplicates = {band = 3}", r"unknown key 'band'\. Did you mean 'bands'"),
        ("[[source]]\nweight = 2.0", "cannot be used"),
        ("[fetch]\ndelay = 2.0", r"fetch has an unknown key 'delay'\. Known are delay_seconds"),
        ("[fetch]\nagent = 2", "fetch: agent has the wrong type: got 2"),
        ("[[source]]\npath = 'a'\nkind = 'html5'", "Did you mean 'html'"),
        ("mask = 'some'", "mask must be web, all or none"),
        ("[[", "not readable TOML"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            read_config(path)
