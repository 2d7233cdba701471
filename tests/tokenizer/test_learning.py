"""A learned vocabulary: the tokenizers library's merges, our files, and everyone's ids."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.errors import MissingExtraError, TokenizerError
from gpt2.tokenizer import Tokenizer, learn

ENGLISH = "The cat sat on the mat; it's the cat's mat. They'll sit there till 12:30, 你好 世界 😀 said.\n" * 3


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return learn([ENGLISH[:100], ENGLISH[100:]], 300)


def test_order_of_ids(learned: Tokenizer) -> None:
    assert learned.vocab_size == 300
    assert learned.eot == 299
    assert learned.pieces(range(256)) == Tokenizer.published().pieces(range(256))
    assert all(len(piece) > 1 for piece in learned.pieces(range(256, 299)))


def test_it_encodes_every_text(learned: Tokenizer) -> None:
    assert len(learned.encode(ENGLISH)) < len(ENGLISH.encode()) / 2
    for text in (ENGLISH, "ÿ\x00 never seen \U0010ffff"):
        assert learned.decode(learned.encode(text)) == text


def test_how_the_text_arrives_changes_nothing(learned: Tokenizer) -> None:
    assert learn([ENGLISH], 300).hash == learned.hash
    assert learn(list(ENGLISH), 300).hash == learned.hash


def test_end_of_text_parts_documents_and_is_not_learned_from() -> None:
    tokenizer = learn(["ab<|endoftext|>ab<|endoftext|>ab"], 300)
    assert tokenizer.pieces(range(256, tokenizer.vocab_size)) == [b"ab", b"<|endoftext|>"]


def test_a_small_text_gives_fewer_ids() -> None:
    assert learn(["abcabc"], 5000).vocab_size < 300


def test_a_word_without_end_is_learned_from_in_pieces(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given, real = list[str](), tokenizers.Tokenizer.train_from_iterator

    def train(learner: tokenizers.Tokenizer, texts: Iterator[str], trainer: object) -> None:
        given[:] = texts
        real(learner, given, trainer)

    monkeypatch.setattr(tokenizers.Tokenizer, "train_from_iterator", train)
    text = ENGLISH * 50 + "." + "ab" * 5000 + " " * 5000 + ENGLISH
    for parts in ([text], list(text)):
        with caplog.at_level(logging.INFO, "gpt2"):
            learn(parts, 300)
        assert "".join(given) == text
        assert [len(each) for each in given if set(each) <= set("ab")] == [4096, 4096, 1808]
        assert max(map(len, given)) == 4096
    assert caplog.text.count("runs on for") == caplog.text.count("runs on for 10,000 characters") == 2  # once for each


def test_what_cannot_be_learned_from() -> None:
    with pytest.raises(TokenizerError, match="256 ids cannot be learned"):
        learn(["text"], 256)
    with pytest.raises(TokenizerError, match="there is no text"):
        learn(["", "<|endoftext|>"], 300)
    with pytest.raises(TokenizerError, match="surrogate"):
        learn(["a\ud800"], 300)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"gpt2kit\[train\]"):
        learn(["text"], 300)


def test_the_library_is_imported_only_to_learn() -> None:
    code = "import sys, gpt2.tokenizer as t; t.Tokenizer.published().encode('x'); print('tokenizers' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_saved_and_read_again(learned: Tokenizer, tmp_path: Path) -> None:
    learned.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).hash == learned.hash
    (tmp_path / "vocab.json").unlink()
    again = Tokenizer.from_folder(tmp_path)
    assert again.hash == learned.hash
    assert list(again.vocabulary.merges()) == list(learned.vocabulary.merges())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=st.one_of(st.text(), st.text(alphabet="the cat's mon 12:\n你", max_size=60)))
def test_the_library_gives_the_same_ids(learned: Tokenizer, library: tokenizers.Tokenizer, text: str) -> None:
    assert learned.encode(text) == library.encode(text).ids


@pytest.fixture(scope="module")
def library(learned: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    folder = tmp_path_factory.mktemp("learned")
    learned.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("which", ["published", "learned"])
def test_transformers_loads_what_is_saved_without_a_warning(
    which: str, learned: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    ours = learned if which == "learned" else Tokenizer.published()
    ours.save(tmp_path)
    with caplog.at_level(logging.INFO):
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert theirs.model_max_length == 1024
    assert theirs.eos_token_id == ours.eot
    assert len(theirs) == ours.vocab_size
    for text in (ENGLISH, " a  b\n\n", "", "ÿ\x00😀"):
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.encode("a<|endoftext|>b") == ours.encode("a<|endoftext|>b", allow_special=True)
