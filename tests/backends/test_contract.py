"""What `seam.py` promises, held against every backend.

A new backend joins by its name in `NAMES`; it may be opened in whatever way `backends.open` opens it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2 import backends
from gpt2.backends import NEXT_LOGITS, NOTHING, Backend, Patch, Result, Trace, Want, Work
from gpt2.backends.seam import Draw
from gpt2.checkpoint.weights import Weights
from gpt2.errors import BackendError, ContextError, GenerationError
from gpt2.generation import draws
from gpt2.model import reference

NAMES = ["reference", "torch", "native", "torch on a GPU"]

Define = Callable[[Sequence[int]], NDArray[np.float64]]
TOLERANCE = 1e-4  # of logits and log-probabilities, against float64
TEXT = [int(token) for token in np.random.default_rng(5).integers(97, size=200)]


def opened(name: str, weights: Weights) -> Backend:
    device = "cpu"
    if name == "torch on a GPU":
        if not pytest.importorskip("torch").cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")
        name, device = "torch", "cuda"
    try:
        return backends.open(
            weights, backend=name, device=device, form="fp32", threads=1
        )  # small matrices: more would wait for each other
    except BackendError as error:
        if name != "native":
            raise
        pytest.skip(str(error))  # tests/native demands that it is built where it can be


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest, weights: Weights) -> Iterator[Backend]:
    backend = opened(request.param, weights)
    yield backend
    backend.close()


@pytest.fixture(params=NAMES)
def tied(request: pytest.FixtureRequest, ties: Weights) -> Iterator[Backend]:
    backend = opened(request.param, ties)
    yield backend
    backend.close()


def one(backend: Backend, slot: int, tokens: Sequence[int], want: Want = NOTHING) -> Result:
    (result,) = backend.step([Work(slot=slot, tokens=tokens, want=want)])
    return result


def logits_of(backend: Backend, slot: int, tokens: Sequence[int], rows: int | None = None) -> NDArray[np.float32]:
    logits_RV = one(backend, slot, tokens, Want(rows=rows or len(tokens), logits=True)).logits_RV
    assert logits_RV is not None
    assert logits_RV.dtype == np.float32
    return logits_RV


def close(got: NDArray[np.float32] | None, wanted: NDArray[np.float64]) -> None:
    assert got is not None
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# --- what is computed ------------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_definition(backend: Backend, define: Define) -> None:
    close(logits_of(backend, backend.new(), TEXT[:48]), define(TEXT[:48]))


def test_only_the_wanted_rows_come_back(backend: Backend, define: Define) -> None:
    close(logits_of(backend, backend.new(), TEXT[:20], rows=3), define(TEXT[:20])[-3:])


@pytest.mark.parametrize("sizes", [(1,) * 40, (39, 1), (1, 39), (7, 13, 20), (32, 8), (5, 1, 1, 33)])
def test_reading_in_pieces_is_reading_at_once(backend: Backend, define: Define, sizes: tuple[int, ...]) -> None:
    slot, start = backend.new(), 0
    exact = define(TEXT[:40])
    for size in sizes:
        close(logits_of(backend, slot, TEXT[start : start + size]), exact[start : start + size])
        start += size
        assert backend.length(slot) == start


def test_work_of_unequal_length_in_one_step(backend: Backend, define: Define) -> None:
    texts = [TEXT[:1], TEXT[3:40], TEXT[50:53], TEXT[60:108], TEXT[7:9], TEXT[20:45]]
    held = [0, 5, 2, 0, 1, 20]
    slots = [backend.new() for _ in texts]
    backend.step(
        [Work(slot=s, tokens=text[:n]) for s, text, n in zip(slots, texts, held, strict=True) if n][::-1],
    )
    work = [
        Work(slot=slot, tokens=text[n:], want=Want(rows=len(text) - n, logits=True))
        for slot, text, n in zip(slots, texts, held, strict=True)
    ]
    for result, text, n in zip(backend.step(work), texts, held, strict=True):
        close(result.logits_RV, define(text)[n:])


def test_many_slots_decode_together(backend: Backend, define: Define) -> None:
    texts = [TEXT[n : n + 3 + 2 * n] for n in range(12)]
    slots = [backend.new() for _ in texts]
    backend.step([Work(slot=slot, tokens=text[:-2]) for slot, text in zip(slots, texts, strict=True)])
    for last in (-2, -1):
        order = range(len(slots)) if last == -2 else (5, 0, 11, 2, 7)
        results = backend.step([Work(slot=slots[n], tokens=[texts[n][last]], want=NEXT_LOGITS) for n in order])
        for n, result in zip(order, results, strict=True):
            close(result.logits_RV, define(texts[n])[last : len(texts[n]) + last + 1])


def test_different_wants_in_one_step(backend: Backend, define: Define) -> None:
    wants = [
        Want(rows=1, logits=True),
        NOTHING,
        Want(rows=4, best=3),
        Want(rows=5, targets=TEXT[1:6]),
        Want(rows=2, logits=True, best=5, targets=TEXT[4:6], trace=Trace(residual=(1,))),
        Want(rows=3, trace=Trace(residual=(0,))),
        Want(rows=2, best=4),
        Want(rows=1),
    ]
    slots = [backend.new() for _ in wants]
    results = backend.step([Work(slot=s, tokens=TEXT[:5], want=w) for s, w in zip(slots, wants, strict=True)])
    exact = define(TEXT[:5])
    for want, result in zip(wants, results, strict=True):
        assert (result.logits_RV is not None) == want.logits
        assert (result.best_ids_RK is not None) == (result.best_logprobs_RK is not None) == bool(want.best)
        for part in (result.target_logprobs_R, result.target_ranks_R, result.entropies_R):
            assert (part is not None) == (want.targets is not None)
        assert set(result.residual) == set(want.trace.residual if want.trace else ())
        assert result.attention == {}
        if want.logits:
            close(result.logits_RV, exact[-want.rows :])
        if result.best_ids_RK is not None:
            assert result.best_ids_RK.tolist() == np.argsort(-exact[-want.rows :])[:, : want.best].tolist()
        if result.target_logprobs_R is not None and want.targets is not None:
            logprobs = log_softmax(exact[-want.rows :])
            close(result.target_logprobs_R, logprobs[np.arange(want.rows), list(want.targets)])


@pytest.mark.parametrize("seed", range(6))
def test_any_history_equals_reading_anew(backend: Backend, define: Define, seed: int) -> None:
    """Random new, fork, truncate, free and step against a plain list of tokens for each slot."""
    rng = np.random.default_rng(seed)
    texts: dict[int, list[int]] = {}
    for _ in range(40):
        action = rng.choice(["new", "fork", "truncate", "free", "step", "step", "step"])
        slots = sorted(texts)
        slot = int(rng.choice(slots)) if slots else -1
        if action == "new" or not slots:
            slot = backend.new()
            assert slot not in texts
            texts[slot] = []
        elif action == "fork":
            new = backend.fork(slot)
            assert new not in texts
            texts[new] = list(texts[slot])
        elif action == "truncate":
            keep = int(rng.integers(len(texts[slot]) + 1))
            backend.truncate(slot, keep)
            del texts[slot][keep:]
        elif action == "free":
            backend.free(slot)
            del texts[slot]
        else:
            work: list[Work] = []
            for slot in rng.permutation(slots)[: rng.integers(1, len(slots) + 1)]:
                room = 48 - len(texts[slot])
                if room:
                    count = int(rng.integers(1, min(room, int(rng.choice([1, 3, 48]))) + 1))
                    tokens = rng.integers(97, size=count).tolist()
                    work.append(Work(slot=int(slot), tokens=tokens, want=Want(rows=count, logits=True)))
                    texts[slot] += tokens
            for piece, result in zip(work, backend.step(work), strict=True):
                close(result.logits_RV, define(texts[piece.slot])[-len(piece.tokens) :])
        assert {slot: backend.length(slot) for slot in texts} == {slot: len(text) for slot, text in texts.items()}


# --- slots -----------------------------------------------------------------------------------------------------------


def test_a_new_slot_is_empty_and_takes_a_whole_context(backend: Backend, define: Define) -> None:
    slot = backend.new()
    assert backend.length(slot) == 0
    one(backend, slot, TEXT[:47])
    close(logits_of(backend, slot, [TEXT[47]]), define(TEXT[:48])[-1:])
    assert backend.length(slot) == backend.config.n_positions


def test_a_fork_and_its_original_go_their_own_ways(backend: Backend, define: Define) -> None:
    slot = backend.new()
    one(backend, slot, TEXT[:10])
    other = backend.fork(slot)
    assert other != slot
    one(backend, slot, TEXT[20:25])
    close(logits_of(backend, other, TEXT[30:33]), define(TEXT[:10] + TEXT[30:33])[-3:])
    close(logits_of(backend, slot, TEXT[40:42]), define(TEXT[:10] + TEXT[20:25] + TEXT[40:42])[-2:])
    backend.free(slot)
    close(logits_of(backend, other, TEXT[50:52]), define(TEXT[:10] + TEXT[30:33] + TEXT[50:52])[-2:])


def test_truncating_forgets(backend: Backend, define: Define) -> None:
    slot = backend.new()
    one(backend, slot, TEXT[:30])
    for keep in (30, 12, 0):
        backend.truncate(slot, keep)
        assert backend.length(slot) == keep
    one(backend, slot, TEXT[:12])
    close(logits_of(backend, slot, TEXT[50:54]), define(TEXT[:12] + TEXT[50:54])[-4:])


def test_numbers_of_freed_slots_are_used_again(backend: Backend) -> None:
    slots = [backend.new() for _ in range(3)]
    assert len(set(slots)) == 3
    backend.free(slots[1])
    again = [backend.new() for _ in range(20)]
    assert slots[1] in again
    for slot in again:
        assert backend.length(slot) == 0


def test_memory_grows_with_the_tokens_and_is_given_back(backend: Backend) -> None:
    empty = backend.bytes()
    slots = [backend.new() for _ in range(8)]
    backend.step([Work(slot=slot, tokens=TEXT[:48]) for slot in slots])
    tokens_bytes = 8 * 48 * 2 * backend.config.n_layer * backend.config.n_embd * 4
    full = backend.bytes()
    assert empty + tokens_bytes <= full <= empty + 3 * tokens_bytes
    kept = 0 if backend.device == "cpu" else backend._pool._kept_bytes  # type: ignore[attr-defined]
    for slot in slots[1:]:
        backend.free(slot)
    assert backend.bytes() <= max(full // 2, kept)
    backend.free(slots[0])
    assert backend.bytes() <= max(empty, kept)


@pytest.mark.parametrize("n_tokens", [1, 5, 33, 48])
def test_what_a_slot_may_take_is_known_before(backend: Backend, n_tokens: int) -> None:
    held, foreseen = backend.bytes(), [backend.slot_bytes(n_tokens) for _ in range(3)]
    assert backend.bytes() == held
    for bound in foreseen:
        slot = backend.new()
        for token in TEXT[:n_tokens]:
            backend.step([Work(slot=slot, tokens=[token])])
        assert backend.bytes() - held <= bound
        backend.free(slot)
    assert foreseen[0] <= 4 * 48 * 2 * backend.config.n_layer * backend.config.n_embd * 4


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "want", "error", "seen"),
    [
        (TEXT[:40], NOTHING, ContextError, "48"),
        ([96, 97], NOTHING, GenerationError, "97"),
        ([-1], NOTHING, GenerationError, "-1"),
        ([3], Want(targets=[97]), GenerationError, "97"),
        ([3], Want(targets=[-5]), GenerationError, "-5"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_changes(
    backend: Backend, define: Define, tokens: list[int], want: Want, error: type[Exception], seen: str
) -> None:
    good, bad = backend.new(), backend.new()
    backend.step([Work(slot=good, tokens=TEXT[:5]), Work(slot=bad, tokens=TEXT[:10])])
    held = backend.bytes()
    with pytest.raises(error, match=seen):
        backend.step([Work(slot=good, tokens=TEXT[5:8], want=NEXT_LOGITS), Work(slot=bad, tokens=tokens, want=want)])
    assert (backend.length(good), backend.length(bad), backend.bytes()) == (5, 10, held)
    close(logits_of(backend, good, TEXT[5:8]), define(TEXT[:8])[-3:])
    close(logits_of(backend, bad, TEXT[10:12]), define(TEXT[:12])[-2:])


def test_an_empty_step_does_nothing(backend: Backend) -> None:
    assert backend.step([]) == []


# --- reading out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 40, 97])
def test_the_best_are_ordered_by_logit(backend: Backend, define: Define, count: int) -> None:
    result = one(backend, backend.new(), TEXT[:20], Want(rows=4, best=count))
    exact = define(TEXT[:20])[-4:]
    order = np.argsort(-exact, kind="stable")[:, :count]
    assert result.best_ids_RK is not None
    assert result.best_ids_RK.dtype == np.int32
    assert result.best_ids_RK.tolist() == order.tolist()
    close(result.best_logprobs_RK, np.take_along_axis(log_softmax(exact), order, 1))


def test_more_best_than_tokens_gives_them_all(backend: Backend) -> None:
    result = one(backend, backend.new(), TEXT[:2], Want(best=1000))
    assert result.best_ids_RK is not None
    assert sorted(result.best_ids_RK[0].tolist()) == list(range(97))


@pytest.mark.parametrize("count", [*range(1, 30), 97])
def test_of_equally_good_tokens_the_lower_id_comes_first(tied: Backend, count: int) -> None:
    result = one(tied, tied.new(), TEXT[:30], Want(rows=30, best=count, logits=True))
    assert result.logits_RV is not None
    assert result.best_ids_RK is not None
    assert (result.logits_RV[:, 10:30] == result.logits_RV[:, 10:11]).all()
    by_logit_then_id = np.argsort(-result.logits_RV, axis=1, kind="stable")[:, :count]
    assert result.best_ids_RK.tolist() == by_logit_then_id.tolist()


def test_ranks_count_what_comes_before(tied: Backend) -> None:
    targets = [10, 11, 29, 40, 41, 42, 0, 96, 9, 30, *TEXT[:20]]
    result = one(tied, tied.new(), TEXT[:30], Want(rows=30, targets=targets, logits=True))
    assert result.logits_RV is not None
    assert result.target_ranks_R is not None
    assert result.target_ranks_R.dtype == np.int32
    order = np.argsort(-result.logits_RV, axis=1, kind="stable")
    assert result.target_ranks_R.tolist() == [
        row.tolist().index(target) for row, target in zip(order, targets, strict=True)
    ]


def test_scores_are_those_of_a_float64_softmax(backend: Backend) -> None:
    result = one(backend, backend.new(), TEXT[:48], Want(rows=48, targets=TEXT[1:49], logits=True))
    assert result.logits_RV is not None
    logprobs = log_softmax(result.logits_RV.astype(np.float64))
    assert result.target_logprobs_R is not None
    assert result.entropies_R is not None
    np.testing.assert_allclose(result.target_logprobs_R, logprobs[np.arange(48), TEXT[1:49]], rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.entropies_R, -(np.exp(logprobs) * logprobs).sum(1), rtol=0, atol=1e-5)


# --- looking inside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "rows"), [(0, 30), (0, 1), (0, 7), (29, 1), (12, 5)])
def test_traces_are_the_definitions(backend: Backend, weights: Weights, held: int, rows: int) -> None:
    residual: dict[int, NDArray[np.float64]] = {}
    attention: dict[int, NDArray[np.float64]] = {}

    def look(site: str, layer: int, value: NDArray[np.float64]) -> NDArray[np.float64]:
        if site in ("residual", "attention"):
            (residual if site == "residual" else attention)[layer] = value
        return value

    exact = {name: weights.float32(name).astype(np.float64) for name in weights.names}
    reference.hidden(backend.config, exact, TEXT[:30], at=look)

    slot = backend.new()
    if held:
        one(backend, slot, TEXT[:held])
    trace = Trace(residual=(0, 2, 3), attention=((0, 0), (2, 1), (2, 2)))
    result = one(backend, slot, TEXT[held:30], Want(rows=rows, trace=trace))
    assert set(result.residual) == {0, 2, 3}
    assert set(result.attention) == {(0, 0), (2, 1), (2, 2)}
    for depth, got in result.residual.items():
        close(got, residual[depth][-rows:])
    for (layer, head), got in result.attention.items():
        close(got, attention[layer][head, -rows:])


def test_traces_of_several_slots_do_not_mix(backend: Backend, define: Define) -> None:
    slots = [backend.new(), backend.new()]
    one(backend, slots[1], TEXT[:6])
    trace = Trace(residual=(3,), attention=((1, 1),))
    first, second = backend.step(
        [Work(slot=slots[n], tokens=TEXT[6 : 6 + 3 + n], want=Want(rows=2, trace=trace)) for n in (0, 1)]
    )
    assert first.attention[1, 1].shape == (2, 3)
    assert second.attention[1, 1].shape == (2, 10)
    for result in (first, second):
        np.testing.assert_allclose(result.attention[1, 1].sum(1), 1.0, atol=1e-6)
        assert result.attention[1, 1][0, -1] == 0  # the last but one row does not see the last token
        assert result.residual[3].shape == (2, 21)
    assert not np.allclose(first.residual[3], second.residual[3], atol=1e-3)


@pytest.mark.parametrize(("held", "row"), [(0, 0), (0, 4), (0, 29), (11, 3), (29, 0)])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_patches_are_the_definitions(backend: Backend, weights: Weights, held: int, row: int, depth: int) -> None:
    value_D = np.random.default_rng(depth).normal(size=backend.config.n_embd).astype(np.float32)

    def exchange(site: str, layer: int, value: NDArray[np.float64]) -> NDArray[np.float64]:
        if site == "residual" and layer == depth:
            value[held + row] = value_D
        return value

    exact = {name: weights.float32(name).astype(np.float64) for name in weights.names}
    wanted = reference.hidden(backend.config, exact, TEXT[:30], at=exchange) @ exact["wte"].T

    slot, other = backend.new(), backend.new()
    if held:
        one(backend, slot, TEXT[:held])
    patches = (Patch(depth=depth, row=row, value_D=value_D),)
    want = Want(rows=30 - held, logits=True, trace=Trace(residual=(depth,)))
    work = [
        Work(slot=other, tokens=TEXT[: 30 - held], want=NEXT_LOGITS),  # beside it, untouched
        Work(slot=slot, tokens=TEXT[held:30], want=want, patches=patches),
    ]
    if not backend.intervenes:
        with pytest.raises(BackendError, match="patched"):
            backend.step(work)
        return
    untouched, result = backend.step(work)
    close(result.logits_RV, wanted[held:])
    np.testing.assert_array_equal(result.residual[depth][row], value_D)
    close(untouched.logits_RV, reference.logits(backend.config, exact, TEXT[: 30 - held])[-1:])
    close(logits_of(backend, slot, [TEXT[40]]), definition_after(weights, TEXT[:30], TEXT[40], exchange))


def definition_after(
    weights: Weights, tokens: list[int], last: int, exchange: Callable[..., NDArray[np.float64]]
) -> NDArray[np.float64]:
    exact = {name: weights.float32(name).astype(np.float64) for name in weights.names}
    hidden_TD = reference.hidden(weights.config, exact, [*tokens, last], at=exchange)
    return hidden_TD[-1:] @ exact["wte"].T


def test_a_backend_says_what_it_is(backend: Backend, weights: Weights) -> None:
    assert backend.name in NAMES
    assert backend.device in ("cpu", "cuda:0")
    assert backend.weights == "fp32"
    assert backend.config == weights.config
    assert backend.reason.startswith(f"{backend.name} backend on {backend.device} in fp32: asked for")


def test_a_closed_backend_refuses_every_way_to_a_step(backend: Backend) -> None:
    slot, other = backend.new(), backend.new()
    one(backend, slot, TEXT[:3])
    backend.close()
    for call in (
        backend.new,
        lambda: backend.fork(slot),
        lambda: backend.truncate(slot, 1),
        lambda: one(backend, slot, TEXT[:1]),
        lambda: one(backend, slot, TEXT[:1], Want(draw=Draw(keys=[1], temperature=1.0))),
    ):
        with pytest.raises(BackendError, match="closed"):
            call()
    backend.free(slot), backend.free(other)
    assert backend.bytes() == 0


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_draw_at_temperature_0_is_the_most_likely_token(backend: Backend, top_k: int):
    draw = Draw(keys=[0] * 4, temperature=0.0, top_k=top_k)
    for n, rows in ((9, 4), (1, 1)):  # one token and one row go another way through the engine
        want = Want(rows=rows, draw=replace(draw, keys=draw.keys[:rows]))
        result = one(backend, backend.new(), TEXT[:n], want)
        known = one(backend, backend.new(), TEXT[:n], Want(rows=rows, best=1))
        assert known.best_ids_RK is not None
        best_R = known.best_ids_RK[:, 0].tolist()
        if result.drawn_R is not None:
            assert result.drawn_R == best_R
        else:
            assert result.best_ids_RK is not None and result.logits_RV is None
            assert result.best_ids_RK.tolist() == [[token] for token in best_R]


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_draw_gives_the_token_or_what_it_is_drawn_from(backend: Backend, top_k: int):
    keys = [draws.key(5, 0, place) for place in range(4)]
    draw = Draw(keys=keys, temperature=1.0, top_k=top_k)
    result = one(backend, backend.new(), TEXT[:9], Want(rows=4, draw=draw))
    from_logits = Want(rows=4, best=top_k) if top_k else Want(rows=4, logits=True)
    known = one(backend, backend.new(), TEXT[:9], from_logits)
    for row, key in enumerate(keys):
        if top_k:
            assert known.best_ids_RK is not None and known.best_logprobs_RK is not None
            order = known.best_ids_RK[row].argsort()
            ids, logits = known.best_ids_RK[row][order], known.best_logprobs_RK[row][order]
        else:
            assert known.logits_RV is not None
            ids, logits = np.arange(backend.config.vocab_size), known.logits_RV[row]
        expected = draws.draw(key, ids, logits)
        if result.drawn_R is not None:
            assert result.drawn_R[row] == expected
        elif top_k:
            assert result.best_ids_RK is not None and known.best_ids_RK is not None
            assert result.best_ids_RK[row].tolist() == known.best_ids_RK[row].tolist()
        else:
            assert result.logits_RV is not None and known.logits_RV is not None
            np.testing.assert_array_equal(result.logits_RV[row], known.logits_RV[row])
    assert (result.drawn_R is not None) == (backend.name == "native" or backend.device != "cpu")


def test_what_is_wanted_beside_a_draw_comes_with_it(backend: Backend):
    """One token and one row that only draw go another way through the engine; these must not."""
    beside = Want(rows=1, logits=True, best=3, targets=[TEXT[1]])
    wanted = one(backend, backend.new(), TEXT[:1], beside)
    result = one(backend, backend.new(), TEXT[:1], replace(beside, draw=Draw(keys=[7], temperature=1.0, top_k=3)))
    for name in ("logits_RV", "best_ids_RK", "best_logprobs_RK", "target_logprobs_R", "target_ranks_R", "entropies_R"):
        np.testing.assert_array_equal(getattr(result, name), getattr(wanted, name))
