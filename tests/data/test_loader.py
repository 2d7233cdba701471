"""Batches: every token once an epoch, the mixture in proportion, any point of a run reached from its cursor alone."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data import Batch, Cursor, Loader, Source, TokenStream, batches_in_order, write_shard
from gpt2.data.loader import permuted
from gpt2.errors import DataError, ShardError


def make_folder(folder: Path, ids: list[int], shard_lengths: list[int], tokenizer_hash: str = "h") -> Path:
    """A folder of shards with these ids, as `prepare` lays it out."""
    listed: dict[str, dict[str, object]] = {}
    at = 0
    for number, length in enumerate([*shard_lengths, len(ids) - sum(shard_lengths)]):
        name = f"train-{number:05d}.bin"
        write_shard(folder / name, ids[at : at + length], vocab_size=50257)
        listed[name] = {"split": "train", "tokens": length}
        at += length
    manifest = {"format": "token shards", "vocab_size": 50257, "tokenizer_hash": tokenizer_hash, "eot": 50256}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": listed}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Two sources whose ids are their places: 0 to 205 and 1000 to 1102."""
    root = tmp_path_factory.mktemp("sources")
    a = make_folder(root / "a", list(range(206)), [50, 1, 100])
    b = make_folder(root / "b", list(range(1000, 1103)), [])
    return [Source(folder=a, weight=3), Source(folder=b, weight=1)]


def loader(folders: list[Source], **changes: int) -> Loader:
    return Loader(folders, **{"seq_tokens": 4, "batch_sequences": 4, "seed": 1, "chunk_tokens": 8, **changes})


def run(loader: Loader, cursor: Cursor, steps: int) -> Iterator[Batch]:
    for _ in range(steps):
        batch = loader.batch(cursor)
        yield batch
        cursor = batch.cursor


def test_targets_are_the_inputs_one_place_on(folders: list[Source]) -> None:
    for batch in run(loader(folders), Cursor(), 20):
        assert batch.inputs.shape == batch.targets.shape == (4, 4)
        assert batch.inputs.dtype == np.int64
        assert (batch.inputs[:, 1:] == batch.targets[:, :-1]).all()
        following = batch.inputs[:, -1] + 1
        ring = np.where(following == 206, 0, np.where(following == 1103, 1000, following))
        assert (batch.targets[:, -1] == ring).all()


@given(stop=st.integers(0, 40), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_resumed_at_any_point_equals_uninterrupted(folders: list[Source], stop: int, seed: int) -> None:
    straight = list(run(loader(folders, seed=seed), Cursor(), 41))
    saved = json.dumps(straight[stop].cursor.to_json())
    again = list(run(loader(folders, seed=seed), Cursor.from_json(json.loads(saved)), 40 - stop))
    for one, other in zip(straight[stop + 1 :], again, strict=True):
        assert (one.inputs == other.inputs).all()
        assert (one.targets == other.targets).all()
        assert one.cursor == other.cursor


@given(
    n_tokens=st.integers(8, 100),
    seq_tokens=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
@settings(deadline=None, max_examples=50)
def test_an_epoch_has_every_chunk_once(
    tmp_path_factory: pytest.TempPathFactory, n_tokens: int, seq_tokens: int, seed: int, epoch: int
) -> None:
    folder = make_folder(tmp_path_factory.mktemp("epoch"), list(range(n_tokens)), [n_tokens // 3])
    loads = Loader([Source(folder=folder)], seq_tokens=seq_tokens, batch_sequences=1, seed=seed, chunk_tokens=8)
    whole = n_tokens // 8 * 8
    cursor = Cursor(tokens={folder.name: epoch * whole})
    seen = Counter(token for batch in run(loads, cursor, whole // seq_tokens) for token in batch.inputs.ravel())
    assert seen.total() == len(seen) == whole
    assert loads.epochs(cursor) == {folder.name: epoch}


def test_epochs_and_seeds_differ_in_order(folders: list[Source]) -> None:
    def epoch(seed: int, number: int) -> list[int]:
        cursor = Cursor(tokens={"a": 200 * number})
        return [int(batch.inputs[0, 0]) for batch in run(loader(folders[:1], seed=seed, batch_sequences=1), cursor, 50)]

    orders = [epoch(seed, number) for seed in (1, 2) for number in (0, 1, 2)]
    assert all(one != other for at, one in enumerate(orders) for other in orders[:at])
    assert all(order != sorted(order) for order in orders)


@given(start=st.integers(0, 10**6), steps=st.integers(1, 200), weight=st.floats(0.01, 100))
@settings(deadline=None)
def test_every_stretch_holds_the_mixture_in_proportion(
    folders: list[Source], start: int, steps: int, weight: float
) -> None:
    sources = [Source(folder=folders[0].folder, weight=weight), folders[1]]
    loads = Loader(sources, seq_tokens=4, batch_sequences=1, seed=1, chunk_tokens=8)
    cursors = [batch.cursor for batch in run(loads, Cursor(sequences=start), steps)]
    drawn = cursors[-1].tokens.get("a", 0) // 4
    assert abs(drawn - steps * weight / (1 + weight)) <= 3


def test_the_ranks_share_the_global_batch(folders: list[Source]) -> None:
    cursor = Cursor()
    for _ in range(10):
        whole = loader(folders).batch(cursor)
        for world in (1, 2, 4):
            parts = [loader(folders, rank=rank, world=world).batch(cursor) for rank in range(world)]
            assert (np.concatenate([part.inputs for part in parts]) == whole.inputs).all()
            assert (np.concatenate([part.targets for part in parts]) == whole.targets).all()
            assert all(part.cursor == whole.cursor for part in parts)
        cursor = whole.cursor


def test_other_batch_sizes_draw_the_same_sequences(folders: list[Source]) -> None:
    by_four = np.concatenate([batch.inputs for batch in run(loader(folders), Cursor(), 12)])
    by_three = np.concatenate([batch.inputs for batch in run(loader(folders, batch_sequences=3), Cursor(), 16)])
    assert (by_four == by_three).all()


@given(steps=st.integers(0, 20), short=st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_longer_sequences_go_on_without_a_token_twice(folders: list[Source], steps: int, short: int) -> None:
    first = list(run(loader(folders[:1], seq_tokens=short, batch_sequences=1), Cursor(), steps))
    cursor = first[-1].cursor if first else Cursor()
    left = (200 - cursor.tokens.get("a", 0)) // 8
    second = list(run(loader(folders[:1], seq_tokens=8, batch_sequences=1), cursor, left))
    seen = Counter(token for batch in (*first, *second) for token in batch.inputs.ravel())
    assert max(seen.values(), default=1) == 1
    assert seen.total() >= 200 - 8
    # what is left of the epoch comes in the order in which long sequences alone would have brought it
    alone = [batch.inputs for batch in run(loader(folders[:1], seq_tokens=8, batch_sequences=1), Cursor(), 25)]
    assert all((batch.inputs == wanted).all() for batch, wanted in zip(second[::-1], alone[::-1], strict=False))


def test_a_source_left_out_for_a_while_goes_on_where_it_was(folders: list[Source]) -> None:
    both = list(run(loader(folders), Cursor(), 5))[-1].cursor
    after = list(run(loader(folders[:1]), both, 5))[-1].cursor
    assert after.tokens["b"] == both.tokens["b"]
    assert after.sequences == both.sequences + 20


def test_the_order_never_changes_between_versions(folders: list[Source]) -> None:
    data = b"".join(batch.inputs.tobytes() for batch in run(loader(folders, seed=42), Cursor(), 100))
    assert hashlib.sha256(data).hexdigest()[:16] == "198d32a683aa9432"


@given(count=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_a_keyed_permutation_is_one(count: int, key: int) -> None:
    assert sorted(permuted(index, count, key) for index in range(count)) == list(range(count))


def test_permutations_put_every_item_everywhere() -> None:
    places = Counter(permuted(0, 16, key * 7919) for key in range(16_000))
    assert len(places) == 16
    assert all(abs(count - 1000) < 200 for count in places.values())  # six standard deviations
    neighbours = sum(abs(a - b) == 1 for a, b in pairwise(permuted(i, 10_000, 3) for i in range(10_000)))
    assert neighbours < 12  # two are expected


@pytest.mark.parametrize(("seq_tokens", "batch_sequences"), [(1, 1), (4, 3), (7, 2), (205, 4), (300, 4), (8, 100)])
def test_validation_has_every_token_once_in_order(folders: list[Source], seq_tokens: int, batch_sequences: int) -> None:
    batches = list(
        batches_in_order(TokenStream.open(folders[0].folder), seq_tokens=seq_tokens, batch_sequences=batch_sequences)
    )
    assert np.concatenate([batch.inputs.ravel() for batch in batches]).tolist() == list(range(205))
    assert np.concatenate([batch.targets.ravel() for batch in batches]).tolist() == list(range(1, 206))
    assert all(batch.inputs.shape <= (batch_sequences, seq_tokens) for batch in batches)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seq_tokens": 3}, "must divide a chunk of 8"),
        ({"seq_tokens": 0}, "must divide a chunk of 8"),
        ({"seq_tokens": 16}, "must divide a chunk of 8"),
        ({"chunk_tokens": 0}, "must divide a chunk"),
        ({"batch_sequences": 0}, "cannot be shared"),
        ({"world": 3}, "rank 0 of 3"),
        ({"rank": 1}, "rank 1 of 1"),
        ({"chunk_tokens": 104}, "103 tokens, a chunk 104"),
    ],
)
def test_what_cannot_be_drawn_is_refused(folders: list[Source], changes: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        loader(folders, **changes)


def test_sources_that_cannot_be_mixed_are_refused(folders: list[Source], tmp_path: Path) -> None:
    other = make_folder(tmp_path / "c", list(range(50)), [], tokenizer_hash="another")
    for sources, said in (
        ([], "no source was named"),
        ([folders[0], folders[0]], "one name"),
        ([folders[0], Source(folder=other)], "vocabularies differ"),
        ([Source(folder=folders[0].folder, weight=0)], "above 0"),
        ([Source(folder=folders[0].folder, weight=float("nan"))], "above 0"),
        ([Source(folder=folders[0].folder, weight=float("inf"))], "above 0"),
    ):
        with pytest.raises(DataError, match=said):
            loader(sources)
    with pytest.raises(ShardError, match="no validation split"):
        loader([Source(folder=folders[0].folder, split="validation")])


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"sequences": 1},
        {"sequences": "x", "tokens": {}},
        {"sequences": 1, "tokens": 3},
        {"sequences": -1, "tokens": {}},
        {"sequences": 1, "tokens": {"books": -1}},
        [],
        None,
    ],
)
def test_what_is_not_a_cursor_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="cursor"):
        Cursor.from_json(value)
