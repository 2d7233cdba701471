"""Cutting a text changes no id: on text made to trap it, at every place and in blocks of every size."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.cuts import WHITE_SPACE, blocks, is_cut, last_cut, regroup

END = "<|endoftext|>"
ATOMS = ["a", "ab" * 9, " ", "  ", "\n", "\r\n", "\t", "\x1c", "\x85", "\xa0", "\u3000", "'", "'s", "s", "'ll", "l"]
ATOMS += ["’", "1", "23", "½", ".", "!?", "é", "\u0301", "你好", "。", "😀", "\ue000", "\U0001fae9", "\u0378"]
ATOMS += ["<|", "|>", END]
TEXTS = st.lists(st.sampled_from(ATOMS), max_size=40).map("".join)
thorough = settings(derandomize=True, deadline=None, max_examples=200)


def joined(tokenizer: Tokenizer, parts: list[str], *, allow_special: bool = False) -> list[int]:
    return [i for part in parts for i in tokenizer.encode(part, allow_special=allow_special)]


@thorough
@given(text=TEXTS)
def test_every_cut_is_safe(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    for i in range(1, len(text)):
        if is_cut(text, i):
            assert joined(tokenizer, [text[:i], text[i:]]) == ids, (text[:i], text[i:])


@thorough
@given(text=TEXTS, size=st.integers(1, 30))
def test_blocks_keep_the_ids(tokenizer: Tokenizer, text: str, size: int) -> None:
    parts = list(blocks(text, size))
    assert "".join(parts) == text
    assert joined(tokenizer, parts) == tokenizer.encode(text)


@thorough
@given(text=TEXTS, arriving=st.integers(1, 20), size=st.integers(1, 30), special=st.booleans())
def test_regrouping_keeps_the_ids(tokenizer: Tokenizer, text: str, arriving: int, size: int, special: bool) -> None:
    texts = [text[i : i + arriving] for i in range(0, len(text), arriving)]
    parts = list(regroup(texts, size, (END,) if special else ()))
    assert "".join(parts) == text
    assert joined(tokenizer, parts, allow_special=special) == tokenizer.encode(text, allow_special=special)


def test_cuts_are_where_the_pattern_lets_them_be() -> None:
    def cuts(text: str) -> list[int]:
        return [i for i in range(1, len(text)) if is_cut(text, i)]

    assert cuts("one two") == [3]
    assert cuts("one   two") == [3, 5]  # before the run, and before the space that belongs to the word
    assert cuts("one  ") == [3]  # whether the last space belongs to a word is not known yet
    assert cuts("a1.b") == [1, 2, 3]
    assert cuts("it's") == [2]  # not between ' and s
    assert cuts("aaaa") == []
    assert cuts("你好。好") == [2, 3]
    assert cuts("a\u0378b") == []  # unassigned: a later Unicode may call it a letter


def test_no_cut_leaves_a_space_before_a_special_token_to_text_that_comes() -> None:
    assert last_cut("a  <|endoftext|>", 0, 2) == 2
    assert last_cut("a  <|endoftext|>", 0, 2, ["<|endoftext|>"]) == 1


def test_white_space_is_that_of_unicode() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
    assert set(WHITE_SPACE) == {c for c in every if c.isspace()} - set("\x1c\x1d\x1e\x1f")


def test_ordinary_text_is_cut_close_to_where_it_is_wanted() -> None:
    text = "The quick brown fox, it's said, jumps over 13 lazy dogs. " * 1000
    parts = list(blocks(text, 1000))
    assert all(990 <= len(part) <= 1000 for part in parts[:-1])
    assert last_cut(text, 0, 500) > 490


def test_regrouping_holds_one_part_at_a_time() -> None:
    """However long the text, what waits is less than a part and what arrives."""
    read = yielded = most_waiting = 0

    def arriving():
        nonlocal read
        for _ in range(1000):
            read += 500
            yield "word " * 100

    for part in regroup(arriving(), 2000):
        most_waiting = max(most_waiting, read - yielded)
        yielded += len(part)
    assert read == yielded == 500_000
    assert most_waiting <= 2500


def test_a_long_word_is_looked_at_once(monkeypatch) -> None:
    """The search for a cut does not begin anew with each part that arrives."""
    from gpt2.tokenizer import cuts

    looked = 0
    original = cuts.is_cut

    def counting(text: str, i: int) -> bool:
        nonlocal looked
        looked += 1
        return original(text, i)

    monkeypatch.setattr(cuts, "is_cut", counting)
    assert list(regroup(["a" * 1000] * 100, 1000)) == ["a" * 100_000]
    assert looked <= 100_000
    looked = 0
    assert list(blocks("a" * 100_000, 1000)) == ["a" * 100_000]
    assert looked <= 101_000
