import numpy as np
import pytest

from gpt2 import checkpoint
from gpt2.checkpoint import StoredArray, Weights
from gpt2.errors import MismatchError


def test_arrays_come_back_as_they_were_given(tiny) -> None:
    config, arrays = tiny
    weights = Weights.from_arrays(config, arrays)
    assert weights.names == tuple(checkpoint.shapes(config))
    assert weights.form == "fp32"
    assert weights.nbytes == 4 * config.parameters
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.float32(name), array)
        assert weights.stored(name).dtype == "F32"


def test_halves_stay_halves_and_doubles_are_rounded(tiny) -> None:
    config, arrays = tiny
    halves = Weights.from_arrays(config, {name: array.astype(np.float16) for name, array in arrays.items()})
    assert halves.form == "fp16"
    assert halves.float32("wte").dtype == np.float32
    doubles = Weights.from_arrays(config, {name: array.astype(np.float64) for name, array in arrays.items()})
    np.testing.assert_array_equal(doubles.float32("wte"), arrays["wte"])


@pytest.mark.parametrize("values_at_once", [7, 8, 9, 1000])
def test_pieces_are_the_whole_however_wide_a_row_is(tiny, monkeypatch: pytest.MonkeyPatch, values_at_once: int) -> None:
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", values_at_once)
    array = tiny[1]["wte"]  # rows of 8
    pieces = [piece.data for piece in StoredArray(data=array, dtype="F32").blocks()]
    np.testing.assert_array_equal(np.concatenate(pieces), array)
    assert max(piece.size for piece in pieces) <= max(8, values_at_once)


def test_a_missing_array_is_named(tiny) -> None:
    config, arrays = tiny
    del arrays["h.1.mlp.c_fc.b"]
    with pytest.raises(MismatchError, match=r"not complete: h\.1\.mlp\.c_fc\.b missing of 28"):
        Weights.from_arrays(config, arrays)


def test_an_unknown_array_is_named(tiny) -> None:
    config, arrays = tiny
    with pytest.raises(MismatchError, match=r"no place for: h\.2\.ln_1\.g"):
        Weights.from_arrays(config, arrays | {"h.2.ln_1.g": arrays["ln_f.g"]})


def test_a_transposed_matrix_is_refused(tiny) -> None:
    config, arrays = tiny
    arrays["h.0.mlp.c_fc.w"] = arrays["h.0.mlp.c_fc.w"].T
    with pytest.raises(MismatchError, match=r"h\.0\.mlp\.c_fc\.w must have shape \[8, 32\].*\[32, 8\]"):
        Weights.from_arrays(config, arrays)


def test_int8_needs_its_scales(tiny) -> None:
    config, arrays = tiny
    stored = {name: StoredArray(data=array, dtype="F32") for name, array in arrays.items()}
    integers = np.ones(arrays["wte"].shape, np.int8)
    rows, columns = np.ones((100, 1), np.float32), np.ones((1, 8), np.float32)
    for scale in (None, columns):
        with pytest.raises(MismatchError, match="without one scale for each of its outputs"):
            Weights(config, stored | {"wte": StoredArray(data=integers, dtype="I8", scale=scale)})
    weights = Weights(config, stored | {"wte": StoredArray(data=integers, dtype="I8", scale=2 * rows)})
    assert (weights.float32("wte") == 2).all()
    assert weights.stored("wte").nbytes == 100 * 8 + 100 * 4


def test_integers_are_not_weights(tiny) -> None:
    config, arrays = tiny
    stored = {name: StoredArray(data=array, dtype="F32") for name, array in arrays.items()}
    stored["wpe"] = StoredArray(data=np.zeros((16, 8), np.int64), dtype="I64")
    with pytest.raises(MismatchError, match="wpe is stored as I64"):
        Weights(config, stored)


@pytest.mark.parametrize("by_row", [True, False])
def test_blocks_together_are_the_whole(monkeypatch: pytest.MonkeyPatch, by_row: bool) -> None:
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 24)
    data = np.arange(70, dtype=np.int8).reshape(10, 7)
    scale = np.arange(10, dtype=np.float32)[:, None] if by_row else np.arange(7, dtype=np.float32)[None]
    whole = StoredArray(data=data, dtype="I8", scale=scale)
    blocks = list(whole.blocks())
    assert [block.shape[0] for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([block.float32() for block in blocks]), whole.float32())


def test_released_memory_comes_back_with_the_same_values(folder, tiny) -> None:
    weights = checkpoint.read(folder).weights
    for name, array in tiny[1].items():
        weights.stored(name).release()
        np.testing.assert_array_equal(weights.float32(name), array)


def test_mapped_arrays_cannot_be_written_to(folder) -> None:
    with pytest.raises(ValueError, match="read-only"):
        checkpoint.read(folder).weights.float32("wte")[0, 0] = 1
