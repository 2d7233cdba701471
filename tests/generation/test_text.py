import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.generation.text import TextStream


class Bytes:
    """A tokenizer whose ids are indices into a list of byte strings."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def token_bytes(self, token: int) -> bytes:
        return self._pieces[token]


def stream(pieces: list[bytes], stops: list[str]) -> tuple[list[str], str | None]:
    """What is shown after each piece, and the stop."""
    text = TextStream(Bytes(pieces), stops)  # type: ignore[arg-type]
    shown: list[str] = []
    for token in range(len(pieces)):
        new, stop = text.push(token)
        shown.append(new)
        if stop is not None:
            return shown, stop
    new, stop = text.finish()
    return [*shown, new], stop


def plain(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: character by character, the first stop to be complete ends the text; of several the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "stop"),
    [
        (["a", "b"], [], ["a", "b", ""], None),
        (["one", " END", " two"], ["END"], ["one", " "], "END"),
        (["one E", "N", "D two"], ["END"], ["one ", "", ""], "END"),
        (["one E", "N", "X two"], ["END"], ["one ", "", "ENX two", ""], None),
        (["one EN"], ["END"], ["one ", "EN"], None),
        (["aab", "aac"], ["aac"], ["aab", ""], "aac"),
        (["aa", "ac"], ["aac"], ["", "a"], "aac"),
        (["abcd"], ["abcd", "bc"], ["a"], "bc"),  # complete first
        (["abc"], ["c", "bc"], ["a"], "bc"),  # complete together: the longest
        (["ab", "c"], ["abd", "bc"], ["", "a"], "bc"),  # the longer beginning fails, the shorter stop completes
        (["\n", "\n", "x"], ["\n\n"], ["", ""], "\n\n"),
    ],
)
def test_examples(pieces: list[str], stops: list[str], shown: list[str], stop: str | None):
    assert stream([piece.encode() for piece in pieces], stops) == (shown, stop)


def test_a_stop_inside_and_at_the_end_of_split_characters():
    euro = "€".encode()
    assert stream([b"5 ", euro[:1], euro[1:2], euro[2:] + b" off"], ["€"]) == (["5 ", "", "", ""], "€")
    assert stream([b"5", euro[:2], euro[2:], b"!"], ["€!"]) == (["5", "", "", ""], "€!")
    assert stream([b"5", euro[:2]], ["€"]) == (["5", "", "\N{REPLACEMENT CHARACTER}"], None)
    assert stream([b"5", euro[:2]], ["\N{REPLACEMENT CHARACTER}"]) == (["5", "", ""], "\N{REPLACEMENT CHARACTER}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    text=st.text("ab€", max_size=12),
    stops=st.lists(st.text("ab€", min_size=1, max_size=4), max_size=4),
    cuts=st.sets(st.integers(0, 36)),
)
def test_any_cut_of_any_text_stops_where_the_whole_does(text: str, stops: list[str], cuts: set[int]):
    data = text.encode()
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(borders)]
    shown, stop = stream(pieces, stops)
    assert ("".join(shown), stop) == plain(text, stops)


def test_before_the_minimum_length_nothing_stops(toy: SimpleNamespace):
    text = TextStream(toy.Tokenizer(), ["ab"])
    assert [text.push_unstoppable(token) for token in b"abab"] == ["a", "b", "a", "b"]
    assert text.push(ord("b")) == ("b", None)  # "ab" began too early to count
    assert text.push(ord("a")) == ("", None)
    assert text.push(ord("b")) == ("", "ab")
