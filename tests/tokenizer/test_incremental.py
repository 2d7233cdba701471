"""Decoding one id at a time loses nothing, invents nothing and never shows half a character."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.errors import TokenizerError
from gpt2.tokenizer import IncrementalDecoder, Tokenizer

# Ids anywhere, but often single bytes, of which broken characters are made.
IDS = st.lists(st.one_of(st.integers(0, 255), st.integers(0, 50256)), max_size=60)


def pushed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*map(decoder.push, ids), decoder.finish()]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(ids=IDS)
def test_the_pieces_joined_are_the_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(pushed(tokenizer, ids)) == tokenizer.decode(ids)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=st.text(max_size=40))
def test_whole_characters_come_at_once_and_halves_wait(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    shown, read = "", b""
    decoder = IncrementalDecoder(tokenizer)
    for token_id in ids:
        shown += decoder.push(token_id)
        read += tokenizer.token_bytes(token_id)
        whole, _ = codecs.utf_8_decode(read, "strict", False)  # all complete characters, and no incomplete one
        assert shown == whole
    assert decoder.finish() == ""
    assert shown == text


def test_three_tokens_of_one_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("𓀀")
    assert len(ids) == 4
    assert pushed(tokenizer, ids) == ["", "", "", "𓀀", ""]
    assert pushed(tokenizer, ids[:3]) == ["", "", "", "\ufffd"]
    assert pushed(tokenizer, [*ids[:3], *tokenizer.encode("a")]) == ["", "", "", "\ufffda", ""]


def test_a_finished_decoder_starts_anew(tokenizer: Tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    half = tokenizer.encode("😀")[0]
    assert (decoder.push(half), decoder.finish(), decoder.finish()) == ("", "\ufffd", "")
    assert decoder.push(15496) == "Hello"


def test_an_id_that_is_none_leaves_the_decoder_as_it_was(tokenizer: Tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    first, second = tokenizer.encode("😀")
    decoder.push(first)
    with pytest.raises(TokenizerError):
        decoder.push(50257)
    assert decoder.push(second) == " 😀".strip()
