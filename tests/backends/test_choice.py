import importlib.util
import logging
import subprocess
import sys

import pytest

from gpt2 import backends
from gpt2.backends import choice, native
from gpt2.checkpoint.weights import Weights
from gpt2.errors import BackendError, MissingExtraError
from gpt2.native import Library


def native_is_here() -> bool:
    try:
        Library.load()
    except BackendError:
        return False
    return True


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object, **__: object) -> None:
        raise BackendError("it was not built.")

    monkeypatch.setattr(native, "NativeBackend", cannot)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"backend": "jax"}, "'jax'.*auto, native, torch or reference"),
        ({"device": "tpu"}, "'tpu'.*auto, cpu, cuda or mps"),
        ({"device": "tpu:3"}, "'tpu'"),
        ({"device": "cpu:7"}, "'cpu:7'.*auto, cpu, cuda or mps"),
        ({"form": "int2"}, "'int2'.*fp32.*int4"),
        ({"threads": 0}, "0 threads"),
        ({"backend": "reference", "device": "cuda"}, "reference backend cannot run on cuda"),
        ({"backend": "native", "device": "mps"}, "native backend cannot run on mps"),
        ({"backend": "reference", "form": "bf16"}, "bf16.*fp32"),
        ({"backend": "torch", "form": "int4"}, "int4.*bf16"),
        ({"backend": "torch", "device": "cuda:x"}, "cuda:x"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(weights: Weights, settings: dict[str, str], seen: str) -> None:
    with pytest.raises(BackendError, match=seen):
        backends.open(weights, **settings)  # type: ignore[arg-type]


def test_more_threads_than_cores_are_said_to_be_slower(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not native_is_here():
        pytest.skip("the native engine was not built")
    monkeypatch.setattr(native, "usable_cores", lambda: 2)
    backends.open(weights, threads=2).close()
    assert "cores" not in caplog.text
    backends.open(weights, threads=3).close()
    assert "3 threads share 2 cores" in caplog.text


@pytest.mark.usefixtures("without_native")
def test_without_the_native_engine_the_reference_computes_and_says_why(
    weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="gpt2"):
        backend = backends.open(weights, threads=3)
    assert (backend.name, backend.weights) == ("reference", "fp32")
    assert "native engine cannot be had (it was not built); NumPy, on as many threads" in backend.reason
    assert "not 3" in backend.reason
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", backend.reason)]


def test_a_level_that_is_not_here_is_not_silently_replaced(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_ISA", "mmx")
    with pytest.raises(BackendError, match="'mmx'.*portable" if native_is_here() else "not built"):
        backends.open(weights)


@pytest.mark.usefixtures("without_native")
def test_a_narrow_form_is_not_silently_replaced(weights: Weights) -> None:
    with pytest.raises(BackendError, match="not built"):
        backends.open(weights, form="int8")
    with pytest.raises(BackendError, match="not built"):
        backends.open(weights, backend="native")


def test_without_pytorch_the_extra_is_named(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "torch" else found(name))
    for settings in ({"backend": "torch"}, {"device": "cuda"}):
        with pytest.raises(MissingExtraError, match=r"gpt2kit\[gpu\]"):
            backends.open(weights, **settings)


def test_the_reference_needs_no_pytorch() -> None:
    code = """
import sys
import numpy as np
from gpt2 import backends
from gpt2.checkpoint import Weights, shapes
from gpt2.config import ModelConfig
config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=9)
weights = Weights.from_arrays(config, {n: np.ones(s, np.float32) for n, s in shapes(config).items()})
backend = backends.open(weights, backend="reference")
(result,) = backend.step([backends.Work(slot=backend.new(), tokens=[1, 2], want=backends.NEXT_LOGITS)])
assert result.logits_RV.shape == (1, 9)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_weights_may_be_read_only(weights: Weights, name: str) -> None:
    arrays = {name: weights.float32(name).copy() for name in weights.names}
    for array in arrays.values():
        array.flags.writeable = False
    backend = backends.open(Weights.from_arrays(weights.config, arrays), backend=name)
    backend.step([backends.Work(slot=backend.new(), tokens=[1])])
