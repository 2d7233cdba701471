"""Wherever memory runs out the engine says so, changes nothing, and goes on once there is some.

`counted_memory.c` refuses one request after another, and must be in a process before all else: so what is tried is this
file run by itself.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from gpt2.errors import BackendError
from gpt2.native.interface import Wanted, source_of_floats
from gpt2.native.library import Engine, Library

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 1400, "vocab_size": 50, "n_inner": 40}
FORMS = ("fp32", "int8")


@pytest.mark.parametrize("form", FORMS)
def test_a_refused_request_is_said_and_changes_nothing(run_counted: Callable[..., Any], form: str) -> None:
    refused = run_counted(__file__, form)
    assert all(refused[call] > 0 for call in ("gpt2_engine_new", "gpt2_engine_load", "gpt2_slot_new", "gpt2_step"))
    assert refused["gpt2_slots_bytes"] == 0  # which has no way to say so


# ---- in the process where memory is refused ----


class Refusing:
    """The library's calls, each of which may be refused its n-th request for memory."""

    def __init__(self) -> None:
        self.calls = Library.load().calls
        self.refused: dict[str, int] = {}
        self._counted = ctypes.CDLL(None).call_counted
        self._counted.argtypes = [*[ctypes.c_void_p] * 5, ctypes.c_int32, ctypes.c_void_p]
        self._counted.restype = ctypes.c_int64
        self._nth = 0
        self.was_refused = False
        for name in ("engine_new", "engine_load", "slot_new", "slot_fork", "slot_truncate", "slot_free", "slots_bytes"):
            self._wrap(f"gpt2_{name}")
        self._wrap("gpt2_step")

    def _wrap(self, name: str) -> None:
        function = getattr(self.calls, name)
        at, result = ctypes.cast(function, ctypes.c_void_p), function.restype
        self.refused[name] = 0

        def call(*given: Any) -> Any:
            asked, arguments = ctypes.c_int32(), [*given, *[None] * (4 - len(given))]
            returned = self._counted(at, *arguments, self._nth, ctypes.byref(asked))
            self.was_refused = 0 < self._nth <= asked.value
            self.refused[name] += self.was_refused
            return result(returned).value

        setattr(self.calls, name, call)

    def until_granted(self, call: Any, unchanged: Any) -> Any:
        """What the call returns, after each of its requests was refused once."""
        for nth in count(1):
            before = unchanged()
            self._nth, told = nth, ""
            try:
                returned = call()
            except BackendError as error:
                returned, told = None, str(error)
            self._nth = 0
            if not told:
                assert not self.was_refused, "a refused request that nobody noticed"
                return returned
            assert "not enough memory" in told or "starts no more threads" in told, told
            assert unchanged() == before, nth
        raise AssertionError


def text(start: int, n_tokens: int) -> np.ndarray:
    return (np.arange(start, start + n_tokens, dtype=np.int32) * 7) % SHAPE["vocab_size"]


def arrays() -> dict[str, np.ndarray]:
    D, F = SHAPE["n_embd"], SHAPE["n_inner"]
    sizes = {"wte": (SHAPE["vocab_size"], D), "wpe": (SHAPE["n_positions"], D), "ln_f.g": (D,), "ln_f.b": (D,)}
    sizes |= {f"h.0.{norm}": (D,) for norm in ("ln_1.g", "ln_1.b", "ln_2.g", "ln_2.b")}
    for part, inputs, outputs in (("attn.c_attn", D, 3 * D), ("attn.c_proj", D, D), ("mlp.c_fc", D, F)):
        sizes |= {f"h.0.{part}.w": (inputs, outputs), f"h.0.{part}.b": (outputs,)}
    sizes |= {"h.0.mlp.c_proj.w": (F, D), "h.0.mlp.c_proj.b": (D,)}
    random = np.random.default_rng(0)
    return {name: 0.3 * random.standard_normal(size, np.float32) for name, size in sizes.items()}


def main() -> None:
    refusing, form = Refusing(), sys.argv[1]
    library = Library.load()
    engine = refusing.until_granted(
        lambda: Engine(
            library, shape={**SHAPE, "layer_norm_epsilon": 1e-5}, form=form, level=library.levels[0], threads=2
        ),
        lambda: None,
    )
    for name, values in arrays().items():
        source = source_of_floats(values, by_output=name == "wte")
        refusing.until_granted(lambda name=name, source=source: engine.load(name, source), lambda: None)

    def held() -> int:
        return engine.slots_bytes()

    def logits(slot: int, ids: np.ndarray) -> np.ndarray:
        row = np.empty((1, SHAPE["vocab_size"]), np.float32)
        engine.step([Wanted(slot=slot, tokens=ids, rows=1, logits=row)])
        return row

    def new() -> int:
        return refusing.until_granted(engine.new_slot, held)

    # What a refused step had taken for the tokens of a text must not be common to it and a fork of it.
    first, second = new(), new()
    prompt, long, other = text(0, 10), text(10, 1300), text(999, 1300)
    refusing.until_granted(lambda: engine.step([Wanted(slot=first, tokens=prompt)]), held)
    forks = list[int]()

    def fork_if_refused() -> int:
        if refusing.was_refused:
            if forks:
                engine.free_slot(forks.pop())
            forks.append(engine.fork(first))
        return held()

    refusing.until_granted(
        lambda: engine.step([Wanted(slot=first, tokens=long), Wanted(slot=second, tokens=long)]), fork_if_refused
    )
    engine.step([Wanted(slot=forks[0], tokens=other)])
    fresh = new()
    expected = logits(fresh, np.concatenate([prompt, long, text(5, 1)]))
    np.testing.assert_array_equal(logits(first, text(5, 1)), expected)

    third = refusing.until_granted(lambda: engine.fork(second), held)
    for slot in (first, second, third, fresh, *forks):
        refusing.until_granted(lambda slot=slot: engine.truncate(slot, 3), lambda: None)
        refusing.until_granted(lambda slot=slot: engine.free_slot(slot), lambda: None)
    assert held() == 0
    print(json.dumps(refusing.refused))


if __name__ == "__main__":
    main()
