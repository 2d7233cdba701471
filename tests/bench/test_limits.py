"""The machine's limits: by arithmetic that can be done by hand, from rates that are measured."""

import numpy as np
import pytest

from gpt2.backends.native import NativeBackend
from gpt2.backends.reference import ReferenceBackend
from gpt2.bench import limits as limits_module
from gpt2.bench.limits import limits
from gpt2.bench.workload import Workload
from gpt2.checkpoint import Weights, shapes
from gpt2.config import ModelConfig
from gpt2.errors import BackendError

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=256, vocab_size=1000)
WORKLOAD = Workload(prompt_tokens=100, decode_tokens=20, prefill_tokens=200, batch=4, contexts=(40,), context_tokens=8)


@pytest.fixture
def weights() -> Weights:
    return Weights.from_arrays(CONFIG, {name: np.zeros(shape, np.float32) for name, shape in shapes(CONFIG).items()})


def native(weights: Weights) -> NativeBackend:
    try:
        return NativeBackend(weights, form="int8", threads=1)
    except BackendError as error:
        pytest.skip(str(error))


def test_limits_follow_from_bytes_and_products(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = native(weights)
    monkeypatch.setattr(limits_module, "_read_rate", lambda n_bytes, threads: 1e9)
    monkeypatch.setattr(limits_module, "_product_rate", lambda level, form, threads: 1e12)
    found = limits(backend, WORKLOAD)
    read = backend.weights_bytes - 256 * 64 * 4
    assert read > 12 * 2 * 64 * 64 + 1000 * 64  # every weight, a byte each
    assert found["decode"] == pytest.approx(1e9 / (read + 110 * 2 * 2 * (64 + 4 * 2)))
    assert found["batch"] == pytest.approx(4e9 / (read + 4 * 110 * 2 * 2 * (64 + 4 * 2)))
    assert found["decode_after_40"] == pytest.approx(1e9 / (read + 44 * 2 * 2 * (64 + 4 * 2)))
    assert found["prefill"] == pytest.approx(1e12 / (2 * (12 * 64 * 64 + 2 * 100 * 64)))


def test_both_rates_are_measured_here(weights: Weights) -> None:
    found = limits(native(weights), WORKLOAD)
    assert 1e8 < found["read_bytes_per_second"] < 1e14
    assert 1e7 < found["multiply_adds_per_second"] < 1e15


def test_other_backends_have_none(weights: Weights) -> None:
    assert limits(ReferenceBackend(weights), WORKLOAD) == {}
