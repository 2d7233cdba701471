"""Word n-grams as numbers, and the Bloom filter over them, beside plain sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.data.bloom import BloomFilter
from gpt2.data.ngrams import WordHashes, hash_ngrams, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, it's said -- sat; 42.5!", "the cat it s said sat 42 5"),
        ("snake_case\tand\nÉTÉ", "snake case and été"),
        ("", ""),
        ("?! …", ""),
    ],
)
def test_words_are_lower_cased_and_alphanumeric(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 8))
def test_equal_ngrams_have_equal_numbers_and_others_not(words: list[str], n: int) -> None:
    plain = [" ".join(words[at : at + n]) for at in range(len(words) - n + 1)]
    numbers = hash_ngrams(WordHashes().of(words), n).tolist()
    assert len(numbers) == len(plain)
    assert len(set(numbers)) == len(set(plain)) == len(set(zip(numbers, plain, strict=True)))


def test_numbers_are_the_same_everywhere() -> None:
    assert hash_ngrams(WordHashes().of(["to", "be"]), 2).tolist() == [2387459660148788729]


@pytest.mark.parametrize("rate", [1e-1, 1e-2, 1e-3])
def test_a_filter_errs_at_most_at_its_rate(rate: float) -> None:
    draw = np.random.default_rng(0)
    members = draw.integers(0, 1 << 64, 20_000, np.uint64)
    strangers = draw.integers(0, 1 << 64, 400_000, np.uint64)
    bloom = BloomFilter(members.size, rate=rate)
    bloom.add(members)
    assert bloom.find(members).tolist() == list(range(members.size))
    wrong = bloom.find(strangers).size / strangers.size
    assert wrong < rate + 4 * np.sqrt(rate / strangers.size)
    assert wrong == pytest.approx(bloom.false_positive_rate, rel=0.3)


@pytest.mark.parametrize("members", [0, 1, 1000, 100_000])
def test_the_rate_of_the_paper(members: int) -> None:
    bloom = BloomFilter(members)
    bloom.add(np.random.default_rng(1).integers(0, 1 << 64, members, np.uint64))
    assert bloom.false_positive_rate < 1e-8
