"""The published tokenizer, and the two originals built from its own files, without a network."""

from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tokenizers

from gpt2.tokenizer import Tokenizer

# As OpenAI wrote it; the package uses an equivalent, faster one.
ORIGINAL_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


@pytest.fixture(scope="session")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published vocabulary's files."""
    folder = tmp_path_factory.mktemp("published")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiktoken_gpt2(saved: Path) -> tiktoken.Encoding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # no cache: it reads the two files and nothing else
        ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(str(saved / "merges.txt"), str(saved / "vocab.json"))
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding("gpt2", pat_str=ORIGINAL_PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="session")
def huggingface(saved: Path) -> tokenizers.Tokenizer:
    model = tokenizers.models.BPE.from_file(str(saved / "vocab.json"), str(saved / "merges.txt"))
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return built
