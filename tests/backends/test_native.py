"""The native engine behind the seam: against the definition, and the same bits whatever the batch."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.backends.native import NativeBackend
from gpt2.backends.reference import ReferenceBackend
from gpt2.backends.seam import NEXT_LOGITS, NOTHING, Draw, Result, Trace, Want, Work
from gpt2.checkpoint.forms import int8_round, int8_scale
from gpt2.checkpoint.int4 import to_int4
from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.weights import StoredArray, Weights
from gpt2.config import ModelConfig
from gpt2.errors import BackendError, ContextError
from gpt2.generation import Sampling, draws, filters
from gpt2.generation.sampler import Sampler
from gpt2.machine import physical_cores, usable_cores
from gpt2.model import reference
from gpt2.native.interface import Wanted
from gpt2.native.library import Engine, Library

FORMS = ("fp32", "bf16", "int8", "int4")
# head widths 64, 16, 7, 20, 1 and 129; odd vocabularies; an MLP not four times the width; one head; one position
CONFIGS = [
    ModelConfig(n_layer=2, n_head=2, n_embd=128, n_positions=150, vocab_size=1000),
    ModelConfig(n_layer=2, n_head=3, n_embd=48, n_positions=200, vocab_size=517),
    ModelConfig(n_layer=3, n_head=5, n_embd=35, n_positions=100, vocab_size=101, n_inner=77),
    ModelConfig(n_layer=1, n_head=1, n_embd=20, n_positions=66, vocab_size=17, n_inner=1),
    ModelConfig(n_layer=1, n_head=1, n_embd=1, n_positions=1, vocab_size=1),
    ModelConfig(n_layer=2, n_head=17, n_embd=17, n_positions=65, vocab_size=2, n_inner=63),
    ModelConfig(n_layer=2, n_head=2, n_embd=258, n_positions=129, vocab_size=65, n_inner=31),
]


def levels() -> list[str]:
    try:
        return list(Library.load().levels)
    except BackendError as error:
        pytest.skip(str(error), allow_module_level=True)


LEVELS = levels()


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GPT2_ISA", request.param)
    return request.param


def arrays(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes(config).items():
        values = random.standard_normal(shape).astype(np.float32)
        made[name] = 1 + 0.1 * values if name.endswith(".g") else 0.1 * values
    return made


def weights(config: ModelConfig) -> Weights:
    return Weights.from_arrays(config, arrays(config))


def tokens(config: ModelConfig, count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).tolist()


def all_logits(backend: NativeBackend, ids: list[int], chunk: int) -> np.ndarray:
    """Logits of every position, the text fed in pieces of `chunk`."""
    slot, rows = backend.new(), []
    for start in range(0, len(ids), chunk):
        piece = ids[start : start + chunk]
        [result] = backend.step([Work(slot=slot, tokens=piece, want=Want(rows=len(piece), logits=True))])
        rows.append(result.logits_RV)
    backend.free(slot)
    return np.concatenate(rows)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_fp32_equals_the_definition(config: ModelConfig, level: str) -> None:
    backend = NativeBackend(weights(config), form="fp32", threads=2)
    ids = tokens(config, config.n_positions)
    exact_TV = reference.logits(config, {name: a.astype(np.float64) for name, a in arrays(config).items()}, ids)
    error = np.abs(all_logits(backend, ids, len(ids)) - exact_TV).max() / np.abs(exact_TV).max()
    assert error < 1e-5


@pytest.mark.parametrize(("form", "least_cosine"), [("bf16", 0.9999), ("int8", 0.999), ("int4", 0.95)])
def test_smaller_forms_stay_near_the_definition(form: str, least_cosine: float, level: str) -> None:
    config = CONFIGS[0]
    ids = tokens(config, 100)
    exact_TV = reference.logits(config, arrays(config), ids)
    logits_TV = all_logits(NativeBackend(weights(config), form=form, threads=2), ids, len(ids))
    cosine = (logits_TV * exact_TV).sum() / np.sqrt((logits_TV**2).sum() * (exact_TV**2).sum())
    assert cosine > least_cosine


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[2], CONFIGS[-1]], ids=str)
def test_a_sequence_has_the_same_bits_however_it_is_computed(config: ModelConfig, form: str, level: str) -> None:
    ids = tokens(config, config.n_positions)
    whole_TV = all_logits(NativeBackend(weights(config), form=form, threads=1), ids, len(ids))
    backend = NativeBackend(weights(config), form=form, threads=2)
    for chunk in (1, 3, 16, 64, len(ids)):
        np.testing.assert_array_equal(all_logits(backend, ids, chunk), whole_TV)

    for others in (1, 6, 31):  # among sequences of other lengths, at other positions
        slots = [backend.new() for _ in range(others)]
        mine = backend.new()
        backend.step([Work(slot=slot, tokens=tokens(config, 1 + slot, slot)) for slot in slots])
        backend.step([Work(slot=mine, tokens=ids[:9])])
        work = [Work(slot=slot, tokens=tokens(config, 1 + slot % 5, slot), want=NEXT_LOGITS) for slot in slots]
        work.insert(others // 2, Work(slot=mine, tokens=ids[9:29], want=Want(rows=20, logits=True)))
        np.testing.assert_array_equal(backend.step(work)[others // 2].logits_RV, whole_TV[9:29])
        for slot in (*slots, mine):
            backend.free(slot)

    prefix = backend.new()  # a kept prefix, two texts going on from it, and one cut back
    backend.step([Work(slot=prefix, tokens=ids[:70])])
    fork = backend.fork(prefix)
    backend.step([Work(slot=fork, tokens=ids[:20])])
    [result] = backend.step([Work(slot=prefix, tokens=ids[70:90], want=Want(rows=20, logits=True))])
    np.testing.assert_array_equal(result.logits_RV, whole_TV[70:90])
    backend.truncate(fork, 50)
    [result] = backend.step([Work(slot=fork, tokens=ids[50:90], want=Want(rows=40, logits=True))])
    np.testing.assert_array_equal(result.logits_RV, whole_TV[50:90])


def test_prompts_of_many_chunks_have_the_same_bits(level: str) -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=1100, vocab_size=50)
    backend = NativeBackend(weights(config), form="int8", threads=2)
    ids = tokens(config, 1100)
    [expected] = [all_logits(NativeBackend(weights(config), form="int8", threads=1), ids, 100)[-3:]]
    for _ in range(20):  # the engine takes 256 rows at a time: long prompts, and several of them, go in pieces
        slots = [backend.new() for _ in range(3)]
        results = backend.step([Work(slot=slot, tokens=ids, want=Want(rows=3 * slot, logits=True)) for slot in slots])
        np.testing.assert_array_equal(results[1].logits_RV, expected)
        for slot in slots:
            backend.free(slot)


def test_everything_wanted_equals_the_reference(level: str) -> None:
    config = CONFIGS[1]
    ids = tokens(config, 120)
    trace = Trace(residual=(0, 2, 1), attention=((1, 2), (0, 0)))
    targets = tokens(config, 70, seed=5)
    want = Want(rows=70, logits=True, best=600, targets=targets, trace=trace)
    got, expected = (run_in_two(kind(weights(config)), ids, want) for kind in (fp32, ReferenceBackend))
    assert np.array_equal(got.best_ids_RK[:, :20], expected.best_ids_RK[:, :20])
    assert got.best_ids_RK.shape == (70, config.vocab_size)
    assert np.array_equal(got.target_ranks_R, expected.target_ranks_R)
    for name in ("logits_RV", "best_logprobs_RK", "target_logprobs_R", "entropies_R"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-4, atol=2e-5)
    assert got.residual.keys() == expected.residual.keys()
    assert got.attention.keys() == expected.attention.keys()
    for depth in trace.residual:
        np.testing.assert_allclose(got.residual[depth], expected.residual[depth], rtol=1e-4, atol=1e-5)
    for head in trace.attention:
        np.testing.assert_allclose(got.attention[head], expected.attention[head], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_what_a_row_attends_with_sums_to_one(form: str, level: str) -> None:
    config = CONFIGS[1]
    want = Want(rows=70, trace=Trace(attention=((0, 0), (1, 2))))
    backend = NativeBackend(weights(config), form=form, threads=2)
    [result] = backend.step([Work(slot=backend.new(), tokens=tokens(config, 70), want=want)])
    for weight_RS in result.attention.values():
        np.testing.assert_allclose(weight_RS.sum(axis=1), 1, rtol=1e-5)


def fp32(source: Weights) -> NativeBackend:
    return NativeBackend(source, form="fp32", threads=2)


def run_in_two(backend: NativeBackend | ReferenceBackend, ids: list[int], want: Want):
    slot = backend.new()
    backend.step([Work(slot=slot, tokens=ids[:30], want=NOTHING)])
    return backend.step([Work(slot=slot, tokens=ids[30:], want=want)])[0]


def test_of_equal_logits_the_lower_id_comes_first() -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=8, vocab_size=40)
    made = arrays(config)
    made["wte"][:] = made["wte"][3]  # every token has the same logit
    backend = fp32(Weights.from_arrays(config, made))
    want = Want(rows=1, best=7, targets=[11])
    [result] = backend.step([Work(slot=backend.new(), tokens=[0], want=want)])
    assert result.best_ids_RK.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert result.target_ranks_R.tolist() == [11]
    np.testing.assert_allclose(result.entropies_R, np.log(40), rtol=1e-6)


def test_weights_stored_as_int8_are_taken_as_they_are(level: str) -> None:
    config = CONFIGS[2]
    stored, exact = {}, {}
    for name, values in arrays(config).items():
        if values.ndim == 2:
            scale = int8_scale([values], name)
            codes = int8_round(values, scale)
            stored[name] = StoredArray(data=codes, dtype="I8", scale=scale)
            exact[name] = codes.astype(np.float32) * scale
        else:
            stored[name] = StoredArray(data=values, dtype="F32")
            exact[name] = values
    backend = NativeBackend(Weights(config, stored), threads=2)
    assert backend.weights == "int8"
    ids = tokens(config, 90)
    logits_TV = all_logits(backend, ids, 16)
    exact_TV = reference.logits(config, exact, ids)
    assert (logits_TV * exact_TV).sum() / np.sqrt((logits_TV**2).sum() * (exact_TV**2).sum()) > 0.999
    fp32_TV = all_logits(NativeBackend(Weights(config, stored), form="fp32", threads=1), ids, 16)
    np.testing.assert_allclose(fp32_TV, exact_TV, rtol=1e-4, atol=1e-4)


def test_weights_stored_as_int4_are_taken_as_they_are_the_head_too(level: str) -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=128, vocab_size=101)
    stored = {
        name: to_int4(StoredArray(data=values, dtype="F32"), name, by_output=name == "wte")
        if values.ndim == 2 and name != "wpe"
        else StoredArray(data=values, dtype="F32")
        for name, values in arrays(config).items()
    }
    backend = NativeBackend(Weights(config, stored), threads=2)
    assert backend.weights == "int4"
    ids = tokens(config, 90)
    logits_TV = all_logits(backend, ids, 16)
    exact_TV = reference.logits(config, {name: array.float32() for name, array in stored.items()}, ids)
    # what is left is the rounding of activations: int8 weights of the same values are no nearer
    assert (logits_TV * exact_TV).sum() / np.sqrt((logits_TV**2).sum() * (exact_TV**2).sum()) > 0.999
    np.testing.assert_allclose(
        all_logits(NativeBackend(Weights(config, stored), form="fp32", threads=1), ids, 16),
        exact_TV,
        rtol=1e-4,
        atol=1e-4,
    )


# of c_attn's bias: the first query, key and value
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("wte", 0),
        ("h.0.attn.c_attn.w", 0),
        ("h.0.attn.c_attn.b", 0),
        ("h.0.attn.c_attn.b", 48),
        ("h.1.attn.c_attn.b", 96),
        ("h.0.mlp.c_proj.w", 0),
        ("ln_f.b", 0),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_damaged_weights_are_an_error_and_change_nothing(
    name: str, at: int, form: str, damage: float, level: str
) -> None:
    config = CONFIGS[1]
    made = arrays(config)
    made[name].reshape(-1)[at] = damage
    backend = NativeBackend(Weights.from_arrays(config, made), form=form, threads=1)
    slot = backend.new()
    for ids in ([0, 1], [0, 1] * 20):
        with pytest.raises(BackendError, match="damaged"):
            backend.step([Work(slot=slot, tokens=ids, want=NEXT_LOGITS)])
        assert backend.length(slot) == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_failed_step_leaves_nothing_behind_in_its_pages(form: str, level: str) -> None:
    config = CONFIGS[1]
    made = arrays(config)
    made["wpe"][30] = np.inf
    used, fresh = (NativeBackend(Weights.from_arrays(config, made), form=form, threads=1) for _ in range(2))
    with pytest.raises(BackendError, match="damaged"):
        used.step([Work(slot=used.new(), tokens=tokens(config, 40))])
    ids = tokens(config, 20, seed=2)
    for chunk in (1, 20):
        np.testing.assert_array_equal(all_logits(used, ids, chunk), all_logits(fresh, ids, 20))


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "want",
    [
        NEXT_LOGITS,
        Want(best=3),
        Want(targets=[5]),
        Want(draw=Draw(keys=[7], temperature=0.0)),
        Want(draw=Draw(keys=[7], temperature=1.0)),
        Want(draw=Draw(keys=[7], temperature=1.0, top_k=3)),
    ],
)
@pytest.mark.parametrize("token", [16, 100])
def test_one_damaged_logit_is_an_error_whatever_is_wanted(want: Want, token: int, damage: float, level: str) -> None:
    config = CONFIGS[1]
    made = arrays(config)
    made["wte"][token] = damage
    backend = fp32(Weights.from_arrays(config, made))
    with pytest.raises(BackendError, match="damaged"):
        backend.step([Work(slot=backend.new(), tokens=[0, 1], want=want)])


def test_thousands_of_unlikely_tokens_count_beside_a_likely_one(level: str) -> None:
    """Each alone is too small for a float's last place beside 1; together they are 0.1 % of the probability."""
    config = ModelConfig(n_layer=1, n_head=1, n_embd=1, n_positions=4, vocab_size=50_257)
    made = arrays(config)
    made["ln_f.g"][:], made["ln_f.b"][:] = 0, 1  # what the head reads is 1, so a row of it is the token's logit
    made["wte"][:], made["wte"][7] = -17.5, 0
    want = Want(targets=[7], logits=True, best=1)
    backend = fp32(Weights.from_arrays(config, made))
    [got] = backend.step([Work(slot=backend.new(), tokens=[3], want=want)])
    logits_V = got.logits_RV[0].astype(np.float64)
    expected = logits_V[7] - np.log(np.exp(logits_V).sum())
    assert expected < -1e-3
    bound = 99 * 2.0**-24  # half of 1's last place for each block that is added; one by one they lost 8e-5
    assert got.target_logprobs_R[0] == pytest.approx(expected, rel=0, abs=bound)
    assert got.best_logprobs_RK[0, 0] == pytest.approx(expected, rel=0, abs=bound)


def test_too_many_tokens_change_nothing() -> None:
    config = CONFIGS[1]
    backend = fp32(weights(config))
    slot, other = backend.new(), backend.new()
    with pytest.raises(ContextError):
        backend.step([Work(slot=other, tokens=[1]), Work(slot=slot, tokens=[0] * 201)])
    assert backend.length(slot) == backend.length(other) == backend.bytes() == 0


def test_memory_of_slots_grows_by_pages_and_forks_share_them() -> None:
    config = CONFIGS[1]
    backend = fp32(weights(config))
    page = 2 * config.n_layer * config.n_embd * 64 * 4
    slot = backend.new()
    backend.step([Work(slot=slot, tokens=tokens(config, 65))])
    assert backend.bytes() == 2 * page
    fork = backend.fork(slot)
    assert backend.bytes() == 2 * page
    backend.step([Work(slot=fork, tokens=[0])])
    assert backend.bytes() == 3 * page
    backend.truncate(slot, 64)
    backend.free(fork)
    assert backend.bytes() == page


def test_pages_count_what_their_slab_takes() -> None:
    """Pages of 1.59 large ones: five fill eight of 2 MB, and so many count for all of them."""
    config = ModelConfig(n_layer=24, n_head=16, n_embd=1024, n_positions=1024, vocab_size=17, n_inner=1)
    shape = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")}
    library = Library.load()
    engine = Engine(
        library, shape={**shape, "n_inner": 1, "layer_norm_epsilon": 1e-5}, form="int8", level="portable", threads=1
    )
    slots = [engine.new_slot() for _ in range(3)]
    engine.step([Wanted(slot=slots[0], tokens=np.zeros(1, np.int32))])
    assert 3342336 < engine.slots_bytes() == -(-(16 << 20) // 5) < 1.03 * 3342336


def in_a_fork(run: Callable[[], int]) -> int:
    """How a forked child ends that exits with what `run` returns; one that waits for ever is ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's: a process of several threads forks
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)
        status = 99
        try:
            status = run()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_alone_and_ends_the_engine() -> None:
    backend = NativeBackend(weights(CONFIGS[0]), form="fp32", threads=2)
    slot = backend.new()
    backend.step([Work(slot=slot, tokens=[1])])
    time.sleep(0.3)  # the other thread sleeps, and is not there in the child

    def go_on() -> int:
        backend.step([Work(slot=slot, tokens=[2])])
        backend.close()
        return 0

    assert in_a_fork(go_on) == 0
    backend.step([Work(slot=slot, tokens=[2])])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_waits_for_the_step_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, other = (NativeBackend(weights(CONFIGS[0]), form="fp32", threads=2) for _ in range(2))
    slot, elsewhere = backend.new(), other.new()
    begun, forking, real = threading.Event(), threading.Event(), Engine.step

    def step(engine: Engine, wanted: Sequence[Wanted]) -> None:
        begun.set()
        forking.wait()
        real(engine, wanted)

    monkeypatch.setattr(Engine, "step", step)
    os.register_at_fork(before=forking.set)  # the last one registered is the first to run
    thread = threading.Thread(target=backend.step, args=([Work(slot=slot, tokens=[1])],))
    thread.start()
    begun.wait()

    def go_on() -> int:
        backend.step([Work(slot=slot, tokens=[2])])
        other.step([Work(slot=elsewhere, tokens=[2])])
        return backend.length(slot) - 2

    assert in_a_fork(go_on) == 0
    thread.join()
    backend.step([Work(slot=slot, tokens=[2])])
    assert backend.length(slot) == 2


def test_slots_come_and_go_in_any_order() -> None:
    """Slabs are given back when all their pages are spare; what the slots that stay hold is not touched."""
    config = CONFIGS[0]
    backend, random = fp32(weights(config)), np.random.default_rng(5)
    kept, ids = backend.new(), tokens(config, 70)
    backend.step([Work(slot=kept, tokens=ids[:-1])])
    for _ in range(3):
        others = [backend.new() for _ in range(60)]
        backend.step([Work(slot=slot, tokens=[1, 2]) for slot in others])
        for slot in random.permutation(others).tolist():
            backend.free(slot)
    [result] = backend.step([Work(slot=kept, tokens=ids[-1:], want=NEXT_LOGITS)])
    [fresh] = backend.step([Work(slot=backend.new(), tokens=ids, want=NEXT_LOGITS)])
    np.testing.assert_array_equal(result.logits_RV, fresh.logits_RV)


@pytest.mark.parametrize(
    "wrong",
    [{"n_positions": 131073}, {"n_layer": 0}, {"n_head": 0}, {"n_head": 3}, {"vocab_size": -1}],
)
def test_a_shape_that_none_has_is_refused(wrong: dict[str, int]) -> None:
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 17, "n_inner": 8}
    with pytest.raises(BackendError, match=r"shape|32 bits"):
        Engine(
            Library.load(),
            shape={**shape, "layer_norm_epsilon": 1e-5, **wrong},
            form="int8",
            level="portable",
            threads=1,
        )


def test_threads_that_share_a_model_take_turns() -> None:
    config = CONFIGS[1]
    backend = NativeBackend(weights(config), form="int8", threads=1)

    def write(start: int) -> list[int]:
        slot, text = backend.new(), [start]
        for place in range(30):
            want = Want(draw=Draw(keys=[draws.key(start, 0, place)], temperature=1.0))
            [result] = backend.step([Work(slot=slot, tokens=text[-1:], want=want)])
            text.extend(result.drawn_R)
        backend.free(slot)
        return text

    alone = [write(start) for start in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, list(range(4)) * 8)) == alone * 8


def test_what_a_slot_takes_is_measured_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = NativeBackend(weights(CONFIGS[1]), form="int8", threads=1)
    step, others_may = backend.step, list[bool]()

    def try_it() -> None:
        others_may.append(backend._turn.acquire(blocking=False))
        if others_may[-1]:
            backend._turn.release()

    def watched(work: Any) -> Any:
        with ThreadPoolExecutor(1) as another:
            another.submit(try_it).result()
        return step(work)

    monkeypatch.setattr(backend, "step", watched)
    assert backend.slot_bytes(1) > 0
    assert others_may == [False]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads on this system")
def test_engines_share_one_pool_of_threads() -> None:
    def threads() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    config = CONFIGS[1]
    engines = [NativeBackend(weights(config), form="int8", threads=2)]
    all_logits(engines[0], tokens(config, 5), 5)
    before = threads()
    engines += [NativeBackend(weights(config), form="fp32", threads=2) for _ in range(2)]
    for backend in engines:
        all_logits(backend, tokens(config, 5), 5)
    assert threads() <= before  # one that another test has left may end meanwhile


def test_threads_are_the_physical_cores_unless_given() -> None:
    assert NativeBackend(weights(CONFIGS[1]), form="int8").threads == min(physical_cores(), usable_cores())


def test_other_threads_run_during_a_step() -> None:
    config = ModelConfig(n_layer=4, n_head=4, n_embd=256, n_positions=1024, vocab_size=5000)
    backend, ticks, done = NativeBackend(weights(config), form="fp32", threads=1), list[int](), threading.Event()

    def tick() -> None:
        while not done.wait(0.0005):
            ticks.append(backend.length(slot))  # which waits for no turn

    slot, during = backend.new(), 0
    with ThreadPoolExecutor(1) as another:
        another.submit(tick)
        for _ in range(500):  # the other may have to wait for a processor
            begin = len(ticks)
            backend.step([Work(slot=slot, tokens=tokens(config, 1000))])
            during = max(during, len(ticks) - begin)
            backend.truncate(slot, 0)
            if during >= 3:
                break
        done.set()
    assert during >= 3


def test_two_engines_go_on_alone_and_close_twice() -> None:
    config = CONFIGS[1]
    first, second = fp32(weights(config)), NativeBackend(weights(config), form="int8", threads=1)
    for backend in (first, second, first):
        all_logits(backend, tokens(config, 5), 5)
    first.close()
    first.close()
    all_logits(second, tokens(config, 5), 5)
    second.close()


@pytest.mark.parametrize("form", ["fp16", "int3"])
def test_an_unknown_form_names_those_there_are(form: str) -> None:
    with pytest.raises(BackendError, match="int8"):
        NativeBackend(weights(CONFIGS[1]), form=form)


@pytest.mark.parametrize("top_k", [0, 1, 40])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.9, 40.0, 1e-3, 1e-30])
def test_tokens_are_drawn_as_the_definition_draws_them(level: str, temperature: float, top_k: int) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=128, vocab_size=5003)
    R, divisor = 100, filters.divisor(temperature)
    keys = [draws.key(7, 0, place) for place in range(R)]
    draw = Draw(keys=keys, temperature=divisor, top_k=top_k)
    backend = NativeBackend(weights(config), form="fp32", threads=2)
    # Both wants of the same rows, so that what is drawn from is the same to the bit.
    both = Want(rows=R, draw=draw, logits=True, best=top_k)
    [result] = backend.step([Work(slot=backend.new(), tokens=tokens(config, R), want=both)])
    for row, key in enumerate(keys):
        ids, logits = np.arange(config.vocab_size), result.logits_RV[row]
        if top_k:
            ids, order = np.unique(result.best_ids_RK[row], return_index=True)
            logits = result.best_logprobs_RK[row][order]
        if temperature != 1:
            logits = filters.temperature(logits, temperature)
        assert result.drawn_R[row] == draws.draw(key, ids, logits)
    assert len(set(result.drawn_R)) > 10  # rows differ, so draws do


def test_of_equally_likely_tokens_the_first_is_drawn_at_temperature_0(level: str) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=128, vocab_size=517)
    made = arrays(config)
    made["wte"][300:512] = made["wte"][:212]
    made["wte"][512:] *= 4  # the last few, which fill no block, win too
    backend = fp32(Weights.from_arrays(config, made))
    want = Want(rows=100, draw=Draw(keys=[0] * 100, temperature=0.0), logits=True)
    [result] = backend.step([Work(slot=backend.new(), tokens=tokens(config, 100), want=want)])
    assert result.drawn_R == np.argmax(result.logits_RV, axis=1).tolist()
    assert max(result.drawn_R) > 511 > 300 > min(result.drawn_R)


def test_a_draw_of_few_tokens_looks_at_every_one(level: str) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=64, vocab_size=33)
    keys = [draws.key(1, 2, place) for place in range(64)]
    backend = NativeBackend(weights(config), form="fp32", threads=1)
    want = Want(rows=64, draw=Draw(keys=keys, temperature=1.0), logits=True)
    [result] = backend.step([Work(slot=backend.new(), tokens=tokens(config, 64), want=want)])
    expected = [draws.draw(key, np.arange(33), row) for key, row in zip(keys, result.logits_RV, strict=True)]
    assert result.drawn_R == expected


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"draw_temperature": -1.0}, "temperatures from 0 up"),
        ({"draw_top_p": 0.0}, "a draw from no tokens"),
        ({"draw_min_p": 1.5}, "a draw from no tokens"),
        ({"text": np.array([40], np.int32)}, "a text too short, or of other tokens"),
        ({"text": np.zeros(0, np.int32)}, "a text too short, or of other tokens"),
        ({"text": np.zeros(4, np.int32), "prompt_count": -1}, "a text too short, or of other tokens"),
    ],
)
def test_a_draw_that_cannot_be_done_is_refused(wrong: dict[str, Any], told: str) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=64, vocab_size=33)
    backend = NativeBackend(weights(config), form="fp32", threads=1)
    wanted = Wanted(slot=backend.new(), tokens=np.zeros(1, np.int32), rows=1, drawn=np.zeros(1, np.int32))
    wanted.draw_keys = np.zeros(1, np.uint64)
    for name, value in wrong.items():
        setattr(wanted, name, value)
    with pytest.raises(BackendError, match=told):
        backend._engine.step([wanted])


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.9},
        {"top_p": 0.5, "temperature": 0.7},
        {"top_p": 0.99, "temperature": 1.9},
        {"top_p": 0.9, "temperature": 40.0},
        {"top_p": 0.9, "temperature": 1e-30},
        {"top_p": 0.9, "temperature": 1e39},
        {"top_p": 1e-9},
        {"top_p": 1 - 1e-15},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"min_p": 0.05, "top_p": 0.8, "temperature": 1.2},
        {"top_k": 30, "top_p": 0.6, "min_p": 0.2, "temperature": 0.8},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1.3, "frequency_penalty": 0.7, "temperature": 0.8},
        {"repetition_penalty": 1.3, "temperature": 0.0},
        {"repetition_penalty": 1.3, "presence_penalty": 0.4, "top_k": 30, "top_p": 0.9, "temperature": 0.8},
    ],
)
@pytest.mark.parametrize("vocab_size", [33, 5003])
def test_what_filters_keep_is_drawn_from_as_the_definition_draws(
    level: str, vocab_size: int, settings: dict[str, float]
) -> None:
    """Each row of a long draft, whose text before it is another, against the sampler over the same row of logits."""
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=128, vocab_size=vocab_size)
    backend = NativeBackend(weights(config), form="fp32", threads=2)
    ids = np.random.default_rng(2)
    text, draft = [[int(id) for id in ids.integers(0, vocab_size, n)] for n in (27, 100)]
    text += text[12:]  # some of the continuation twice and thrice, and of the prompt
    sampling = Sampling(**settings)
    sampler = Sampler(sampling, seed=3, n_prompt=20, n_ids=vocab_size, vocab_size=vocab_size, end_ids=())
    want = sampler.want(text, 0, draft[:80])
    assert want.draw is not None
    both = replace(want, logits=True, best=want.draw.from_best)
    [result] = backend.step([Work(slot=backend.new(), tokens=[*text, *draft[:80]], want=both)])
    known = Result(logits_RV=result.logits_RV)
    if want.draw.from_best:
        known = Result(best_ids_RK=result.best_ids_RK, best_logprobs_RK=result.best_logprobs_RK)
    expected = [sampler.choose(known, row, [*text, *draft[:row]], 0).token for row in range(81)]
    assert result.drawn_R == expected


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"repetition_penalty": 1.4, "temperature": 0.0}])
def test_a_row_is_drawn_the_same_alone_and_among_others(level: str, settings: dict[str, float]) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=64, vocab_size=5003)
    backend = NativeBackend(weights(config), form="int8", threads=2)
    sampler = Sampler(Sampling(**settings), seed=3, n_prompt=2, n_ids=5003, vocab_size=5003, end_ids=())
    texts = [[1, 2, *range(n, n + 30)] for n in range(7)]
    work = [Work(slot=backend.new(), tokens=text, want=sampler.want(text)) for text in texts]
    together = [result.drawn_R for result in backend.step(work)]
    alone = [backend.step([replace(piece, slot=backend.new())])[0].drawn_R for piece in work]
    assert together == alone


def test_texts_that_only_go_on_draw_what_they_draw_when_more_is_wanted(level: str) -> None:
    """One token each, and nothing but the next: the places that serve step after step, against arrays made for each."""
    config = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=64, vocab_size=5003)
    backend = NativeBackend(weights(config), form="int8", threads=2)
    kinds = [{"temperature": 0.0}, {}, {"top_k": 30}, {"temperature": 0.7, "top_p": 0.9}, {"min_p": 0.1}]
    for count in (2, 5, 1, 3):  # more places, then fewer
        samplers = [
            Sampler(Sampling(**kinds[n]), seed=n, n_prompt=1, n_ids=5003, vocab_size=5003, end_ids=())
            for n in range(count)
        ]
        work = [Work(slot=backend.new(), tokens=[7 + n], want=each.want([7 + n])) for n, each in enumerate(samplers)]
        more = [replace(piece, slot=backend.new(), want=replace(piece.want, best=1)) for piece in work]
        results = backend.step(work)
        assert [result.drawn_R for result in results] == [result.drawn_R for result in backend.step(more)]
        assert all(
            backend.length(piece.slot) == 1 and result.best_ids_RK is None
            for piece, result in zip(work, results, strict=True)
        )


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.8, 0), (1.0, 40), (0.8, 40)])
def test_a_seed_draws_the_same_tokens_whether_log_probabilities_are_asked_for(temperature: float, top_k: int) -> None:
    """Without them the engine draws in its step, with them NumPy does."""
    config = ModelConfig(n_layer=1, n_head=2, n_embd=32, n_positions=128, vocab_size=5003)
    backend = NativeBackend(weights(config), form="int8", threads=2)
    texts: list[list[int]] = []
    for logprobs in (None, 3):
        sampling = Sampling(temperature=temperature, top_k=top_k, logprobs=logprobs)
        sampler = Sampler(sampling, seed=5, n_prompt=3, n_ids=5003, vocab_size=5003, end_ids=())
        slot, text, done = backend.new(), [1, 2, 3], 0
        while len(text) < 100:
            want = sampler.want(text)
            assert (want.draw is not None) == (logprobs is None)
            [result] = backend.step([Work(slot=slot, tokens=text[done:], want=want)])
            done = len(text)
            text.append(sampler.choose(result, 0, text, 0).token)
        texts.append(text)
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 20  # not one token over and over
