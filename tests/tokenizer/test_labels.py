"""Labels of tokens: whole characters where there are any, bytes where there are none, and no U+FFFD of our own."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.tokenizer import IncrementalDecoder, Tokenizer
from gpt2.tokenizer.labels import label, labels, unfinished

IDS = st.lists(st.one_of(st.integers(0, 255), st.integers(0, 50256)), max_size=60)


def test_the_last_token_of_a_character_shows_it_and_those_before_their_bytes(tokenizer: Tokenizer) -> None:
    assert labels(tokenizer, tokenizer.encode("Hi 東今🙂é\ufffd")) == (
        *(
            "Hi",
            r"\x20\xe6",
            r"\x9d",
            "東",
            r"\xe4\xbb",
            "今",
            r"\xf0\x9f",
            "🙂",
            "é",
            "\ufffd",
        ),  # the last was in the text
    )


def test_bytes_of_no_character_are_shown_as_such(tokenizer: Tokenizer) -> None:
    [e4], [bb], [letter] = ([tokenizer.vocabulary.tokens.index(piece)] for piece in (b"\xe4", b"\xbb", b"A"))
    assert labels(tokenizer, [e4, letter, bb, e4]) == (r"\xe4", "A", r"\xbb", r"\xe4")
    assert unfinished(tokenizer, [e4, letter, bb, e4]) == [b"\xe4", b"", b"", b"\xe4"]
    assert label(tokenizer, bb, after=b"\xe4\xbb") == "\u4efb"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ids=IDS)
def test_each_token_has_one_and_whole_pieces_are_their_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    shown = labels(tokenizer, ids)
    assert len(shown) == len(unfinished(tokenizer, ids)) == len(ids)
    for text, piece in zip(shown, tokenizer.pieces(ids), strict=True):
        if "\ufffd" not in piece.decode("utf-8", "replace"):
            assert text == piece.decode("utf-8")
        assert text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ids=IDS)
def test_what_is_unfinished_is_what_a_decoder_waits_with(tokenizer: Tokenizer, ids: list[int]) -> None:
    decoder = IncrementalDecoder(tokenizer)
    said = ""
    for n, (token, rest) in enumerate(zip(ids, unfinished(tokenizer, ids), strict=True), 1):
        said += decoder.push(token)
        assert tokenizer.decode(ids[:n]) == said + rest.decode("utf-8", "replace")
