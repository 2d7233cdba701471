"""The packed weight forms against their definition in NumPy: the same numbers, not close ones."""

import numpy as np
import pytest

from gpt2.checkpoint.int4 import quantise_int4
from gpt2.errors import BackendError
from gpt2.native import forms
from gpt2.native.interface import source_of_codes, source_of_floats, source_of_int4
from gpt2.native.library import Library, Matrix, attend

# inputs x outputs: whole panels and groups, odd ones, fewer than one panel, a single one; more than tiles take at once
SHAPES = [(64, 48), (96, 33), (35, 7), (1, 1), (131, 100), (257, 16), (1056, 33), (2080, 20)]
ROWS = 13  # no multiple of any kernel's rows


def random_matrix(inputs: int, outputs: int) -> np.ndarray:
    random = np.random.default_rng(inputs * 1000 + outputs)
    w_IO = random.standard_normal((inputs, outputs)).astype(np.float32)
    w_IO[:, outputs // 2] = 0  # an output of zeros
    w_IO[:, 0] *= 1e-20
    return w_IO


def random_rows(inputs: int, rows: int = ROWS) -> np.ndarray:
    x_NI = np.random.default_rng(inputs).standard_normal((rows, inputs)).astype(np.float32)
    x_NI[3] = 0
    x_NI[5] *= 1e6
    return x_NI


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to the upper 16 bits, halves to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def to_fp16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_int8_equals_its_definition(library: Library, level: str, inputs: int, outputs: int) -> None:
    w_IO, x_NI = random_matrix(inputs, outputs), random_rows(inputs)
    matrix = Matrix(library, source_of_floats(w_IO), level=level, form="int8", inputs=inputs, outputs=outputs)
    codes_IO, scale_O = forms.quantise_int8(w_IO)
    np.testing.assert_array_equal(matrix.weights(), codes_IO.astype(np.float32) * scale_O)
    np.testing.assert_array_equal(matrix.apply(x_NI), forms.apply(x_NI, codes_IO, scale_O))


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_int4_equals_its_definition(library: Library, level: str, inputs: int, outputs: int) -> None:
    w_IO, x_NI = random_matrix(inputs, outputs), random_rows(inputs)
    matrix = Matrix(library, source_of_floats(w_IO), level=level, form="int4", inputs=inputs, outputs=outputs)
    codes_IO, group_scale_GO, row_scale_O = quantise_int4(w_IO)
    whole_IO = codes_IO * np.repeat(group_scale_GO, forms.GROUP_INPUTS, axis=0)[:inputs]
    np.testing.assert_array_equal(matrix.weights(), whole_IO.astype(np.float32) * row_scale_O)
    np.testing.assert_array_equal(matrix.apply(x_NI), forms.apply(x_NI, codes_IO, row_scale_O, group_scale_GO))


def test_int4_codes_are_taken_as_they_are(library: Library, level: str) -> None:
    w_IO = random_matrix(100, 50)
    codes_IO, group_scale_GO, row_scale_O = quantise_int4(w_IO)
    codes_OI, group_scale_OG = np.ascontiguousarray(codes_IO.T), np.ascontiguousarray(group_scale_GO.T, np.uint8)
    source = source_of_int4(codes_OI, row_scale_O, group_scale_OG)
    matrix = Matrix(library, source, level=level, form="int4", inputs=100, outputs=50)
    packed = Matrix(library, source_of_floats(w_IO), level=level, form="int4", inputs=100, outputs=50)
    np.testing.assert_array_equal(matrix.weights(), packed.weights())
    np.testing.assert_array_equal(matrix.apply(random_rows(100)), packed.apply(random_rows(100)))


def test_the_largest_products_do_not_overflow(library: Library, level: str) -> None:
    for form, inputs in (("int8", 6400), ("int4", 16384)):
        w_IO = np.full((inputs, 16), -1, np.float32)
        w_IO[:, ::2] = 1
        matrix = Matrix(library, source_of_floats(w_IO), level=level, form=form, inputs=inputs, outputs=16)
        for rows in (2, 20):
            y_NO = matrix.apply(np.ones((rows, inputs), np.float32))
            np.testing.assert_allclose(y_NO[-1], w_IO.sum(axis=0), rtol=0.08 if form == "int4" else 1e-5)


@pytest.mark.parametrize("rows", [5, 40])
def test_int8_codes_of_every_sign_are_exact(library: Library, level: str, rows: int) -> None:
    random = np.random.default_rng(2)
    codes_IO = random.integers(-128, 128, (64, 32)).astype(np.int8)
    codes_IO[:, 0], codes_IO[:, 1] = -128, 127
    scale_O = np.ones(32, np.float32)
    matrix = Matrix(library, source_of_codes(codes_IO, scale_O), level=level, form="int8", inputs=64, outputs=32)
    x_NI = np.where(random.random((rows, 64)) < 0.5, -1, 1).astype(np.float32)  # codes of -127 and 127
    np.testing.assert_array_equal(matrix.apply(x_NI), forms.apply(x_NI, codes_IO, scale_O))


@pytest.mark.parametrize("form", ["fp32", "bf16"])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_float_forms_are_close_to_float64(library: Library, level: str, form: str, inputs: int, outputs: int) -> None:
    w_IO, x_NI = random_matrix(inputs, outputs), random_rows(inputs)
    matrix = Matrix(library, source_of_floats(w_IO), level=level, form=form, inputs=inputs, outputs=outputs)
    if form == "fp32":
        np.testing.assert_array_equal(matrix.weights(), w_IO)
    else:
        np.testing.assert_allclose(matrix.weights(), w_IO, rtol=2**-8)
    rounds = form == "bf16" and level in ("amx", "avx512-bf16")  # they multiply bfloat16 only
    read_NI = to_bf16(x_NI) if rounds else x_NI
    exact_NO = read_NI.astype(np.float64) @ matrix.weights().astype(np.float64)
    size_NO = np.abs(x_NI) @ np.abs(matrix.weights())
    assert np.all(np.abs(matrix.apply(x_NI) - exact_NO) <= 2e-6 * size_NO)


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
def test_a_row_has_the_same_bits_alone_and_among_others(library: Library, level: str, form: str) -> None:
    w_IO, x_NI = random_matrix(131, 100), random_rows(131)
    matrix = Matrix(library, source_of_floats(w_IO), level=level, form=form, inputs=131, outputs=100)
    together_NO = matrix.apply(x_NI)
    for count in (1, 2, 3, 4, 5, 6, 7):
        np.testing.assert_array_equal(matrix.apply(x_NI[2 : 2 + count]), together_NO[2 : 2 + count])


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize(("inputs", "outputs"), [(131, 100), (1056, 33)])
def test_of_many_rows_each_has_the_bits_it_has_among_few(
    library: Library, level: str, form: str, inputs: int, outputs: int
) -> None:
    w_IO, x_NI = random_matrix(inputs, outputs), random_rows(inputs, 300)
    matrix = Matrix(library, source_of_floats(w_IO), level=level, form=form, inputs=inputs, outputs=outputs)
    together_NO = matrix.apply(x_NI)
    for count in (7, 8, 9, 10, 16, 17, 33, 64, 257):
        np.testing.assert_array_equal(matrix.apply(x_NI[-count:]), together_NO[-count:])


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
def test_a_transposed_matrix_packs_the_same(library: Library, level: str, form: str) -> None:
    w_IO = random_matrix(131, 100)
    plain = Matrix(library, source_of_floats(w_IO), level=level, form=form, inputs=131, outputs=100)
    w_OI = np.ascontiguousarray(w_IO.T)
    turned = Matrix(library, source_of_floats(w_OI, by_output=True), level=level, form=form, inputs=131, outputs=100)
    np.testing.assert_array_equal(plain.weights(), turned.weights())


def test_int4_fits_better_than_by_the_largest_weight() -> None:
    w_IO = np.random.default_rng(4).standard_normal((256, 64)).astype(np.float32)
    codes_IO, group_scale_GO, row_scale_O = quantise_int4(w_IO)
    fitted_IO = codes_IO * np.repeat(group_scale_GO, forms.GROUP_INPUTS, axis=0) * row_scale_O
    step_GO = np.abs(w_IO.reshape(8, 32, 64)).max(axis=1) / 7
    plain_IO = np.rint(w_IO.reshape(8, 32, 64) / step_GO[:, None]) * step_GO[:, None]
    fitted_error, plain_error = np.square(fitted_IO - w_IO).mean(), np.square(plain_IO.reshape(256, 64) - w_IO).mean()
    assert fitted_error < 0.95 * plain_error


# Of a weight whose largest is 127 * 128: what exp rounds otherwise may move one by a step; 1 % for other roundings.
ONE_STEP = 1.01 / (127 * 128)


@pytest.mark.parametrize(
    ("width", "positions", "rows"), [(64, 300, 300), (64, 64, 1), (20, 130, 17), (7, 67, 5), (1, 1, 1)]
)
def test_attention_in_int8_equals_its_definition(
    library: Library, level: str, width: int, positions: int, rows: int
) -> None:
    random = np.random.default_rng(width)
    q_RD, k_SD, v_SD = (random.standard_normal((n, width)).astype(np.float32) for n in (rows, positions, positions))
    q_RD *= 3  # some rows look at few positions, some at many
    k_SD[::3] *= 2
    v_SD[::5] *= 10
    v_SD[-1] = 0
    got_RD = attend(library, level=level, form="int8", q_RD=q_RD, k_SD=k_SD, v_SD=v_SD)
    exact_RD = forms.attend(q_RD, k_SD, v_SD)
    np.testing.assert_allclose(got_RD, exact_RD, rtol=0, atol=ONE_STEP * np.abs(v_SD).max())
    np.testing.assert_array_equal(got_RD, attend(library, level=level, form="int4", q_RD=q_RD, k_SD=k_SD, v_SD=v_SD))
    for row in range(0, rows, 41):  # alone
        alone_D = attend(
            library,
            level=level,
            form="int8",
            q_RD=q_RD[row : row + 1],
            k_SD=k_SD[: positions - rows + row + 1],
            v_SD=v_SD[: positions - rows + row + 1],
        )[0]
        np.testing.assert_array_equal(alone_D, got_RD[row])


@pytest.mark.parametrize("form", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("width", "positions", "rows"),
    [(64, 300, 300), (64, 64, 1), (80, 130, 17), (96, 129, 33), (33, 70, 20), (7, 67, 5), (1, 1, 1)],
)
def test_attention_in_float_forms_is_close_to_float64(
    library: Library, level: str, form: str, width: int, positions: int, rows: int
) -> None:
    random = np.random.default_rng(width)
    q_RD, k_SD, v_SD = (random.standard_normal((n, width)).astype(np.float32) for n in (rows, positions, positions))
    q_RD *= 3
    v_SD[::5] *= 10
    by_tiles = form == "bf16" and level == "amx"  # keys and values in bfloat16, and what they are multiplied by
    read = to_bf16 if by_tiles else to_fp16 if form == "bf16" else np.asarray
    asked_RD = q_RD * (np.float32(1) / np.sqrt(np.float32(width)))
    score_RS = (to_bf16(asked_RD) if by_tiles else asked_RD).astype(np.float64) @ read(k_SD).astype(np.float64).T
    score_RS[np.arange(positions) > np.arange(positions - rows, positions)[:, None]] = -np.inf
    weight_RS = np.exp(score_RS - score_RS.max(axis=1, keepdims=True))
    weight_RS /= weight_RS.sum(axis=1, keepdims=True)
    got_RD = attend(library, level=level, form=form, q_RD=q_RD, k_SD=k_SD, v_SD=v_SD)
    size_RD = weight_RS @ np.abs(read(v_SD)).astype(np.float64)
    assert np.all(np.abs(got_RD - weight_RS @ read(v_SD)) <= (1e-5 + 2**-8 * by_tiles) * size_RD)
    for row in range(rows):  # alone
        seen = positions - rows + row + 1
        alone = {"q_RD": q_RD[row : row + 1], "k_SD": k_SD[:seen], "v_SD": v_SD[:seen]}
        np.testing.assert_array_equal(attend(library, level=level, form=form, **alone)[0], got_RD[row])


@pytest.mark.parametrize(
    ("positions", "values"),
    [
        (2, {0: 1.5 * 2**-126, 1: -(2.0**-126)}),  # their sum is subnormal, which tiles count as zero
        (65, {0: 2.0**-126, 32: -1.5 * 2**-126}),  # -0 of 64 positions; what is seen of a page after them adds 0
    ],
)
def test_the_smallest_sums_too_have_the_same_bits_alone(
    library: Library, level: str, positions: int, values: dict[int, float]
) -> None:
    k_SD, v_SD = np.zeros((positions, 16), np.float32), np.zeros((positions, 16), np.float32)
    for position, value in values.items():
        v_SD[position] = value
    q_RD = np.zeros((2, 16), np.float32)
    together_RD = attend(library, level=level, form="bf16", q_RD=q_RD, k_SD=k_SD, v_SD=v_SD)
    for row in range(2):
        seen = positions - 1 + row
        alone = {"q_RD": q_RD[row : row + 1], "k_SD": k_SD[:seen], "v_SD": v_SD[:seen]}
        alone_D = attend(library, level=level, form="bf16", **alone)[0]
        np.testing.assert_array_equal(alone_D.view(np.uint32), together_RD[row].view(np.uint32))


def test_weights_that_are_all_alike_lose_nothing_by_rounding(library: Library, level: str) -> None:
    for gap in (0.01, 0.3, 1, 3):
        k_SD, q_RD = np.zeros((1024, 16), np.float32), np.eye(1, 16, dtype=np.float32)
        k_SD[0, 0] = 4 * gap
        for form in ("fp32", "bf16"):
            out_RD = attend(library, level=level, form=form, q_RD=q_RD, k_SD=k_SD, v_SD=np.ones_like(k_SD))
            np.testing.assert_allclose(out_RD, 1, rtol=2e-5)


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_as_key_and_as_value(
    library: Library, level: str, form: str, damage: float
) -> None:
    for at in (0, 66):
        whole_SD, damaged_SD = np.ones((70, 5), np.float32), np.ones((70, 5), np.float32)
        damaged_SD[at, 4] = damage
        for k_SD, v_SD in ((damaged_SD, whole_SD), (whole_SD, damaged_SD)):
            with pytest.raises(BackendError, match="finite"):
                attend(library, level=level, form=form, q_RD=whole_SD[:1], k_SD=k_SD, v_SD=v_SD)


@pytest.mark.parametrize("width", [64, 80, 128])
def test_the_largest_sums_of_attention_are_exact(library: Library, level: str, width: int) -> None:
    """Codes of 127 and -127 alone, and 1,024 positions that weigh the same."""
    sign_D = np.where(np.arange(width) % 3 == 0, -1, 1).astype(np.float32)
    ones_SD = np.ones((1024, width), np.float32)
    for q_D in (sign_D, ones_SD[0]):
        out_RD = attend(library, level=level, form="int8", q_RD=q_D[None], k_SD=ones_SD * q_D, v_SD=ones_SD * sign_D)
        np.testing.assert_allclose(out_RD, sign_D[None], rtol=0, atol=ONE_STEP)
    random_SD = np.where(np.random.default_rng(3).random((1024, width)) < 0.5, -1, 1).astype(np.float32)
    for q_RD in (random_SD[-3:], random_SD[-20:]):
        got_RD = attend(library, level=level, form="int8", q_RD=q_RD, k_SD=random_SD, v_SD=random_SD)
        np.testing.assert_allclose(got_RD, forms.attend(q_RD, random_SD, random_SD), rtol=0, atol=ONE_STEP)


def test_attention_refuses_what_does_not_fit(library: Library, level: str) -> None:
    def see(form: str, k_SD: np.ndarray, v_SD: np.ndarray) -> np.ndarray:
        return attend(library, level=level, form=form, q_RD=np.ones((1, 1), np.float32), k_SD=k_SD, v_SD=v_SD)

    long_SD = np.ones((131073, 1), np.float32)
    for form in ("int8", "int4"):
        with pytest.raises(BackendError, match="32 bits"):
            see(form, long_SD, long_SD)
        np.testing.assert_allclose(see(form, long_SD[1:], long_SD[1:]), 1, rtol=1e-4)
    for k_SD, v_SD in ((long_SD[:4], long_SD[:3]), (long_SD[:4], np.ones((4, 2), np.float32))):
        with pytest.raises(BackendError, match="positions"):
            see("fp32", k_SD, v_SD)


def test_a_long_tail_of_small_weights_is_not_lost(library: Library, level: str) -> None:
    k_SD, v_SD = np.zeros((1001, 16), np.float32), np.ones((1001, 16), np.float32)
    k_SD[0, 0], v_SD[0] = 4 * np.log(1000), -1  # one position weighs what a thousand others do together
    q_RD = np.eye(1, 16, dtype=np.float32)
    out_RD = attend(library, level=level, form="int8", q_RD=q_RD, k_SD=k_SD, v_SD=v_SD)
    np.testing.assert_allclose(out_RD, 0, atol=0.02)


def test_a_matrix_too_wide_for_32_bit_sums_is_refused(library: Library, level: str) -> None:
    w_IO = np.zeros((16385, 1), np.float32)
    with pytest.raises(BackendError, match="too wide"):
        Matrix(library, source_of_floats(w_IO), level=level, form="int4", inputs=16385, outputs=1)
