import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpt2.checkpoint.forms import decode, dtype_in_form, encode, int8_round, int8_scale, int8_scale_shape
from gpt2.errors import MismatchError


def every_kind_of_float() -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    corners = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7F800001, 0x7FFFFFFF, 1, 0x3F808000, 0x3F818000]
    return np.concatenate([bits, np.array(corners, dtype=np.uint32)]).view(np.float32)


def test_bf16_rounds_as_torch_does() -> None:
    values = every_kind_of_float()
    ours = encode(values, "BF16", "x")
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(ours[numbers], theirs[numbers])
    assert np.isnan(decode(ours, "BF16"))[~numbers].all()


def test_bf16_is_read_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    theirs = torch.from_numpy(every).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(decode(every, "BF16"), theirs)


def test_fp16_rounds_as_torch_does_and_refuses_what_it_cannot_hold() -> None:
    values = np.random.default_rng(0).normal(0, 100, 10_000).astype(np.float32)
    np.testing.assert_array_equal(encode(values, "F16", "x"), torch.from_numpy(values).half().numpy())
    assert encode(np.float32([np.inf, 65504]), "F16", "x").tolist() == [np.inf, 65504]
    with pytest.raises(MismatchError, match=r"wpe cannot be stored as fp16: it holds 1e\+05, and fp16 ends at 65504"):
        encode(np.float32([1, -1e5]), "F16", "wpe")


def test_fp32_is_not_copied() -> None:
    values = np.float32([1, 2])
    assert encode(values, "F32", "x") is values
    assert decode(values, "F32") is values


def test_int8_leaves_vectors_in_fp32() -> None:
    assert dtype_in_form("int8", "ln_f.g", (3,)) == "F32"
    assert dtype_in_form("int8", "wte", (3, 3)) == "I8"
    assert dtype_in_form("bf16", "ln_f.g", (3,)) == "BF16"
    assert [dtype_in_form("int4", name, (3, 3)) for name in ("wte", "wpe")] == ["I4", "I8"]


def test_int8_scales_run_along_the_outputs() -> None:
    values = np.float32([[127, -254, 0], [0, 12.7, 0]])
    by_row = int8_scale([values], "wte")
    by_column = int8_scale([values], "h.0.mlp.c_fc.w")
    np.testing.assert_allclose(by_row, [[2], [0.1]], rtol=1e-6)
    np.testing.assert_allclose(by_column, [[1, 2, 1]], rtol=1e-6)
    assert by_row.shape == int8_scale_shape("wte", values.shape)
    assert by_column.shape == int8_scale_shape("h.0.mlp.c_fc.w", values.shape)


def test_int8_scales_do_not_depend_on_the_blocks() -> None:
    values = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    for name in ("wpe", "h.0.attn.c_attn.w"):
        np.testing.assert_array_equal(int8_scale([values[:3], values[3:]], name), int8_scale([values], name))


def test_int8_rounds_halves_to_even() -> None:
    assert int8_round(np.float32([[0.5, 1.5, 2.5, -0.5, 127]]), np.float32([[1]])).tolist() == [[0, 2, 2, 0, 127]]


@settings(deadline=None, derandomize=True)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    ),
    st.sampled_from(["wte", "h.0.mlp.c_proj.w"]),
)
def test_int8_is_within_half_a_step(values: np.ndarray, name: str) -> None:
    scale = int8_scale([values], name)
    restored = decode(int8_round(values, scale), "I8", scale).astype(np.float64)
    assert scale.dtype == np.float32
    assert (np.abs(restored - values) <= scale.astype(np.float64) * 0.50001 + 1e-43).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(MismatchError, match=r"wte cannot be stored as int8: .* not finite"):
        int8_scale([np.float32([[1, value]])], "wte")
