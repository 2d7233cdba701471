"""The ids are those of the two originals: tiktoken's gpt2 and Hugging Face's GPT-2 tokenizer, and of known vectors."""

import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.tokenizer import Tokenizer, encode_file

needs_data = pytest.mark.skipif("GPT2_DATA" not in os.environ, reason="GPT2_DATA is not set: no known vectors")
needs_corpus = pytest.mark.skipif("GPT2_CORPUS" not in os.environ, reason="GPT2_CORPUS is not set: no corpus")

SCALARS = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
# What the pattern tells apart, and what lies near its borders.
ATOMS = ["a", "Z", "the", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u3000", "\u200b"]
ATOMS += ["'", "'s", "'S", "'ll", "'re", "’s", "1", "23", "½", "²", "٣", ".", "!?", "_", "-", "<|endoftext|>", "<|"]
ATOMS += ["é", "e\u0301", "ß", "你好", "。", "ไทย", "हिन्दी", "😀", "👩\u200d👩\u200d👧", "\U000f0000", "\U0001fae9"]
ATOMS += ["\x00", "\x7f", "\ufeff", "\ufffd"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(ATOMS), max_size=40).map("".join))


@pytest.fixture(scope="session")
def agree(tokenizer: Tokenizer, tiktoken_gpt2: tiktoken.Encoding, huggingface: tokenizers.Tokenizer):
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == tiktoken_gpt2.encode_ordinary(text)
        assert ids == huggingface.encode(text).ids
        assert tokenizer.decode(ids) == text

    return check


@needs_data
def test_known_vectors(tokenizer: Tokenizer) -> None:
    path = Path(os.environ["GPT2_DATA"], "expected", "tokenizer_vectors.json")
    vectors = json.loads(path.read_text(encoding="utf-8"))
    assert len(vectors) >= 90
    for vector in vectors:
        assert tokenizer.encode(vector["text"]) == vector["ids"], vector
        assert tokenizer.decode(vector["ids"]) == vector["text"], vector


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=TEXTS)
def test_random_text(agree, text: str) -> None:
    agree(text)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(parts=st.lists(TEXTS, max_size=5))
def test_special_tokens_where_they_are_asked_for(
    tokenizer: Tokenizer, tiktoken_gpt2: tiktoken.Encoding, parts: list[str]
) -> None:
    text = "<|endoftext|>".join(parts)
    assert tokenizer.encode(text, allow_special=True) == tiktoken_gpt2.encode(text, allowed_special="all")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(data=st.binary(max_size=64))
def test_random_bytes_decode_alike(tokenizer: Tokenizer, tiktoken_gpt2: tiktoken.Encoding, data: bytes) -> None:
    ids = [tiktoken_gpt2.encode_single_token(bytes((byte,))) for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == tiktoken_gpt2.decode(ids) == data.decode("utf-8", "replace")


def test_every_byte(agree) -> None:
    for byte in range(256):
        agree(bytes((byte,)).decode("latin-1"))
    agree(bytes(range(256)).decode("latin-1"))


def test_every_assigned_character_and_some_of_every_plane(agree) -> None:
    chosen = [chr(code) for code in SCALARS if code % 64 == 0 or unicodedata.category(chr(code)) not in ("Cn", "Co")]
    for start in range(0, len(chosen), 1 << 14):
        agree(" ".join(chosen[start : start + (1 << 14)]))


@pytest.mark.long
def test_every_character_among_others(agree) -> None:
    for start in range(0, len(SCALARS), 1 << 12):
        characters = map(chr, SCALARS[start : start + (1 << 12)])
        agree("".join(f"a{c}1{c}{c}! {c}" for c in characters))


def test_every_assigned_character_has_the_class_the_core_sees(tokenizer: Tokenizer) -> None:
    """Cuts go by Python's tables; wherever those know a character, they must not differ from the pattern's."""
    from gpt2.tokenizer.core import _compiled_module
    from gpt2.tokenizer.cuts import WHITE_SPACE, _character_class

    byte_ranks = {bytes((byte,)): byte for byte in range(256)}
    text = "".join(map(chr, SCALARS))

    def members(pattern: str) -> set[str]:
        """The characters that the core's own engine matches: what a pattern does not match has no ids."""
        core = _compiled_module().CoreBPE(byte_ranks, {}, pattern)
        return set(bytes(core.encode_ordinary(text)).decode("utf-8"))

    letters, numbers, white = members(r"\p{L}+"), members(r"\p{N}+"), members(r"\s+")
    assert white == WHITE_SPACE
    known = [c for c in text if c not in WHITE_SPACE and unicodedata.category(c) != "Cn"]
    assert len(known) > 280_000
    wrong = [c for c in known if _character_class(c) != ("L" if c in letters else "N" if c in numbers else "O")]
    assert wrong == []


def corpus_text(limit_bytes: int) -> Iterator[str]:
    import zstandard

    shard = Path(os.environ["GPT2_CORPUS"], "train-000.jsonl.zst")
    seen = 0
    with shard.open("rb") as file, zstandard.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            seen += len(text.encode())
            yield text
            if seen >= limit_bytes:
                return


@needs_corpus
def test_a_sample_of_the_corpus(agree) -> None:
    for text in corpus_text(1_000_000):
        agree(text)


@needs_corpus
@pytest.mark.long
def test_50_megabytes_of_the_corpus(agree, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = list(corpus_text(50_000_000))
    for text in texts:
        agree(text)
    file = tmp_path / "corpus"
    file.write_bytes("\n".join(texts).encode("utf-8"))
    whole = tokenizer.encode_array("\n".join(texts)).tobytes()
    for processes in (1, 2):
        assert b"".join(encode_file(tokenizer, file, processes=processes)) == whole
