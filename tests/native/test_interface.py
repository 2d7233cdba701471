"""The C interface refuses what it cannot do, whoever calls it, and says why."""

import ctypes
from typing import Any

import numpy as np
import pytest

from gpt2.errors import BackendError
from gpt2.native.interface import (
    FORMS,
    Source,
    Wanted,
    Work,
    source_of_codes,
    source_of_floats,
    source_of_int4,
    work_of,
)
from gpt2.native.library import Engine, Library, Matrix

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 33, "n_inner": 40}
CODES, SCALES, GROUPS = np.zeros((64, 16), np.int8), np.ones(16, np.float32), np.ones((16, 2), np.uint8)
OF_FORM = {"int8": source_of_codes(CODES, SCALES), "int4": source_of_int4(CODES.reshape(16, 64), SCALES, GROUPS)}


def engine(library: Library, form: str = "int8", **other: int) -> Engine:
    shape = {**SHAPE, "layer_norm_epsilon": 1e-5, **other}
    return Engine(library, shape=shape, form=form, level="portable", threads=1)


@pytest.mark.parametrize("wrong", ["n_embd", "n_positions", "vocab_size", "n_inner", "n_layer"])
def test_a_shape_whose_sizes_are_no_numbers_of_32_bits_is_refused(library: Library, wrong: str) -> None:
    with pytest.raises(BackendError, match="shape"):
        engine(library, "fp32", **{wrong: 1 << 30})


@pytest.mark.parametrize(("inputs", "outputs"), [(-1, 4), (0, 4), (4, 0), (4, -(1 << 31)), (4, (1 << 31) - 1)])
def test_a_matrix_that_none_has_is_refused(library: Library, inputs: int, outputs: int) -> None:
    with pytest.raises(BackendError, match="shape"):
        Matrix(library, source_of_floats(SCALES), level="portable", form="fp32", inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", OF_FORM)
def test_codes_become_a_matrix_of_their_own_form_alone(library: Library, form: str, stored: str) -> None:
    if form == stored:
        Matrix(library, OF_FORM[stored], level="portable", form=form, inputs=64, outputs=16)
        return
    with pytest.raises(BackendError, match="codes of this form"):
        Matrix(library, OF_FORM[stored], level="portable", form=form, inputs=64, outputs=16)


@pytest.mark.parametrize(
    "name",
    ["", "w", ".w", "wte.w", "wte.b", "wpe.w", "ln_f", "h.0.ln_1", "h.1.ln_1.g", "h.0.attn.c_attn", "h.0.mlp.c_fc.x"],
)
def test_an_array_of_another_name_is_refused(library: Library, name: str) -> None:
    values = np.ones((64, 128), np.float32)
    with pytest.raises(BackendError, match="no array of this GPT-2 is called"):
        engine(library).load(name, source_of_floats(values))


@pytest.mark.parametrize("name", ["wpe", "ln_f.g", "h.0.attn.c_attn.b", "h.0.attn.c_attn.w", "wte"])
def test_an_array_of_nothing_is_refused(library: Library, name: str) -> None:
    with pytest.raises(BackendError, match="floats"):
        engine(library).load(name, Source())


def test_there_are_no_pieces_before_the_first_and_past_the_last(library: Library) -> None:
    of, data = engine(library), ctypes.c_void_p()
    n_pieces = len(list(of.pieces()))
    for index in (-(1 << 31), -1, n_pieces, (1 << 31) - 1):
        assert library.calls.gpt2_engine_piece(of.handle, index, ctypes.byref(data)) == -1


@pytest.mark.parametrize("form", FORMS)
def test_an_array_that_is_given_twice_counts_once(library: Library, level: str, form: str) -> None:
    random = np.random.default_rng(0)
    first_IO, second_IO = (random.standard_normal((35, 105)).astype(np.float32) for _ in range(2))
    pieces = []
    for given in ([second_IO], [first_IO, second_IO]):
        shape = {**SHAPE, "n_embd": 35, "n_head": 5, "layer_norm_epsilon": 1e-5}
        of = Engine(library, shape=shape, form=form, level=level, threads=1)
        for array in given:
            of.load("h.0.attn.c_attn.w", source_of_floats(array))
        pieces.append([bytes(piece) for piece in of.pieces()])
        of.close()
    assert pieces[0] == pieces[1]


ZEROS = np.zeros(64)
ROOM = ZEROS.ctypes.data
DRAWN = {"drawn": ROOM, "draw_keys": ROOM, "draw_temperature": 1.0, "draw_top_p": 1.0}
TEXT = {**DRAWN, "text": ROOM, "text_count": 1, "repetition_penalty": 1.0}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tokens": None}, "not in the vocabulary"),
        ({"rows": -1}, "too few tokens"),
        ({"rows": 2}, "too few tokens"),
        ({"token_count": 0}, "too few tokens"),
        ({"token_count": (1 << 31) - 1}, "do not fit"),
        ({"best": 3}, "no room for the best"),
        ({"best": 3, "best_ids": ROOM}, "no room for the best"),
        ({"targets": ROOM}, "no room for what is known"),
        ({**DRAWN, "draw_keys": None}, "by keys"),
        ({**DRAWN, "draw_temperature": np.nan}, "temperatures"),
        ({**DRAWN, "draw_top_p": np.nan}, "no tokens"),
        ({**DRAWN, "draw_min_p": np.nan}, "no tokens"),
        ({**DRAWN, "draw_top_k": 34}, "more tokens than there are"),
        ({**TEXT, "repetition_penalty": 0.0}, "penalties"),
        ({**TEXT, "repetition_penalty": np.nan}, "penalties"),
        ({**TEXT, "presence_penalty": np.inf}, "penalties"),
        ({**TEXT, "frequency_penalty": -np.inf}, "penalties"),
        ({"residual_count": 1, "residual": ROOM}, "a trace"),
        ({"attention_count": 1, "attention": ROOM}, "a trace"),
    ],
)
def test_a_step_that_cannot_be_done_is_refused(library: Library, wrong: dict[str, Any], told: str) -> None:
    of = engine(library)
    work = work_of(Wanted(slot=of.new_slot(), tokens=np.zeros(1, np.int32), rows=1))
    for name, value in wrong.items():
        setattr(work, name, value)
    assert library.calls.gpt2_step(of.handle, ctypes.byref(work), 1) == -1
    assert told in library.error()
    assert of.slots_bytes() == 0


@pytest.mark.parametrize("depth", [-1, 2])
def test_a_depth_or_head_that_there_is_not_is_refused(library: Library, depth: int) -> None:
    of = engine(library)
    wanted = Wanted(slot=of.new_slot(), tokens=np.zeros(1, np.int32), rows=1)
    wanted.residual_depths, wanted.residual = np.array([depth], np.int32), np.empty((1, 1, 32), np.float32)
    with pytest.raises(BackendError, match="a trace of what there is not"):
        of.step([wanted])
    for pair in ([0, depth], [depth // 2, 0]):
        wanted = Wanted(slot=wanted.slot, tokens=wanted.tokens, rows=1)
        wanted.attention_heads, wanted.attention = np.array([pair], np.int32), np.empty((1, 1, 1), np.float32)
        with pytest.raises(BackendError, match="a trace of what there is not"):
            of.step([wanted])


def test_work_for_a_slot_that_is_not_there_or_given_twice_is_refused(library: Library) -> None:
    of = engine(library)
    slot = of.new_slot()
    for slots, told in (([slot, slot], "two pieces"), ([slot, 7], "no slot 7"), ([-1], "no slot -1")):
        with pytest.raises(BackendError, match=told):
            of.step([Wanted(slot=number, tokens=np.zeros(1, np.int32)) for number in slots])
    for call, given in ((of.truncate, (slot, 1)), (of.truncate, (slot, -1)), (of.fork, (3,)), (of.free_slot, (-1,))):
        with pytest.raises(BackendError):
            call(*given)
    assert library.calls.gpt2_step(of.handle, (Work * 1)(), -1) == -1


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("vocab_size", [1, 40])
def test_where_penalties_leave_nothing_the_first_token_is_drawn(
    library: Library, level: str, vocab_size: int, temperature: float
) -> None:
    shape = {**SHAPE, "vocab_size": vocab_size, "layer_norm_epsilon": 1e-5}
    of = Engine(library, shape=shape, form="fp32", level=level, threads=1)
    text = np.arange(vocab_size, dtype=np.int32)
    wanted = Wanted(slot=of.new_slot(), tokens=np.zeros(1, np.int32), rows=1, text=text, presence_penalty=1e300)
    wanted.draw_keys, wanted.drawn, wanted.draw_temperature = np.ones(1, np.uint64), np.empty(1, np.int32), temperature
    of.step([wanted])
    assert 0 <= wanted.drawn[0] < vocab_size
    assert temperature > 0 or wanted.drawn[0] == 0
