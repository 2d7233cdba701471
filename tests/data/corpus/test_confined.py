"""A document that holds a parser, fills the memory or ends the process costs only itself."""

import faulthandler
import os
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycld2", reason="needs the extra corpus")

from tests.data.corpus.test_archives import record
from tests.data.corpus.test_books_and_dumps import dump, read, write_book
from tests.data.corpus.test_build import page_of, prose

from gpt2.data.corpus import CorpusConfig, build, confined
from gpt2.data.corpus.sources import mediawiki
from gpt2.data.corpus.sources.epub import read_epub
from gpt2.errors import MissingExtraError


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))  # the other process imports what follows by name
    confined.begin()
    yield
    confined.end()


# Parsers


def shout(text: str, end: str = "") -> str:
    return text.upper() + end


def tell_process(text: str) -> str:
    return str(os.getpid())


def compute_for_ever(text: str) -> str:
    while True:
        pass


def swell(text: str) -> str:
    held: list[bytearray] = []
    while True:
        held.append(bytearray(1 << 20))


def fail(text: str) -> str:
    return str(1 // len(text[:0]))


def die_once(text: str) -> str:
    if not Path(text).exists():
        Path(text).touch()
        os._exit(9)
    return "done"


def die_of_hostile(text: str, *_: Any) -> str:
    if "Hostile" in text:
        os._exit(9)
    return text


def ask(parse: Any) -> str | None:
    return confined.confined(parse, "x")


@pytest.mark.usefixtures("apart")
def test_any_text_comes_through_and_one_process_answers() -> None:
    for text in ("", "a\n\0b", "é“𝄞\ud800", "x" * 1_000_000):
        assert confined.confined(shout, text, "!\udfff") == text.upper() + "!\udfff"
        assert confined.confined(shout, text) == text.upper()  # the very same again, which is not sent again
    assert ask(tell_process) == ask(tell_process) != str(os.getpid())


def test_without_another_process_all_is_parsed_here() -> None:
    assert ask(tell_process) == str(os.getpid())


@pytest.mark.usefixtures("apart")
@pytest.mark.skipif(sys.platform == "win32", reason="by the clock there")
def test_a_parser_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(tell_process)
    with monkeypatch.context() as patch:
        patch.setattr(confined, "SECONDS", 0.01)
        assert ask(compute_for_ever) is None
    assert ask(tell_process) != before
    assert ask(shout) == "X"


def test_where_there_are_no_timers_the_clock_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, bool]] = []
    monkeypatch.delattr(signal, "setitimer", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, *, exit: bounds.append((seconds, exit)))
    confined._bound(60.0, 0)
    assert bounds == [(60.0, True)]


@pytest.mark.usefixtures("apart")
@pytest.mark.skipif(sys.platform != "linux", reason="no other system bounds the memory")
def test_a_parser_that_takes_more_and_more_memory_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MEMORY_BYTES", 64 << 20)
    assert ask(swell) is None
    assert ask(shout) == "X"


@pytest.mark.usefixtures("apart")
def test_a_process_killed_from_outside_costs_no_document(tmp_path: Path) -> None:
    assert confined.confined(die_once, str(tmp_path / "died")) == "done"
    process = confined._here[0]._running
    assert process is not None
    process.kill()
    process.wait()
    assert ask(shout) == "X"


@pytest.mark.usefixtures("apart")
def test_a_parser_that_fails_is_no_hostile_document() -> None:
    with pytest.raises(confined.ParsingError, match="ZeroDivisionError"):
        ask(fail)
    assert ask(shout) == "X"


@pytest.mark.usefixtures("apart")
def test_an_interrupted_question_is_not_answered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pipe: object) -> None:
        raise KeyboardInterrupt

    assert ask(shout) == "X"
    with monkeypatch.context() as patch:
        patch.setattr(confined, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(tell_process)
    assert ask(shout) == "X"


def test_a_process_that_does_not_start_drops_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    confined.begin()
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(confined.ParsingError, match="did not start"):
        ask(shout)
    confined.end()


@pytest.mark.parametrize("step", ["skim", "extract_text"])
@pytest.mark.usefixtures("apart")
def test_a_hostile_page_is_dropped_by_name_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    texts = [prose(1, 40), "Hostile. " + prose(2, 40), prose(3, 40)]
    records = [record(f"https://a.org/{n}", page_of(text)) for n, text in enumerate(texts)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    monkeypatch.setattr(f"gpt2.data.corpus.extract.{step}", die_of_hostile)
    stats = build([tmp_path / "a.warc"], tmp_path / "out", config=CorpusConfig(rules=(), near_duplicates=None))
    assert stats["contents"]["documents"] == 2
    assert stats["account"]["dropped"]["html.too_costly"][0] == 1
    (sample,) = stats["account"]["samples"]["html.too_costly"]
    assert (sample["address"], sample["detail"]) == ("https://a.org/1", confined.TOO_COSTLY)
    assert not confined._here, "a build leaves no process"


@pytest.mark.usefixtures("apart")
def test_a_hostile_article_is_told_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xml").write_bytes(dump(("Cat", "0", "Hostile."), ("Dog", "0", "A dog.")))
    monkeypatch.setattr(mediawiki, "article_text", die_of_hostile)
    pages, damage = read(mediawiki.read_mediawiki, tmp_path / "a.xml")
    assert [page.text for page in pages] == ["A dog."]
    assert f"the article 'Cat' is left out: {confined.TOO_COSTLY}" in damage[0]


@pytest.mark.usefixtures("apart")
def test_a_parser_that_fails_does_not_make_a_book_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.data.corpus.sources.epub.chapter_text", fail)
    with pytest.raises(confined.ParsingError, match="ZeroDivisionError"):
        read(read_epub, write_book(tmp_path / "a.epub"))


def test_without_its_parser_a_book_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resiliparse", None)
    with pytest.raises(MissingExtraError, match="resiliparse"):
        read(read_epub, write_book(tmp_path / "a.epub"))


@pytest.mark.usefixtures("apart")
def test_a_hostile_chapter_is_told_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_book(tmp_path / "a.epub")
    with zipfile.ZipFile(path, "a") as book:
        book.writestr("OPS/lost.xhtml", "Hostile.")
    monkeypatch.setattr("gpt2.data.corpus.sources.epub.chapter_text", die_of_hostile)
    pages, damage = read(read_epub, path)
    assert "The beginning." in pages[0].text
    assert "The end." in pages[0].text
    assert len(damage) == 1
    assert f"the chapter OPS/lost.xhtml is left out: {confined.TOO_COSTLY}" in damage[0]
