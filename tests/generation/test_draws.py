import numpy as np
import pytest

from gpt2.generation import draws

IDS = np.arange(50257)


def absorb(state: int, word: int) -> int:
    """The definition in the module's docstring, in plain integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15 * (word + 1)) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_splitmix64_known_answers():
    # The first outputs of SplitMix64 seeded with 1234567, as published with its reference code.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert draws.bits(1234567, np.arange(4)).tolist() == expected


def test_frozen_answers():
    assert draws.key(0, 0, 0) == 2558736989570252433
    assert draws.key(2**64 - 1, 7, 1023) == 11348940402302013113
    assert draws.bits(draws.key(42, 1, 17), np.array([0, 1, 50256])).tolist() == [
        97526346284644511,
        10856556992353152794,
        17407760407084867325,
    ]
    np.testing.assert_allclose(
        draws.gumbel(draws.key(42, 1, 17), np.array([0, 1, 50256])),
        [-1.6568024134229091, 0.6346544231538819, 2.8477990292183692],
        rtol=1e-13,
    )


@pytest.mark.parametrize("words", [(0, 0, 0, 0), (1, 2, 3, 4), (2**64 - 1, 1023, 10**6, 50256), (5, 0, 2**40, 1)])
def test_bits_are_the_documented_construction(words: tuple[int, ...]):
    state = 0
    for word in words:
        state = absorb(state, word)
    *above, token = words
    assert draws.bits(draws.key(*above), np.array([token])).tolist() == [state]


def test_uniforms_are_never_0_or_1(monkeypatch: pytest.MonkeyPatch):
    for extreme in (0, 2**64 - 1):
        monkeypatch.setattr(draws, "bits", lambda key, ids, value=extreme: np.array([value], np.uint64))
        (u,) = draws.uniforms(0, np.array([0]))
        assert 0 < u < 1
        assert np.isfinite(draws.gumbel(0, np.array([0]))).all()


def test_any_integer_type_of_ids_gives_the_same_bits():
    for dtype in (np.int32, np.int64, np.uint16, np.uint64):
        assert (draws.bits(9, IDS[:100].astype(dtype)) == draws.bits(9, IDS[:100])).all()


def test_draws_follow_the_distribution():
    probabilities = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
    logits = np.log(probabilities).astype(np.float32)
    n = 20_000
    counts = np.zeros(6)
    for position in range(n):
        counts[draws.draw(draws.key(3, 0, position), np.arange(6), logits)] += 1
    chi_square = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum()
    assert chi_square < 20.5  # 99.9 % point of 5 degrees of freedom


@pytest.mark.parametrize("axis", ["seed", "sample", "position"])
def test_neighbouring_keys_are_independent(axis: str):
    n = 64
    words = [{"seed": 1, "sample": 2, "position": 3, axis: i} for i in range(n)]
    u = np.array([draws.uniforms(draws.key(**w), np.arange(4096)) for w in words])
    correlations = np.corrcoef(u)[np.triu_indices(n, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4096)  # 5 sigma; 2,016 pairs
    along = np.corrcoef(u.T[:256])[np.triu_indices(256, 1)]  # between token ids, over the axis
    assert abs(along.mean()) < 0.01
    histogram = np.histogram(u, 64, (0, 1))[0]
    assert ((histogram - u.size / 64) ** 2 / (u.size / 64)).sum() < 103.4  # 99.9 % point of 63 degrees


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 12.0])
@pytest.mark.parametrize("ids", [IDS, IDS[5:], np.delete(IDS, [2, 30_000])], ids=["all", "from 5 on", "with gaps"])
def test_pruning_never_changes_the_draw(ids: np.ndarray, scale: float):
    rng = np.random.default_rng(0)
    for position in range(40):
        logits = (rng.standard_normal(len(ids)) * scale - 30).astype(np.float32)
        key = draws.key(5, 1, position)
        plain = int(ids[np.argmax(logits.astype(np.float64) + draws.gumbel(key, ids))])
        assert draws.draw(key, ids, logits) == plain


def test_pruning_with_impossible_tokens_and_one_certain():
    logits = np.full(50257, -np.inf, np.float32)
    logits[[77, 40_000]] = 0, 1
    drawn = {draws.draw(draws.key(1, 0, position), IDS, logits) for position in range(50)}
    assert drawn == {77, 40_000}
    logits[77] = 90
    assert draws.draw(draws.key(1, 0, 0), IDS, logits) == 77


def test_a_draw_depends_on_the_survivors_scores_alone():
    """What the filters removed, and where the row begins, changes nothing: so a draft and its target agree."""
    logits = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    key = draws.key(8, 0, 11)
    drawn = draws.draw(key, np.arange(1000), logits)
    some = np.union1d(np.arange(0, 1000, 7), drawn)
    assert draws.draw(key, some, logits[some] + np.float32(64)) == drawn


def test_equal_scores_go_to_the_lower_id(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(draws, "gumbel", lambda key, ids: np.zeros(len(ids)))
    assert draws.draw(0, np.array([4, 9, 11]), np.array([1, 2, 2], np.float32)) == 9
