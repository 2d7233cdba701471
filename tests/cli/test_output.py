"""Text on a terminal is safe; text in a pipe is untouched."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.cli import output
from gpt2.cli.status_line import StatusLine

HOSTILE = "\x1b]0;title\x07 \x1b[31mred\x9b31m \u202eback\u202c \r\x08\x7f\x00"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text())
def test_nothing_a_terminal_obeys_is_left(text: str) -> None:
    shown = output.visible(text)
    assert not [c for c in shown if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066"]
    assert shown.count("\n") == text.count("\n")


def test_controls_are_shown_not_swallowed() -> None:
    assert output.visible("a\x1b[31mb\x9b\u202e\x7f\r") == "a␛[31mb\\x9b\\u202e␡␍"
    assert output.visible("tab\tline\nétoile 😀 שלום") == "tab\tline\nétoile 😀 שלום"


def test_a_terminal_gets_safe_text_and_a_pipe_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in [(Terminal(), output.visible(HOSTILE)), (io.StringIO(), HOSTILE)]:
        monkeypatch.setattr("sys.stdout", stream)
        output.write(HOSTILE)
        assert stream.getvalue() == expected


@given(st.text())
def test_json_is_safe_and_still_json(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stream = io.StringIO()
        patch.setattr("sys.stdout", stream)
        output.write_json({"text": text})
    assert json.loads(stream.getvalue()) == {"text": text}
    assert output.visible(stream.getvalue()) == stream.getvalue()


def test_the_columns_of_a_table_stand_below_each_other_beside_wide_characters() -> None:
    rows = [("piece", "rank", "note"), ("天气", "7", "a"), ("e\u0301", "8", "b"), ("🍕", "9", "c")]
    assert output.table(rows, right=[1]).split("\n") == [
        "piece  rank  note",
        "天气      7  a",
        "e\u0301         8  b",
        "🍕        9  c",
    ]


def test_columns_align_and_controls_cannot_break_them() -> None:
    assert output.table([("piece", "rank"), ("\n\x1b", "7"), ("word", "12345")], right=[1]) == (
        "piece   rank\n␊␛         7\nword   12345"
    )


@pytest.mark.parametrize(
    ("name", "shown"), [("天气.txt", "天气.txt 1"), ("abcd.txt", "abcd.txt 1"), ("xe\u0301", "xe\u0301 1 of 15")]
)
def test_how_far_a_verb_is_stays_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, shown: str
) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "11")
    caplog.set_level(logging.INFO, "gpt2")
    StatusLine().show(lambda: f"{name} 1 of 15")
    assert stream.getvalue() == f"\r\x1b[K{shown}"


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colour(
    *, terminal: bool, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert output.colour_wanted(Terminal() if terminal else io.StringIO()) is expected


def test_an_error_is_red_on_a_terminal_and_never_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    output.complain("error: no \x1b[5mfile: here")
    assert stream.getvalue() == "\x1b[31m\x1b[1merror\x1b[0m: no ␛[5mfile: here\n"


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ({}, ["note", "warning: careful"]),
        ({"quiet": True}, ["warning: careful"]),
        ({"debug": True}, ["debug: detail", "note", "warning: careful"]),
    ],
)
def test_messages_by_level(choice: dict[str, bool], shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    messages = output.Messages()
    log = logging.getLogger("gpt2")
    before = log.level, log.propagate, list(log.handlers)
    with messages.shown():
        messages.choose(**choice)
        logging.getLogger("gpt2.room").debug("detail")
        log.info("note")
        log.warning("careful")
    assert capsys.readouterr().err.splitlines() == shown
    assert (log.level, log.propagate, list(log.handlers)) == before
