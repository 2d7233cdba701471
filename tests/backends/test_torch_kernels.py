"""The GPU's kernels are the plain network: on a GPU as they are, and without one in Triton's interpreter.

TRITON_INTERPRET=1 pytest tests/backends/test_torch_kernels.py
"""

import gc
import os
import weakref
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
ON_GPU = torch.cuda.is_available()
if not (find_spec("triton") and (ON_GPU or os.environ.get("TRITON_INTERPRET") == "1")):
    pytest.skip("needs Triton, and an NVIDIA GPU or TRITON_INTERPRET=1", allow_module_level=True)

from tests.backends.conftest import random_arrays  # noqa: E402
from torch.nn import functional  # noqa: E402

from gpt2.backends import NEXT_LOGITS, Want, Work  # noqa: E402
from gpt2.backends.seam import Draw, Penalties  # noqa: E402
from gpt2.backends.torch import TorchBackend, decoding, kernels, readout  # noqa: E402
from gpt2.backends.torch.backend import _logits  # noqa: E402
from gpt2.checkpoint.weights import Weights  # noqa: E402
from gpt2.config import ModelConfig  # noqa: E402
from gpt2.errors import BackendError  # noqa: E402
from gpt2.generation import draws, filters  # noqa: E402

# the interpreter computes in NumPy, which warns of what a GPU does in silence
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
NARROW = [torch.float16, torch.bfloat16] if ON_GPU else [torch.float16]  # the interpreter's bf16 is wrong
DEVICE = "cuda" if ON_GPU else "cpu"
TEXT = [int(token) for token in np.random.default_rng(7).integers(97, size=400)]
Define = Callable[[Sequence[int]], NDArray[np.float64]]


class Counting(decoding.Decoder):
    """One that says how often it was asked."""

    steps = 0

    def _step(self, *asked: Any) -> torch.Tensor:
        self.steps += 1
        return super()._step(*asked)


class Unrecorded(Counting):
    """The same without a graph, which only a GPU has; it holds for the pool's tensor of then as a graph does."""

    def _record(self, B: int, answer: decoding.Answer) -> decoding._Recording:
        inputs_8B, kv = decoding._inputs(B, self._pool.kv.device), weakref.ref(self._pool.kv)
        output = self._run(inputs_8B, answer)

        decoder = weakref.ref(self)

        def replay() -> None:
            me = decoder()
            assert me is not None and me._pool.kv is kv(), "a recording of what has moved"
            output.copy_(me._run(inputs_8B, answer))

        return decoding._Recording(inputs_8B=inputs_8B, output=output, replay=replay)


class Opened(TorchBackend):
    """On a GPU as it is, elsewhere as if it were there; its pool is small at first and grows often."""

    def __init__(self, weights: Weights, form: str = "fp32") -> None:
        super().__init__(weights, device=DEVICE, form=form if ON_GPU else "fp32", threads=1)
        if form == "fp16" and not ON_GPU:  # which is not offered on a CPU
            self._dtype = torch.float16
            self._arrays.update({name: array.half() for name, array in self._arrays.items() if ".c_" in name})
            self._pool = self._new_pool()
        self._pool._least_capacity, self._pool._kept_bytes = 4, 0
        if not ON_GPU:
            self._arrays["wte"] = functional.pad(self._arrays["wte"], (0, 0, 0, 31))
        arrays, vocab_size = self._arrays, self.config.vocab_size

        def head(rows_MD: torch.Tensor) -> torch.Tensor:
            return _logits(rows_MD, arrays, vocab_size)

        self.decoder = (Counting if ON_GPU else Unrecorded)(self.config, arrays, head, self._pool)
        self._decoder, self._score, self._draws = self.decoder, kernels.score, True


@pytest.mark.parametrize("n_texts", [1, 3, 17])
def test_a_decoded_token_has_the_logits_of_the_definition(weights: Weights, define: Define, n_texts: int) -> None:
    backend = Opened(weights)
    texts = [TEXT[n : n + 2 + n % 9] for n in range(n_texts)]
    slots = [backend.new() for _ in texts]
    backend.step([Work(slot=slot, tokens=text[:-1]) for slot, text in zip(slots, texts, strict=True)])
    for more in ([], [5], [5, 11]):
        results = backend.step(
            [Work(slot=s, tokens=[[*t, *more][-1]], want=NEXT_LOGITS) for s, t in zip(slots, texts, strict=True)]
        )
        for result, text in zip(results, texts, strict=True):
            assert result.logits_RV is not None
            np.testing.assert_allclose(result.logits_RV, define([*text, *more])[-1:], rtol=0, atol=1e-4)
    assert backend.decoder.steps == 4  # of the beginnings one has a single token


def test_a_text_decodes_from_its_first_token_to_a_full_slot(weights: Weights, define: Define) -> None:
    backend = Opened(weights)
    slot = backend.new()
    for n in range(48):
        (result,) = backend.step([Work(slot=slot, tokens=[TEXT[n]], want=NEXT_LOGITS)])
        assert result.logits_RV is not None
        if n in (0, 1, 31, 47):
            np.testing.assert_allclose(result.logits_RV, define(TEXT[: n + 1])[-1:], rtol=0, atol=1e-4)
    assert backend.decoder.steps == 48


def test_slots_that_come_and_go_keep_their_texts(weights: Weights, define: Define) -> None:
    backend = Opened(weights)
    first, second, third = (backend.new() for _ in range(3))
    backend.step([Work(slot=slot, tokens=TEXT[n : n + 9]) for n, slot in enumerate((first, second, third))])
    backend.free(first)  # the last row moves into its place
    backend.step([Work(slot=third, tokens=[3])])
    fourth = backend.fork(third)
    want = Want(rows=1, logits=True)
    results = backend.step([Work(slot=slot, tokens=[4], want=want) for slot in (fourth, second)])
    for result, text in zip(results, ([*TEXT[2:11], 3, 4], [*TEXT[1:10], 4]), strict=True):
        assert result.logits_RV is not None
        np.testing.assert_allclose(result.logits_RV, define(text)[-1:], rtol=0, atol=1e-4)
    assert backend.decoder.steps == 2


def test_any_history_gives_what_the_plain_backend_gives() -> None:
    """Random new, free, fork, truncate and steps of all kinds of wants, against the same without the kernels."""
    config = ModelConfig(n_layer=1, n_head=3, n_embd=30, n_positions=40, vocab_size=97)
    weights = Weights.from_arrays(config, random_arrays(config))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        fast, plain = Opened(weights), Opened(weights)
        plain._decoder, plain._score = None, readout.score
        slots: list[int] = []
        for at in range(25):
            action = rng.choice(["new", "free", "fork", "truncate", "step", "step"])
            slot = int(rng.choice(slots)) if slots else -1
            if action == "new" or not slots:
                slots.append(fast.new())
                assert plain.new() == slots[-1]
            elif action == "free":
                slots.remove(slot)
                fast.free(slot), plain.free(slot)
            elif action == "fork" and len(slots) < 7:
                slots.append(fast.fork(slot))
                assert plain.fork(slot) == slots[-1]
            elif action == "truncate":
                length = int(rng.integers(fast.length(slot) + 1))
                fast.truncate(slot, length), plain.truncate(slot, length)
            work: list[Work] = []
            for slot in slots:
                room = 40 - fast.length(slot)
                if room:
                    count = 1 if rng.random() < 0.85 else int(rng.integers(1, min(12, room) + 1))
                    want = any_want(rng, draws.key(seed, slot, at), only_draws=at % 2 == 1)
                    work.append(Work(slot=slot, tokens=rng.integers(97, size=count).tolist(), want=want))
            for got, expected in zip(fast.step(work), plain.step(work), strict=True):
                assert got.drawn_R == expected.drawn_R
                for name in ("logits_RV", "best_logprobs_RK", "target_logprobs_R", "target_ranks_R", "entropies_R"):
                    one, other = getattr(got, name), getattr(expected, name)
                    assert (one is None) == (other is None)
                    if one is not None:
                        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4)
        assert fast.decoder.steps > 10


def any_want(rng: np.random.Generator, key: int, *, only_draws: bool) -> Want:
    draw = Draw(
        keys=[key],
        temperature=float(rng.choice([0, 1, 0.7, 1e-38, 50])),
        top_k=int(rng.choice([0, 0, 5, 80, 97])),
        top_p=float(rng.choice([1, 1, 0.8])),
        min_p=float(rng.choice([0, 0, 0.2])),
        penalties=Penalties(text=[1, 2], n_prompt=1, repetition=1.2) if rng.random() < 0.05 else None,
    )
    wants = [
        Want(draw=draw),
        Want(rows=0),
        Want(logits=True),
        Want(best=4),
        Want(targets=[3]),
        Want(draw=draw, best=3, targets=[1]),
    ]
    return wants[0 if only_draws else int(rng.integers(len(wants)))]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_k": 20, "top_p": 0.7, "temperature": 1.3},
        {"top_p": 0.8},
    ],
)
def test_what_is_drawn_is_what_the_plain_backend_draws(weights: Weights, settings: dict[str, float]) -> None:
    fast, plain = Opened(weights), Opened(weights)
    plain._decoder = None
    texts: list[list[list[int]]] = []
    for backend in (fast, plain):
        slots = [backend.new() for _ in range(3)]
        backend.step([Work(slot=slot, tokens=TEXT[n : n + 9 + n]) for n, slot in enumerate(slots)])
        texts.append([[8 + n] for n in range(3)])
        for place in range(12):
            asked = [
                Draw(
                    **{
                        "keys": [draws.key(5, n, place)],
                        "temperature": 1.0,
                        **(settings if n else {"temperature": 0.0}),
                    }
                )
                for n in range(3)
            ]
            results = backend.step(
                [
                    Work(slot=slot, tokens=[text[-1]], want=Want(draw=draw))
                    for slot, text, draw in zip(slots, texts[-1], asked, strict=True)
                ]
            )
            for text, result in zip(texts[-1], results, strict=True):
                assert result.drawn_R is not None
                text.extend(result.drawn_R)
    assert texts[0] == texts[1]
    assert fast.decoder.steps == 12


@pytest.mark.parametrize("form", ["fp16", "bf16"] if ON_GPU else ["fp16"])
@pytest.mark.parametrize("n_texts", [1, 3])
def test_in_narrow_forms_it_is_the_plain_backend_to_their_rounding(weights: Weights, form: str, n_texts: int) -> None:
    fast, plain = Opened(weights, form), Opened(weights, form)
    plain._decoder = None
    logits: list[NDArray[np.float32]] = []
    for backend in (fast, plain):
        slots = [backend.new() for _ in range(n_texts)]
        backend.step([Work(slot=slot, tokens=TEXT[n : n + 20 + n]) for n, slot in enumerate(slots)])
        for token in (8, 9):
            results = backend.step([Work(slot=slot, tokens=[token], want=NEXT_LOGITS) for slot in slots])
        logits.append(np.concatenate([result.logits_RV for result in results if result.logits_RV is not None]))
    assert fast.decoder.steps == 2
    eps = torch.finfo(torch.float16 if form == "fp16" else torch.bfloat16).eps
    assert np.abs(logits[0] - logits[1]).mean() < 4 * eps * np.abs(logits[1]).mean()


def test_numbers_that_are_not_finite_are_an_error_and_not_a_token(weights: Weights) -> None:
    arrays = {name: weights.float32(name).copy() for name in weights.names}
    arrays["wte"][50] = np.inf
    backend = Opened(Weights.from_arrays(weights.config, arrays))
    for draw in (Draw(keys=[1], temperature=1.0), Draw(keys=[1], temperature=0.0, top_k=3)):
        with pytest.raises(BackendError, match="not finite"):
            backend.step([Work(slot=backend.new(), tokens=[5], want=Want(draw=draw))])
    assert backend.decoder.steps == 2


def test_tokens_are_drawn_as_the_definition_draws_them() -> None:
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((50, 5003))).astype(np.float32)
    logits[3, 100] = logits[3, 4000] = 99  # of equal ones the first
    temperatures = [(1.0, 0.7, 1.9, 40.0, 0.0)[m % 5] for m in range(50)]
    keys = [draws.key(7, 0, place) for place in range(50)]
    drawn, scores = kernels.draw(
        torch.tensor(logits, device=DEVICE),
        torch.tensor(np.array(keys, np.uint64).view(np.int64), device=DEVICE),
        torch.tensor(temperatures, device=DEVICE),
    )
    assert scores.isfinite().all()
    for row, (key, temperature) in enumerate(zip(keys, temperatures, strict=True)):
        values = filters.temperature(logits[row], temperature) if temperature not in (0, 1) else logits[row]
        expected = draws.draw(key, np.arange(5003), values) if temperature else int(logits[row].argmax())
        assert drawn[row] == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_not_finite_shows(bad: float) -> None:
    logits = torch.zeros(2, 3000, device=DEVICE)
    logits[1, 2900] = bad
    zeros = torch.zeros(2, device=DEVICE)
    _, scores = kernels.draw(logits, zeros.long(), zeros)
    assert scores.isfinite().tolist() == [True, False]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(("n_rows", "width"), [(1, 96), (5, 21), (33, 130)])
def test_a_product_with_all_around_it_is_that_of_pytorch(dtype: torch.dtype, n_rows: int, width: int) -> None:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).to(DEVICE)

    x, weight, bias = normal(n_rows, width), normal(40, width) / 8, normal(40)
    gain, shift, stream = normal(width), normal(width), normal(n_rows, 40)
    weight, bias, narrow = weight.to(dtype), bias.to(dtype), x.to(dtype)
    plain = functional.linear(narrow, weight, bias)
    normed = functional.linear(functional.layer_norm(x, (width,), gain, shift, 1e-5).to(dtype), weight, bias)
    norm = kernels.Norm(gain_D=gain, shift_D=shift, epsilon=1e-5)
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(kernels.linear(narrow, weight, bias), plain, **tolerance)
    torch.testing.assert_close(kernels.linear(x, weight, bias, norm=norm), normed, **tolerance)
    bent = functional.gelu(normed, approximate="tanh")
    torch.testing.assert_close(kernels.linear(x, weight, bias, norm=norm, gelu=True), bent, **tolerance)
    expected = stream + plain
    kernels.linear(narrow, weight, bias, added_to_MG=stream)
    torch.testing.assert_close(stream, expected, **tolerance)


@pytest.mark.parametrize("dtype", NARROW)
def test_attention_is_that_of_pytorch(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(4, 3, 320, 24, generator=draw).to(DEVICE, dtype) for _ in range(2))
    qkv = torch.randn(4, 3 * 72, generator=draw).to(DEVICE, dtype)
    before = keys.clone(), values.clone()
    rows, lengths = [2, 0, 3, 1], [5, 300, -1, 0]
    mixed = kernels.attend(qkv, keys, values, torch.tensor(rows, device=DEVICE), torch.tensor(lengths, device=DEVICE))
    for text, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if length < 0:
            assert not mixed[text].any()
            assert torch.equal(keys[row], before[0][row])
            continue
        query, key, value = (part.reshape(3, 1, 24) for part in qkv[text].chunk(3))
        all_keys = torch.cat([before[0][row, :, :length], key], 1)
        all_values = torch.cat([before[1][row, :, :length], value], 1)
        expected = functional.scaled_dot_product_attention(query[None], all_keys[None], all_values[None])
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(mixed[text].view(3, 1, 24), expected[0], rtol=2 * eps, atol=2 * eps)
        assert torch.equal(keys[row, :, : length + 1], all_keys)
        assert torch.equal(keys[row, :, length + 1 :], before[0][row, :, length + 1 :])
        assert torch.equal(values[row, :, : length + 1], all_values)


def test_what_cannot_be_compiled_is_said_and_done_plainly(
    weights: Weights, define: Define, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(decoding.Decoder, "probe", fail)
    backend = TorchBackend(weights, device=DEVICE, form="fp32", threads=1)
    backend._take_own_kernels()
    assert [record.message for record in caplog.records if "no C compiler" in record.message] != []
    assert backend.reason.endswith("without kernels of its own")
    slot = backend.new()
    for token in (5, 6):
        (result,) = backend.step([Work(slot=slot, tokens=[token], want=NEXT_LOGITS)])
    assert result.logits_RV is not None
    np.testing.assert_allclose(result.logits_RV, define([5, 6])[-1:], rtol=0, atol=1e-4)


def test_what_is_closed_leaves_nothing_behind(weights: Weights) -> None:
    backend = Opened(weights)
    backend.step([Work(slot=backend.new(), tokens=[5], want=NEXT_LOGITS)])
    decoder, kv = weakref.ref(backend.decoder), weakref.ref(backend._pool.kv)
    del backend.decoder
    gc.disable()
    try:
        backend.close()
        assert kv() is None
        assert decoder() is None
    finally:
        gc.enable()


def test_the_tensor_that_a_pool_grows_out_of_is_not_kept(weights: Weights) -> None:
    backend = Opened(weights)
    slot = backend.new()
    backend.step([Work(slot=slot, tokens=[5], want=NEXT_LOGITS)])
    before = weakref.ref(backend._pool.kv)
    backend.step([Work(slot=slot, tokens=TEXT[:20])])
    assert before() is None


def test_scores_are_those_of_the_plain_backend() -> None:
    logits = 4 * torch.randn(7, 3001, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    logits[2, 7] = logits[2, 100] = 3.0
    targets = torch.tensor([3, 2999, 100, 17, 0, 7, 3000], device=DEVICE)
    logits[4, 0] = 99.0
    exact = logits.double().log_softmax(-1)
    logprobs, ranks, entropies = kernels.score(logits, targets)
    torch.testing.assert_close(logprobs.double(), exact.gather(1, targets[:, None])[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(entropies.double(), -(exact.exp() * exact).sum(-1), rtol=0, atol=1e-5)
    assert torch.equal(ranks, readout.score(logits, targets)[1])
    for bad in (np.nan, np.inf, -np.inf):
        logits[5, 40] = bad
        assert kernels.score(logits, targets)[2].isfinite().tolist() == [True] * 5 + [False, True]
        assert readout.score(logits, targets)[2].isfinite().tolist() == [True] * 5 + [False, True]
