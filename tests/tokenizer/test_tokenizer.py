"""What a tokenizer promises of itself; that its ids are GPT-2's is in test_originals.py."""

import dataclasses
import pickle
import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpt2.errors import TokenizerError
from gpt2.tokenizer import Tokenizer, plain


def test_the_example_of_the_interface(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.decode([15496, 995]) == "Hello world"
    assert tokenizer.vocab_size == 50257
    assert tokenizer.eot == 50256


def test_tokenizers_of_one_vocabulary_are_equal_and_one_key(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again, read = pickle.loads(pickle.dumps(tokenizer)), Tokenizer.from_folder(tmp_path)
    assert tokenizer == Tokenizer.published() == again == read
    assert len({tokenizer, again, read}) == 1
    special = {"<|endoftext|>": 50256, "!": 0}  # other ids of "!" where it is asked for
    other = Tokenizer(dataclasses.replace(tokenizer.vocabulary, special=special))
    assert tokenizer != other
    assert tokenizer != tokenizer.hash
    assert repr(tokenizer) == f"Tokenizer(vocab_size=50257, eot=50256, hash='{tokenizer.hash[:8]}…')"


def test_empty_text_has_no_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.encode("", allow_special=True) == []
    assert tokenizer.encode_array("").tolist() == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.offsets([]) == []


def test_every_byte_is_a_token_and_every_token_has_its_bytes(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    assert len(set(pieces)) == tokenizer.vocab_size
    assert {bytes((byte,)) for byte in range(256)} == set(pieces[:256])
    assert [tokenizer.token_bytes(i) for i in (0, 220, 50256)] == [b"!", b" ", b"<|endoftext|>"]


def test_special_tokens_are_parsed_only_when_asked(tokenizer: Tokenizer) -> None:
    text = "a<|endoftext|>b<|endoftext|><|endoftext|>"
    plain = tokenizer.encode(text)
    assert 50256 not in plain
    assert tokenizer.encode(text, allow_special=True) == [64, 50256, 65, 50256, 50256]
    assert tokenizer.encode_array(text, allow_special=True).tolist() == [64, 50256, 65, 50256, 50256]
    assert tokenizer.decode(plain) == tokenizer.decode([64, 50256, 65, 50256, 50256]) == text
    assert tokenizer.encode("<|endoftext|", allow_special=True) == tokenizer.encode("<|endoftext|")


def test_a_special_token_may_be_the_first_id_and_the_longest_word_is_meant(tokenizer: Tokenizer) -> None:
    published = tokenizer.vocabulary
    first = Tokenizer(
        dataclasses.replace(
            published,
            tokens=[published.tokens[-1], *published.tokens[:-1], b"zq", b"zqx"],
            special={"<|endoftext|>": 0, "zq": 50257, "zqx": 50258},
        )
    )
    text = "a<|endoftext|>zqxzq"
    [a] = first.encode("a")
    assert first.encode(text, allow_special=True) == [a, 0, 50258, 50257]
    assert first.encode_array(text, allow_special=True).tolist() == [a, 0, 50258, 50257]


def test_text_beside_a_special_token_is_encoded_as_if_alone(tokenizer: Tokenizer) -> None:
    # Two spaces before a word are one and the word's own; before the end of a text they are one token of two.
    for left, right in [("  ", "x"), ("a  ", "  b"), ("\n\n", "\n\n"), ("'", "s")]:
        expected = [*tokenizer.encode(left), 50256, *tokenizer.encode(right)]
        assert tokenizer.encode(f"{left}<|endoftext|>{right}", allow_special=True) == expected


def test_a_surrogate_is_refused_and_its_position_named(tokenizer: Tokenizer) -> None:
    for text in ["ab\ud800c", "ab\udfff", "ab\ud83d\ude00"]:
        for encode in (tokenizer.encode, tokenizer.encode_array):
            with pytest.raises(TokenizerError, match=r"position 2 is the surrogate U\+D"):
                encode(text)
    long = "word " * 50_000 + "\udc80"
    with pytest.raises(TokenizerError, match=r"position 250000 is the surrogate U\+DC80"):
        tokenizer.encode(long)


@pytest.mark.parametrize("bad", [-1, 50257, 2**40, "1", 1.0, None])
def test_an_id_that_is_none_is_named(tokenizer: Tokenizer, bad: object) -> None:
    with pytest.raises(TokenizerError, match=r"at position 1 is not an id .* 0 to 50256"):
        tokenizer.decode([0, bad, 50256])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TokenizerError):
        tokenizer.token_bytes(bad)  # pyright: ignore[reportArgumentType]


def test_ids_may_be_any_integers(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(np.array([15496, 995], dtype=np.uint16)) == "Hello world"
    assert tokenizer.decode(iter((15496, np.int64(995)))) == "Hello world"


def test_bytes_that_are_no_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("😀")[:1]
    assert tokenizer.decode(ids) == "\ufffd"
    assert tokenizer.decode(ids, errors="ignore") == ""
    assert tokenizer.decode_bytes(ids) == "😀".encode()[:3]
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(ids, errors="strict")


def test_offsets_and_pieces_are_those_of_the_bytes(tokenizer: Tokenizer) -> None:
    text = "Grüße, 世界 😀!"
    ids = tokenizer.encode(text)
    data = text.encode()
    assert [data[start:end] for start, end in tokenizer.offsets(ids)] == tokenizer.pieces(ids)
    assert tokenizer.offsets(ids)[0][0] == 0
    assert tokenizer.offsets(ids)[-1][1] == len(data)


def test_list_array_batch_and_buffer_agree(tokenizer: Tokenizer) -> None:
    texts = ["Hello world", "", "  \n 😀<|endoftext|>"]
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == expected
    assert [tokenizer.encode_array(text).tolist() for text in texts] == expected
    assert tokenizer.encode_array(texts[0]).dtype == np.uint32
    allowed = [tokenizer.encode(text, allow_special=True) for text in texts]
    assert tokenizer.encode_batch(texts, allow_special=True) == allowed


@pytest.mark.parametrize(
    ("letter", "length_bytes"),
    [("a", 1_000_000), (" ", 1_000_000)] + [(letter, 100_000) for letter in "\n=0'é你\u3000\U000e0080"],
)
def test_very_long_runs_are_exact(tokenizer: Tokenizer, letter: str, length_bytes: int) -> None:
    """No quadratic merging, and no run of spaces for which the pattern's engine runs out of memory."""
    run = letter * (length_bytes // len(letter.encode()))
    ids = tokenizer.encode(f"x {run} x")
    assert tokenizer.decode(ids) == f"x {run} x"
    assert tokenizer.encode_array(f"x {run} x").tolist() == ids
    short = f"x {run[:40_000]} x"
    assert tokenizer.encode(short) == tokenizer._core.encode_ordinary(short)


def test_long_text_is_encoded_in_blocks_with_the_same_ids(tokenizer: Tokenizer) -> None:
    text = "It's 1 o'clock;  they'll come\n\n at 12:30.\t你好,世界 " * 3000
    assert tokenizer.encode(text) == tokenizer._core.encode_ordinary(text)


def test_the_hash_is_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.hash == "a7e060b5d51f1c77c088a2a59761123402c55319441203d56454c13feb308954"
    assert Tokenizer.published().hash == tokenizer.hash


def test_it_can_be_sent_to_another_process(tokenizer: Tokenizer) -> None:
    tokenizer.encode("the core is built now")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("Hello world") == [15496, 995]
    assert copy.hash == tokenizer.hash


def test_threads_may_share_it() -> None:
    shared = Tokenizer.published()
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(shared.encode("Hello world " * 500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Tokenizer.published().encode("Hello world " * 500)] * 8


def test_the_original_library_can_be_imported_beside_it(tokenizer: Tokenizer) -> None:
    tokenizer.encode("the core is loaded")
    import tiktoken
    import tiktoken._tiktoken

    assert sys.modules["tiktoken._tiktoken"].CoreBPE is tiktoken._tiktoken.CoreBPE
    encoding = tiktoken.Encoding("x", pat_str=".", mergeable_ranks={b"a": 0}, special_tokens={})
    assert encoding.encode("aa") == [0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_first_short_text_is_encoded_as_the_core_encodes_it(tokenizer: Tokenizer, seed: int) -> None:
    words = random.Random(seed)
    ranks = tokenizer.vocabulary.ranks()
    kinds = [
        *map(chr, range(128)),
        "ing",
        " the",
        "'ll",
        "'re",
        "'S",
        "  ",
        "\n\n",
        "2019",
        " antidisestablish",
        "\r\n ",
    ]
    for _ in range(500):
        text = "".join(words.choices(kinds, k=words.randrange(40)))
        assert plain.encode(text, ranks) == tokenizer._core.encode_ordinary(text), text


def test_only_the_first_text_goes_without_the_core() -> None:
    tokenizer = Tokenizer.published()
    assert tokenizer.encode("Once upon a time") == [7454, 2402, 257, 640]
    assert "_core" not in vars(tokenizer)
    assert tokenizer.encode("Once upon a time") == [7454, 2402, 257, 640]
    assert "_core" in vars(tokenizer)


@pytest.mark.parametrize("text", ["caf\u00e9", "a" * (plain.MOST_CHARACTERS + 1)])
def test_other_first_texts_go_to_the_core(text: str) -> None:
    tokenizer = Tokenizer.published()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "_core" in vars(tokenizer)
