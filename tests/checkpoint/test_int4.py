"""The int4 form in files: the values are those of its definition, and what does not fit together is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2 import checkpoint
from gpt2.checkpoint.int4 import GROUP_INPUTS, Int4Array, quantise_int4, to_int4
from gpt2.checkpoint.weights import StoredArray
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=40, n_positions=16, vocab_size=70)
FILE = "model.int4.safetensors"


def values(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def by_definition(w_IO: NDArray[np.float32]) -> NDArray[np.float32]:
    codes_IO, group_scale_GO, row_scale_O = quantise_int4(w_IO)
    whole_IO = codes_IO * np.repeat(group_scale_GO, GROUP_INPUTS, axis=0)[: len(w_IO)]
    return whole_IO.astype(np.float32) * row_scale_O


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arrays: dict[str, Any] = {name: values(*shape) for name, shape in checkpoint.shapes(CONFIG).items()}
    checkpoint.write_folder(tmp_path / "m", arrays, CONFIG, None, form="int4")
    return tmp_path / "m"


def test_a_matrix_is_what_the_definition_says_and_its_transpose_too() -> None:
    w_IO = values(72, 50)
    stored = to_int4(StoredArray(data=w_IO, dtype="F32"), "h.0.mlp.c_fc.w", by_output=False)
    assert stored.shape == (72, 50)
    np.testing.assert_array_equal(stored.float32(), by_definition(w_IO))
    np.testing.assert_array_equal(stored.transposed().float32(), by_definition(w_IO).T)
    np.testing.assert_array_equal(np.concatenate([b.float32() for b in stored.blocks()]), stored.float32())


def test_rows_of_the_embedding_are_cut_without_decoding() -> None:
    w_VD = values(70, 40)
    stored = to_int4(StoredArray(data=w_VD, dtype="F32"), "wte", by_output=True)
    np.testing.assert_array_equal(stored.rows(3, 9).float32(), by_definition(w_VD.T).T[3:9])
    assert stored.nbytes == 70 * (20 + 4 + 2)


def test_a_folder_comes_back_and_is_written_again_without_a_change(folder: Path, tmp_path: Path) -> None:
    weights = checkpoint.read(folder).weights
    assert weights.form == "int4"
    np.testing.assert_array_equal(weights.float32("wte"), by_definition(values(70, 40).T).T)
    np.testing.assert_array_equal(weights.float32("h.1.attn.c_attn.w"), by_definition(values(40, 120)))
    assert weights.stored("wpe").dtype == "I8"
    np.testing.assert_array_equal(weights.float32("h.0.mlp.c_fc.b"), values(160))
    checkpoint.write_folder(tmp_path / "again", weights, CONFIG, None, form="int4")
    assert (tmp_path / "again" / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_a_folder_is_written_in_int8_too(folder: Path, tmp_path: Path) -> None:
    weights = checkpoint.read(folder).weights
    checkpoint.write_folder(tmp_path / "int8", weights, CONFIG, None, form="int8")
    again = checkpoint.read(tmp_path / "int8").weights
    assert again.form == "int8"
    for name in ("wte", "wpe", "h.0.attn.c_attn.w", "h.1.mlp.c_proj.w"):
        ours, theirs = weights.float32(name), again.float32(name)
        assert np.abs(ours - theirs).max() <= np.abs(ours).max() / 254 * 1.001


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("transformer.wte.weight.group_scale", None, "has no group scales"),
        ("transformer.wte.weight.group_scale", np.zeros((70, 2), np.uint8), "not within 1 to 127"),
        ("transformer.wte.weight.group_scale", np.ones((70, 3), np.uint8), "each of its outputs and groups"),
        ("transformer.wte.weight.scale", None, "has no float32 scales"),
        ("transformer.wte.weight.scale", np.ones((1, 70), np.float32), "each of its outputs and groups"),
        ("transformer.wte.weight", np.zeros((70, 21), np.uint8), "wte must have shape"),
        ("transformer.wte.weight", np.zeros(70, np.uint8), "has no group scales of two axes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(folder: Path, name: str, wrong: NDArray[Any] | None, error: str) -> None:
    arrays = {
        key: checkpoint.StoredArray(data=a.data.copy(), dtype=a.dtype)
        for key, a in checkpoint.read_safetensors(folder / FILE).items()
    }
    if wrong is None:
        del arrays[name]
    else:
        arrays[name] = checkpoint.StoredArray(data=wrong, dtype="F32" if wrong.dtype == np.float32 else "U8")
    checkpoint.write_safetensors(folder / FILE, arrays, metadata={"gpt2kit_form": "int4"})
    with pytest.raises((FormatError, MismatchError), match=error):
        checkpoint.read(folder)


def test_values_that_are_not_finite_are_refused() -> None:
    w_IO = values(32, 4)
    w_IO[3, 2] = np.nan
    with pytest.raises(MismatchError, match="not finite"):
        to_int4(StoredArray(data=w_IO, dtype="F32"), "x", by_output=False)


def test_it_is_one_of_the_forms() -> None:
    assert issubclass(Int4Array, StoredArray)
    assert "int4" in checkpoint.FORMS
