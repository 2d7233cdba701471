"""What the reference promises beyond the contract: the same bytes alone and in company, and little memory."""

import numpy as np
import pytest

from gpt2.backends import NEXT_LOGITS, Trace, Want, Work, readout
from gpt2.backends import reference as backend_module
from gpt2.backends.reference import ReferenceBackend
from gpt2.checkpoint.weights import Weights
from gpt2.errors import BackendError

TEXT = [int(token) for token in np.random.default_rng(6).integers(97, size=100)]


def test_a_text_gives_the_same_bytes_alone_and_among_others(weights: Weights) -> None:
    alone, together = ReferenceBackend(weights), ReferenceBackend(weights)
    texts = [TEXT[:30], TEXT[30:31], TEXT[31:78]]
    slots = [together.new() for _ in texts]
    work = [
        Work(slot=slot, tokens=text, want=Want(rows=len(text), logits=True))
        for slot, text in zip(slots, texts, strict=True)
    ]
    for piece, result in zip(work, together.step(work), strict=True):
        (own,) = alone.step([Work(slot=alone.new(), tokens=piece.tokens, want=piece.want)])
        assert own.logits_RV is not None
        assert result.logits_RV is not None
        np.testing.assert_array_equal(own.logits_RV, result.logits_RV)


@pytest.mark.parametrize("rows", [48, 20, 1])
def test_a_long_text_is_read_and_answered_in_parts(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    want = Want(
        rows=rows,
        logits=True,
        best=3,
        targets=TEXT[:rows],
        trace=Trace(residual=(0, 3), attention=((1, 2),)),
    )

    def read() -> list[np.ndarray]:
        backend = ReferenceBackend(weights)
        slot = backend.new()
        backend.step([Work(slot=slot, tokens=TEXT[:48], want=want)])
        backend.truncate(slot, 0)
        (r,) = backend.step([Work(slot=slot, tokens=TEXT[:48], want=want)])
        parts = [r.logits_RV, r.best_ids_RK, r.best_logprobs_RK, r.target_logprobs_R, r.target_ranks_R, r.entropies_R]
        return [part for part in [*parts, *r.residual.values(), *r.attention.values()] if part is not None]

    whole = read()
    monkeypatch.setattr(backend_module, "_CHUNK_TOKENS", 7)
    monkeypatch.setattr(readout, "_LOGITS_AT_ONCE", 97 * 5 + 1)
    parts = read()
    assert len(whole) == len(parts) == 9
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-5)


def test_logits_are_never_made_for_a_whole_long_text(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def head(x_ND: np.ndarray) -> np.ndarray:
        made.append(len(x_ND))
        return np.zeros((len(x_ND), 97), np.float32)

    monkeypatch.setattr(readout, "_LOGITS_AT_ONCE", 1000)
    readout.read_out(Want(rows=25, targets=TEXT[:25]), np.zeros((25, 21), np.float32), head, 97)
    assert made == [10, 10, 5]
    readout.read_out(Want(rows=25), np.zeros((25, 21), np.float32), head, 97)
    assert made == [10, 10, 5]


def test_capacity_doubles_up_to_the_context(weights: Weights) -> None:
    backend = ReferenceBackend(weights)
    slot = backend.new()
    held: list[int] = []
    for token in TEXT[:48]:
        backend.step([Work(slot=slot, tokens=[token])])
        held.append(backend.bytes())
    one_token = 2 * 3 * 21 * 4
    assert sorted(set(held)) == [32 * one_token, 48 * one_token]
    backend.truncate(slot, 3)
    assert backend.bytes() == 48 * one_token
    backend.fork(slot)
    assert backend.bytes() == (48 + 3) * one_token


def test_damaged_weights_are_named(weights: Weights) -> None:
    arrays = {name: weights.float32(name).copy() for name in weights.names}
    arrays["h.1.mlp.c_fc.b"][4] = np.inf
    backend = ReferenceBackend(Weights.from_arrays(weights.config, arrays))
    with pytest.raises(BackendError, match="not finite"):  # and no warning
        backend.step([Work(slot=backend.new(), tokens=[1], want=NEXT_LOGITS)])
