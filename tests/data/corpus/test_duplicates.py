"""Near duplicates: the estimate, its spread on published pairs, and groups beside a plain search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gpt2.data.corpus.fates import KEPT, NEAR, REASONS, SAME_ADDRESS, SAME_TEXT, connect, decide, merge_groups
from gpt2.data.corpus.minhash import MinHash, Signer
from gpt2.data.corpus.reading import address_hash
from gpt2.data.corpus.runs import RunWriter
from gpt2.errors import ConfigError


def words(start: int, count: int) -> str:
    return " ".join(f"word{number}" for number in range(start, start + count))


def test_the_share_of_equal_hashes_estimates_jaccard() -> None:
    one, other = words(0, 504), words(100, 504)  # 500 shingles each, 400 in common
    jaccard = 400 / 600
    draws = [
        (signer.sign(one) == signer.sign(other)).mean()
        for seed in range(20)
        if (signer := Signer(MinHash(bands=16, rows=8, seed=seed)))
    ]
    error = np.sqrt(jaccard * (1 - jaccard) / 128)
    assert abs(np.mean(draws) - jaccard) < 3 * error / np.sqrt(20)
    assert 0.6 * error < np.std(draws) < 1.5 * error


def test_a_text_is_like_itself_and_short_ones_are_texts_too() -> None:
    signer = Signer(MinHash())
    for text in ("one", "one two three", words(0, 3000)):
        again = signer.sign(text.upper() + "!")
        assert again is not None
        assert (signer.sign(text) == again).all()
    assert signer.sign("?!") is None
    assert not (signer.bands(signer.sign("one two")) == signer.bands(signer.sign("one three"))).any()


@given(st.lists(st.integers(1, 40) | st.integers(2000, 5000), min_size=1, max_size=8), st.integers(1, 6))
def test_texts_signed_together_are_signed_as_alone(lengths: list[int], shingle_words: int) -> None:
    signer = Signer(MinHash(bands=2, rows=3, shingle_words=shingle_words))
    texts = [words(7 * place, length).split() for place, length in enumerate(lengths)]
    alone = [signer.sign(" ".join(text)) for text in texts]
    assert (signer.sign_all(texts) == np.array(alone)).all()


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="got 0 x 8"):
        MinHash(bands=0)
    assert MinHash().chance(0.8) == pytest.approx(0.924, abs=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(("bands", "rows", "expected", "spread"), [(14, 8, 4311.5, 16), (3, 3, 4622.4, 21)])
def test_published_pairs_are_flagged_as_often_as_expected(
    web: Path,
    rows_of: Callable[[str], list[dict[str, Any]]],
    bands: int,
    rows: int,
    expected: float,
    spread: float,
) -> None:
    texts: dict[tuple[str, str], str] = {
        (row["id"], "gold"): row["text"] for row in rows_of("extraction/scrapinghub-aeb.jsonl.zst")
    }
    for row in rows_of("extraction/scrapinghub-aeb.outputs.jsonl.zst"):
        texts |= {(row["id"], name): text for name, text in row["outputs"].items()}
    with (web / "neardup_pairs.tsv.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().decode().split("\n")[1:]
    pairs = [line.split("\t")[:3] for line in lines if line]
    flagged: list[int] = []
    seeds = 3
    for seed in range(seeds):
        signer = Signer(MinHash(bands=bands, rows=rows, seed=seed))
        signed = {
            key: None if (made := signer.sign(text)) is None else signer.bands(made) for key, text in texts.items()
        }
        flagged.append(
            sum(
                bool((one == other).any())
                for page, a, b in pairs
                if (one := signed[page, a]) is not None and (other := signed[page, b]) is not None
            )
        )
    # One set of functions serves all pairs of a page, so their errors go together: 36 pairs at most, taken as 9.
    assert abs(np.mean(flagged) - expected) < 3 * spread * 3 / np.sqrt(seeds)


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=4),
    st.integers(1, 30),
    st.booleans(),
)
def test_merged_runs_join_equal_keys(runs: list[list[int]], entries: int, ignore_zero: bool) -> None:
    scale = 2**61
    made, start, plain = [], 0, {}
    for run in runs:
        keys = np.array([key * scale for key in run], np.uint64)
        order = np.argsort(keys, kind="stable")
        made.append((keys[order], order, start))
        for at, key in enumerate(run):
            plain.setdefault(key, []).append(start + at)
        start += len(run)
    pairs = {
        (int(first), int(second))
        for firsts, seconds in merge_groups(made, ignore_zero=ignore_zero, range_entries=entries)
        for first, second in zip(firsts, seconds, strict=True)
    }
    wanted = {
        (members[0], other) for key, members in plain.items() for other in members[1:] if not (ignore_zero and key == 0)
    }
    assert pairs == wanted


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_chains_of_pairs_are_one_group(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a, b) for a, b in pairs if a < count and b < count]
    labels = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            labels[a] = labels[b] = min(labels[a], labels[b])
    array = np.array(pairs, np.int64).reshape(-1, 2)
    assert connect(count, array[:, 0], array[:, 1]).tolist() == labels


def write_task(folder: Path, documents: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    runs = RunWriter(MinHash())
    for address, text in documents:
        number = hash(text) & (2**64 - 1)
        runs.add(text.split(), address=address_hash(address), text=number, size=len(text), part=0)
    runs.save(folder)
    return folder


def test_of_each_group_the_one_with_the_most_words_stays(tmp_path: Path) -> None:
    documents = [
        ("http://a.example/x", words(0, 100)),
        ("https://www.a.example/x/#top", words(5000, 120)),  # the same address, and longer
        ("", words(9000, 80)),
        ("http://b.example/", words(9000, 80)),  # the same text
        ("http://c.example/", words(20000, 400)),
        ("http://d.example/", words(20000, 410)),  # nearly the same, and longer
        ("http://e.example/", words(40000, 50)),
    ]
    folders = [write_task(tmp_path / "a", documents[:3]), write_task(tmp_path / "b", documents[3:])]
    fates = decide(folders, exact=True, near=True)
    assert fates.fate.tolist() == [SAME_ADDRESS, KEPT, KEPT, SAME_TEXT, NEAR, KEPT, KEPT]
    assert fates.winner.tolist() == [1, 1, 2, 2, 5, 5, 6]
    assert fates.clusters == {2: 1}
    assert len(REASONS) == 4
    assert not decide(folders, exact=False, near=False).fate.any()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://www.Example.com/a/", "https://example.com/a#part", True),
        ("http://example.com/a?utm_source=x&b=1", "http://example.com/a?b=1", True),
        ("http://example.com/a?b=1&a=2", "http://example.com:80/a?a=2&b=1", True),
        ("http://example.com/a", "http://example.com/A", False),
        ("http://example.com/a?x=1", "http://example.com/a?x=2", False),
    ],
)
def test_addresses(one: str, other: str, same: bool) -> None:
    assert (address_hash(one) == address_hash(other)) is same
    assert address_hash("") == 0
    assert address_hash("http://[broken") != 0
