"""Targets together equal each alone, and every chunk falls where it may."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gpt2.errors import ContextError
from gpt2.generation import targets
from gpt2.generation.targets import Target, score_targets


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_equal_the_definition(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(targets, "_CHUNK_TOKENS", chunk)
    backend = toy.Backend()
    requests = [
        Target(context=tuple(range(n)), targets=tuple(range(100, 100 + m)), best=best)
        for n, m, best in [(1, 1, 0), (5, 3, 4), (2, 9, 1), (30, 3, 2), (7, 1, 0)]
    ]
    found = score_targets(backend, requests)
    for request, score in zip(requests, found, strict=True):
        ids = [*request.context, *request.targets]
        for i, token in enumerate(request.targets):
            logits = torch.from_numpy(backend.logits(ids[: len(request.context) + i]))
            expected = torch.log_softmax(logits, 0)
            assert score.logprobs[i] == pytest.approx(expected[token].item(), abs=1e-4)
            assert score.ranks[i] == (expected > expected[token]).sum()
            if i == 0:
                assert score.best == tuple(np.argsort(-logits.numpy())[: request.best])
        assert len(score.logprobs) == len(score.ranks) == len(request.targets)
    assert backend.slots == {}
    assert [score_targets(backend, [request])[0] for request in requests] == found


def test_beyond_the_context(toy: SimpleNamespace) -> None:
    backend = toy.Backend()
    fits = Target(context=(1,) * 31, targets=(1, 2))
    assert len(score_targets(backend, [fits])[0].logprobs) == 2
    with pytest.raises(ContextError, match="take 33 tokens, and the model's context is 32"):
        score_targets(backend, [fits, Target(context=(1,) * 32, targets=(1, 2))])
    assert backend.slots == {}
    assert score_targets(backend, []) == []
