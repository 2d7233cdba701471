"""Beam search equals Hugging Face's, ids and scores."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.errors import GenerationError
from gpt2.generation import Request, Sampling
from gpt2.generation.beam import _best_steps, beam_search


def generate(hf: Any, prompt: str, **settings: Any) -> tuple[list[list[int]], list[float]]:
    ids = torch.tensor([list(prompt.encode())])
    with torch.no_grad():
        out = hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            early_stopping=False,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
    return out.sequences[:, ids.shape[1] :].tolist(), out.sequences_scores.tolist()


def unpadded(ids: list[int], eot: int) -> list[int]:
    return ids[: ids.index(eot) + 1] if eot in ids else ids


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("bias", [0.0, 4.0], ids=["long", "ending"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_hugging_face(toy: SimpleNamespace, seed: int, beams: int, bias: float):
    hf, backend = toy.miniature(seed)
    for prompt in ("A", "The quick brown fox"):
        settings: dict[str, Any] = {"logit_bias": {toy.EOT: bias}} if bias else {}
        theirs: dict[str, Any] = {"sequence_bias": [[[toy.EOT], bias]]} if bias else {}
        if seed == 2:
            settings["no_repeat_ngram"] = theirs["no_repeat_ngram_size"] = 2
        sampling = Sampling(max_tokens=20, n=beams, **settings)
        found = beam_search(backend, toy.Tokenizer(), Request(prompt=prompt, sampling=sampling), beams=beams)
        if beams == 1:
            continue_greedily(hf, prompt, found[0].ids, theirs)
            continue
        ids, scores = generate(
            hf, prompt, max_new_tokens=20, num_beams=beams, num_return_sequences=beams, length_penalty=1.0, **theirs
        )
        assert [list(beam.ids) for beam in found] == [unpadded(sequence, toy.EOT) for sequence in ids]
        assert [beam.score for beam in found] == pytest.approx(scores, abs=1e-4)
        assert [beam.finish_reason for beam in found] == ["stop" if toy.EOT in i else "length" for i in ids]
        shown = [[token for token in unpadded(sequence, toy.EOT) if token != toy.EOT] for sequence in ids]
        assert [beam.text for beam in found] == [toy.Tokenizer().decode(sequence) for sequence in shown]
    assert backend.bytes() == 0


@pytest.mark.parametrize(("bias", "length_penalty"), [(3.0, 1.0), (3.0, -1.5), (3.0, 0.3), (0.0, 3.0)])
@pytest.mark.parametrize("seed", range(3))
def test_several_ends_are_hugging_faces(toy: SimpleNamespace, seed: int, bias: float, length_penalty: float):
    hf, backend = toy.miniature(seed)
    stops = [32, 65, 101] if bias else list(range(200))  # so many that few of the best go on
    sampling = Sampling(max_tokens=20, n=4, stop_ids=tuple(stops), logit_bias=dict.fromkeys([toy.EOT, *stops], bias))
    request = Request(prompt="A", sampling=sampling)
    found = beam_search(backend, toy.Tokenizer(), request, beams=4, length_penalty=length_penalty)
    ends = [toy.EOT, *stops]
    theirs: dict[str, Any] = {"sequence_bias": [[[end], bias] for end in ends], "eos_token_id": ends}
    theirs["length_penalty"] = length_penalty
    ids, scores = generate(hf, "A", max_new_tokens=20, num_beams=4, num_return_sequences=4, pad_token_id=0, **theirs)
    cut = [row[: next((i for i, token in enumerate(row) if token in ends), len(row)) + 1] for row in ids]
    assert [list(beam.ids) for beam in found] == cut
    assert [beam.score for beam in found] == pytest.approx(scores, abs=1e-4)


def test_scores_count_what_ids_that_pad_the_model_take(toy: SimpleNamespace):
    backend = toy.Backend(vocab_size=300)
    request = Request(prompt=[5], sampling=Sampling(max_tokens=1))
    (beam,) = beam_search(backend, toy.Tokenizer(), request, beams=1)
    logits_V = backend.logits([5]).astype(np.float64)
    assert beam.score == pytest.approx(logits_V[beam.ids[0]] - np.log(np.exp(logits_V).sum()), abs=1e-5)


def continue_greedily(hf: Any, prompt: str, ids: tuple[int, ...], theirs: dict[str, Any]) -> None:
    """One beam goes where greedy decoding goes, until the search prefers a continuation that ended."""
    prompt_ids = torch.tensor([list(prompt.encode())])
    mask = torch.ones_like(prompt_ids)
    with torch.no_grad():
        out = hf.generate(prompt_ids, attention_mask=mask, do_sample=False, max_new_tokens=20, **theirs)
    assert out[0, prompt_ids.shape[1] :].tolist() == list(ids)


def test_ending_beams_were_tested(toy: SimpleNamespace):
    _, backend = toy.miniature(0)
    sampling = Sampling(max_tokens=20, n=5, logit_bias={toy.EOT: 4.0})
    found = beam_search(backend, toy.Tokenizer(), Request(prompt="A", sampling=sampling), beams=5)
    assert len({len(beam.ids) for beam in found}) > 1


def test_past_the_context_and_in_tiny_ones(toy: SimpleNamespace):
    for n_positions in (1, 2, 8):
        backend = toy.Backend(n_positions=n_positions)
        sampling = Sampling(max_tokens=20, ignore_eot=True)
        (beam,) = beam_search(backend, toy.Tokenizer(), Request(prompt="a", sampling=sampling), beams=3)
        assert len(beam.ids) == 20
        assert backend.slots == {}


def test_a_wider_search_than_the_vocabulary(toy: SimpleNamespace):
    backend = toy.Backend(vocab_size=3)
    found = beam_search(backend, toy.Tokenizer(), Request(prompt=[0], sampling=Sampling(max_tokens=3, n=5)), beams=9)
    assert len(found) == 5
    assert len({beam.ids for beam in found}) == 5
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)


def test_nothing_to_generate(toy: SimpleNamespace):
    request = Request(prompt="a", sampling=Sampling(max_tokens=0))
    assert beam_search(toy.Backend(), toy.Tokenizer(), request, beams=2) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 3}, "beams must be at least n.*got 2, n=3"),
        ({"stop": "x"}, "cannot end at stop strings"),
        ({"logprobs": 0}, "no log-probabilities of tokens: got logprobs=0, prompt_logprobs=None"),
        ({"prompt_logprobs": 2}, "no log-probabilities of tokens: got logprobs=None, prompt_logprobs=2"),
    ],
)
def test_what_cannot_be(toy: SimpleNamespace, settings: dict[str, Any], message: str):
    with pytest.raises(GenerationError, match=message):
        beam_search(toy.Backend(), toy.Tokenizer(), Request(prompt="a", sampling=Sampling(**settings)), beams=2)


@pytest.mark.parametrize("most", [-30, 30])
def test_bounds_of_the_length_penalty(toy: SimpleNamespace, most: int):
    request = Request(prompt="a", sampling=Sampling(max_tokens=20, n=2))
    found = beam_search(toy.Backend(), toy.Tokenizer(), request, beams=2, length_penalty=most)
    assert all(math.isfinite(beam.score) and beam.score < 0 for beam in found)
    with pytest.raises(GenerationError, match=r"length_penalty must be at (?:least -30|most 30): got -?31"):
        beam_search(toy.Backend(), toy.Tokenizer(), request, beams=2, length_penalty=most * 31 / 30)


def test_of_equal_continuations_the_earlier_beam_and_the_lower_id_come_first():
    rows = [np.array([-1, -2, -np.inf, -1], np.float32), np.array([-0.5, -0.5, -9, -np.inf], np.float32)]
    steps = [(beam, token) for _, beam, token in _best_steps(rows, [-1.0, -1.5], 4)]
    assert steps == [(0, 0), (0, 3), (1, 0), (1, 1)]
    assert len(_best_steps(rows, [0.0, 0.0], 100)) == 6  # none that is impossible


@pytest.mark.parametrize("n_forks", [0, 1, 2, 3, 7])
def test_slots_are_given_back_when_a_fork_fails(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, n_forks: int):
    backend = toy.Backend()
    fork, left = backend.fork, n_forks

    def scarce(slot: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return fork(slot)

    monkeypatch.setattr(backend, "fork", scarce)
    with pytest.raises(MemoryError):
        beam_search(backend, toy.Tokenizer(), Request(prompt="a"), beams=5)
    assert backend.slots == {}


@pytest.mark.parametrize("n_frees", range(1, 5))
def test_slots_are_given_back_when_giving_one_back_is_interrupted(
    toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, n_frees: int
):
    _, backend = toy.miniature(0)
    free, freed = backend.free, []

    def interrupted(slot: int) -> None:
        free(slot)
        freed.append(slot)
        if len(freed) == n_frees:
            raise KeyboardInterrupt

    monkeypatch.setattr(backend, "free", interrupted)
    request = Request(prompt="The quick brown fox", sampling=Sampling(max_tokens=20))
    with pytest.raises(KeyboardInterrupt):
        beam_search(backend, toy.Tokenizer(), request, beams=5)
    assert backend.bytes() == 0


def test_settings_that_leave_no_token_end_the_search(toy: SimpleNamespace):
    backend = toy.Backend(vocab_size=3)
    request = Request(prompt=[0, 1], sampling=Sampling(max_tokens=5, no_repeat_ngram=1))  # 2 may come, then nothing
    with pytest.raises(GenerationError, match="no token is left that the settings allow"):
        beam_search(backend, toy.Tokenizer(), request, beams=2)
    assert backend.slots == {}
