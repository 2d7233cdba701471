"""Channels of keys that are far larger than the others: what int8 makes of them."""

import numpy as np
import pytest

from gpt2.backends import Want, Work, native
from gpt2.backends.balance import query_key_scales
from gpt2.backends.native import NativeBackend
from gpt2.checkpoint import Weights, shapes
from gpt2.checkpoint.forms import int8_round, int8_scale
from gpt2.checkpoint.weights import StoredArray
from gpt2.config import ModelConfig

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=128, vocab_size=96)
D, C = CONFIG.n_embd, CONFIG.n_embd // CONFIG.n_head
OUTLIERS = (3, 17, C + 8)  # of all heads' channels


def arrays(times: float) -> dict[str, np.ndarray]:
    """Random weights; a few channels have keys that many times the others, and queries as many times smaller."""
    draw = np.random.default_rng(0)
    made = {}
    for name, shape in shapes(CONFIG).items():
        values = draw.standard_normal(shape).astype(np.float32)
        made[name] = 1 + 0.1 * values if name.endswith(".g") else 0.2 * values
    for layer in range(CONFIG.n_layer):
        for kind in "wb":
            values = made[f"h.{layer}.attn.c_attn.{kind}"]
            for channel in OUTLIERS:
                values[..., channel] /= times
                values[..., D + channel] *= times
    return made


def logits(source: Weights, form: str) -> np.ndarray:
    backend = NativeBackend(source, form=form, threads=1)
    ids = np.random.default_rng(1).integers(0, CONFIG.vocab_size, 100).tolist()
    [result] = backend.step([Work(slot=backend.new(), tokens=ids, want=Want(rows=100, logits=True))])
    assert result.logits_RV is not None
    return result.logits_RV


def error(times: float, form: str = "int8") -> float:
    source = Weights.from_arrays(CONFIG, arrays(times))
    exact = logits(source, "fp32")
    return float(np.linalg.norm(logits(source, form) - exact) / np.linalg.norm(exact))


def test_channels_that_stand_out_cost_int8_no_more_than_if_there_were_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert error(32) < 1.1 * error(1)
    monkeypatch.setattr(native, "query_key_scales", lambda *_: None)
    assert error(32) > 1.3 * error(1)


def test_what_queries_gain_keys_lose_in_powers_of_two() -> None:
    scale_O = query_key_scales(Weights.from_arrays(CONFIG, arrays(32)), 0)
    assert scale_O is not None
    query_C, key_C, value_C = scale_O.reshape(3, D)
    assert set(np.flatnonzero(query_C != 1)) == set(OUTLIERS)
    assert set(query_C[list(OUTLIERS)]) == {32}
    np.testing.assert_array_equal(query_C * key_C, 1)
    np.testing.assert_array_equal(value_C, 1)


def test_where_no_channel_stands_out_weights_are_packed_as_they_are() -> None:
    assert query_key_scales(Weights.from_arrays(CONFIG, arrays(1)), 0) is None


def test_codes_are_taken_as_they_are_and_so_are_their_biases() -> None:
    """Also where the embedding is of floats: a bias scaled without its matrix would be another model."""
    source = Weights.from_arrays(CONFIG, arrays(32))
    stored = {name: source.stored(name) for name in source.names}
    for layer in range(CONFIG.n_layer):
        name = f"h.{layer}.attn.c_attn.w"
        scale = int8_scale([source.float32(name)], name)
        stored[name] = StoredArray(data=int8_round(source.float32(name), scale), dtype="I8", scale=scale)
    exact, rounded = (logits(Weights(CONFIG, stored), form) for form in ("fp32", "int8"))
    assert np.linalg.norm(rounded - exact) < 0.25 * np.linalg.norm(exact)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_channels_without_a_size_are_left_alone(value: float) -> None:
    made = arrays(32)
    for name in ("w", "b"):
        made[f"h.0.attn.c_attn.{name}"][..., 3] = value
    scale_O = query_key_scales(Weights.from_arrays(CONFIG, made), 0)
    assert scale_O is not None
    assert scale_O[3] == scale_O[D + 3] == 1
    assert scale_O[17] == 32
