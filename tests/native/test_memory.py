"""After its first steps a step asks for no memory but for keys and values of new positions.

`counted_memory.c` counts, and must be in a process before all else: so what is counted is this file run by itself.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpt2.backends.native import NativeBackend
from gpt2.backends.seam import NOTHING, Draw, Penalties, Trace, Want, Work
from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.native.interface import FORMS, PAGE_TOKENS
from gpt2.native.library import Library

CONFIG = ModelConfig(n_layer=2, n_head=3, n_embd=48, n_positions=400, vocab_size=2003)

# How often a page of 64 positions that no earlier sequence has left may ask. Pages are made by slabs of up to 16:
# its memory, its owner, a record for each page; and the list of free pages may grow, each time to the double.
MOST_FOR_A_PAGE = 2 + 16 + 5


@pytest.mark.parametrize("form", FORMS)
def test_steps_ask_for_no_memory(run_counted: Callable[..., Any], form: str) -> None:
    steps = [Step(*step) for step in run_counted(__file__, form)]
    assert steps[0].asked > 0  # so the counter sees the engine
    warm = [step for step in steps if not step.is_first]
    assert len(warm) > 1000
    assert [step for step in warm if step.asked > MOST_FOR_A_PAGE * step.pages] == []
    assert any(step.asked > 0 for step in warm)
    again = [step for step in warm if step.round == 2]  # pages of the sequences before are free
    assert any(step.pages > 0 for step in again)
    assert [step for step in again if step.asked > 0] == []


class Step(NamedTuple):
    name: str  # of what
    round: int
    is_first: bool  # or one of the first few of its kind
    pages: int  # that begin in it
    asked: int  # how often for memory


# ---- in the process where memory is counted ----


class Counted:
    """A backend whose steps are noted."""

    def __init__(self, form: str) -> None:
        random = np.random.default_rng(0)
        arrays = {
            name: random.standard_normal(shape).astype(np.float32) * 0.1 + name.endswith(".g")
            for name, shape in shapes(CONFIG).items()
        }
        self.backend = NativeBackend(Weights.from_arrays(CONFIG, arrays), form=form, threads=2)
        self.steps: list[Step] = []
        self.round = 1
        calls = Library.load().calls
        counted, step = ctypes.CDLL(None).call_counted, ctypes.cast(calls.gpt2_step, ctypes.c_void_p)
        counted.argtypes = [*[ctypes.c_void_p] * 5, ctypes.c_int32, ctypes.c_void_p]
        self._asked = ctypes.c_int32()
        calls.gpt2_step = lambda engine, work, pieces: counted(
            step, engine, work, pieces, None, 0, ctypes.byref(self._asked)
        )

    def step(self, name: str, work: list[Work], *, is_first: bool) -> None:
        lengths = [(self.backend.length(piece.slot), len(piece.tokens)) for piece in work]
        pages = sum(-(-(held + new) // PAGE_TOKENS) - -(-held // PAGE_TOKENS) for held, new in lengths)
        self.backend.step(work)
        self.steps.append(Step(name, self.round, is_first and self.round == 1, pages, self._asked.value))

    def write(self, name: str, texts: int, want: Callable[[int, int], Want]) -> None:
        """Texts of two pages side by side; a prompt and two tokens are their first steps. want(text, position)."""
        slots = [self.backend.new() for _ in range(texts)]
        for position in range(9, 70):
            tokens = list(range(10)) if position == 9 else [position]
            work = [Work(slot=slot, tokens=tokens, want=want(text, position)) for text, slot in enumerate(slots)]
            self.step(name, work, is_first=position < 12)
        self.free(slots)

    def read(self) -> None:
        """Prompts longer than what goes through the layers together, and in pieces of several lengths."""
        for prompt in range(4):
            slot, rows = self.backend.new(), Want(rows=40, best=3)
            for count in (300, 1, 60, 17):
                work = Work(slot=slot, tokens=[count] * count, want=rows if count > 40 else NOTHING)
                self.step("prompt", [work], is_first=prompt == 0)
            self.free([slot])

    def free(self, slots: list[int]) -> None:
        for slot in slots:
            self.backend.free(slot)


def wants(position: int) -> Iterator[tuple[str, Want]]:
    """All that can be wanted of a row, at a position of a text."""
    keys = [position]
    penalties = Penalties(text=[5, 6, 5, *range(position)], n_prompt=2, repetition=1.2, frequency=0.3)
    yield "nothing", NOTHING
    yield "greedy", Want(draw=Draw(keys=keys, temperature=0.0))
    yield "sampled", Want(draw=Draw(keys=keys, temperature=0.8))
    yield "top-k", Want(draw=Draw(keys=keys, temperature=0.8, top_k=40))
    yield "top-p", Want(draw=Draw(keys=keys, temperature=1.3, top_p=0.9))
    yield "min-p", Want(draw=Draw(keys=keys, temperature=1.0, min_p=0.01))
    yield "penalties", Want(draw=Draw(keys=keys, temperature=1.0, top_k=20, top_p=0.9, penalties=penalties))
    yield "best", Want(best=7)
    yield "logits", Want(logits=True)
    yield "targets", Want(targets=[position])
    yield "trace", Want(trace=Trace(residual=(0, 2), attention=((1, 2),)))


def main() -> None:
    counted = Counted(sys.argv[1])
    kinds = [name for name, _ in wants(0)]
    for counted.round in (1, 2):
        for kind in kinds:
            counted.write(kind, 1, lambda text, position, kind=kind: dict(wants(position))[kind])
        counted.write("all", 5, lambda text, position: list(wants(position))[(7 * text + position) % len(kinds)][1])
        counted.read()
    counted.round = 3  # more pages than are kept
    counted.write("many", 40, lambda text, position: dict(wants(position))["greedy"])
    counted.backend.close()
    print(json.dumps(counted.steps))


if __name__ == "__main__":
    main()
