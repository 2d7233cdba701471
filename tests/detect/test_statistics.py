"""Every statistic beside a straightforward computation from the logits that Hugging Face gives."""

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import gpt2
from gpt2.detect import read, statistics
from gpt2.detect.reading import Reading
from gpt2.errors import GenerationError

IDS = [464, 3797, 3332, 319, 262, 2603, 11, 290, 262, 3290, 6204, 13, 464, 464, 50256, 1]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> gpt2.LanguageModel:
    return gpt2.load(tiny_folder, backend="reference")


@pytest.fixture(scope="module")
def oracle(tiny_folder: Path) -> SimpleNamespace:
    """The definitions, spelt out over whole arrays in float64."""
    hf = transformers.GPT2LMHeadModel.from_pretrained(tiny_folder).eval().double()
    with torch.no_grad():
        logits_TV = hf(torch.tensor([[50256, *IDS]])).logits[0, :-1]
    logp_TV = torch.log_softmax(logits_TV, -1)
    logp_T = logp_TV[torch.arange(len(IDS)), IDS]
    rank_T = (logp_TV > logp_T[:, None]).sum(-1) + 1
    return SimpleNamespace(logp_TV=logp_TV, logp_T=logp_T, rank_T=rank_T)


@pytest.fixture(scope="module")
def reading(model: gpt2.LanguageModel) -> Reading:
    return read(model.backend, model.tokenizer, IDS)


def near(value: float) -> object:
    return pytest.approx(float(value), rel=1e-5, abs=1e-5)


def test_each_equals_its_definition(reading: Reading, oracle: SimpleNamespace) -> None:
    p_TV = oracle.logp_TV.exp()
    entropy_T = -(p_TV * oracle.logp_TV).sum(-1)
    variance_T = (p_TV * oracle.logp_TV**2).sum(-1) - entropy_T**2
    log_rank_T = oracle.rank_T.double().log()
    assert statistics.mean_logprob(reading) == near(oracle.logp_T.mean())
    assert statistics.mean_rank(reading) == near(oracle.rank_T.double().mean())
    assert statistics.mean_log_rank(reading) == near(log_rank_T.mean())
    assert statistics.mean_entropy(reading) == near(entropy_T.mean())
    assert statistics.lrr(reading) == near(-oracle.logp_T.sum() / log_rank_T.sum())
    assert statistics.curvature(reading) == near((oracle.logp_T + entropy_T).sum() / variance_T.sum().sqrt())
    bounds = [0, 10, 100, 1000, 50257]
    expected = [((oracle.rank_T > low) & (oracle.rank_T <= high)).sum() for low, high in itertools.pairwise(bounds)]
    assert statistics.histogram(reading) == tuple(map(int, expected))


def test_two_models(model: gpt2.LanguageModel, oracle: SimpleNamespace, toy_other: SimpleNamespace) -> None:
    """The scorer's log-probability over another model's distribution: Fast-DetectGPT's two, and Binoculars."""
    found = read(model.backend, model.tokenizer, IDS, sampler=toy_other.backend)
    p_TV = toy_other.logp_TV.exp()
    mean_T = (p_TV * oracle.logp_TV).sum(-1)
    variance_T = (p_TV * oracle.logp_TV**2).sum(-1) - mean_T**2
    assert statistics.curvature(found) == near((oracle.logp_T - mean_T).sum() / variance_T.sum().sqrt())
    assert statistics.binoculars(found) == near(oracle.logp_T.sum() / mean_T.sum())


@pytest.fixture(scope="module")
def toy_other(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=64, initializer_range=0.5)
    hf = transformers.GPT2LMHeadModel(config).eval()
    hf.save_pretrained(folder)
    with torch.no_grad():
        logp_TV = torch.log_softmax(hf.double()(torch.tensor([[50256, *IDS]])).logits[0, :-1], -1)
    return SimpleNamespace(backend=gpt2.load(folder, backend="reference").backend, logp_TV=logp_TV)


def test_a_beginning_reads_as_it_would_alone(model: gpt2.LanguageModel) -> None:
    """Also past the context, where the window slides."""
    long = IDS * 8
    whole = read(model.backend, model.tokenizer, long)
    for n in (1, 30, 64, 90):
        alone = read(model.backend, model.tokenizer, long[:n])
        np.testing.assert_allclose(whole.first(n).logprobs_T, alone.logprobs_T, atol=1e-5)
        np.testing.assert_allclose(whole.first(n).variances_T, alone.variances_T, atol=1e-5)
    assert len(whole) == len(long)


def test_certain_text_breaks_nothing() -> None:
    one = np.ones(3)
    reading = Reading(
        ids_T=np.arange(3),
        logprobs_T=0 * one,
        ranks_T=np.zeros(3, np.int64),
        entropies_T=0 * one,
        means_T=0 * one,
        variances_T=0 * one,
    )
    assert statistics.curvature(reading) == statistics.binoculars(reading) == 0
    assert statistics.lrr(reading) == float("inf")


def test_what_cannot_be_read(model: gpt2.LanguageModel) -> None:
    with pytest.raises(GenerationError, match="it has 0 tokens"):
        read(model.backend, model.tokenizer, [])
    with pytest.raises(GenerationError, match="at least 2"):
        read(model.backend, model.tokenizer, [1], score_first=False)


DATA = os.environ.get("GPT2_DATA")


@pytest.mark.skipif(not DATA, reason="GPT2_DATA is not set")
@pytest.mark.parametrize(
    ("name", "n", "nll", "shares"),
    [
        ("woodchuck", 18, 3.4303, (0.667, 0.944, 1.000)),
        ("NYTimes", 395, 3.1467, (0.709, 0.889, 0.977)),
        ("paper_gan", 238, 3.6070, (0.647, 0.849, 0.992)),
        ("unicorn", 479, 2.6805, (0.793, 0.969, 0.996)),
        ("gpt2_small_top5_uncond", 539, 1.3580, (1.000, 1.000, 1.000)),
        ("gpt_2_small_top40_t0.7", 467, 1.7866, (0.949, 1.000, 1.000)),
    ],
)
def test_of_gltrs_published_probabilities(name: str, n: int, nll: float, shares: tuple[float, ...]) -> None:
    """GPT-2 124M's own ranks and probabilities of GLTR's demos, through our statistics."""
    path = Path(DATA or "") / "detection" / "gltr" / f"{name}.json"
    real = json.loads(path.read_text(encoding="utf-8"))["result"]["real_topk"]
    ranks = np.array([rank for rank, _ in real], np.int64)
    logprobs = np.log([max(p, 5e-6) for _, p in real])  # of five decimals
    blank = np.zeros(len(real))
    reading = Reading(
        ids_T=ranks, logprobs_T=logprobs, ranks_T=ranks, entropies_T=blank, means_T=blank, variances_T=blank
    )
    assert len(reading) == n
    assert statistics.mean_logprob(reading) == pytest.approx(-nll, abs=2e-3)
    counts = np.cumsum(statistics.histogram(reading))[:3] / n
    assert counts == pytest.approx(shares, abs=6e-4)
