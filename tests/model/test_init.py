import math

import pytest
import torch

from gpt2.config import ModelConfig
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize

CONFIG = ModelConfig(n_layer=6, n_head=4, n_embd=128, n_positions=64, vocab_size=2000)


def fresh(config: ModelConfig = CONFIG, seed: int = 0, *, zero_projections: bool = False) -> GPT:
    model = GPT(config)
    initialize(model, torch.Generator().manual_seed(seed), zero_projections=zero_projections)
    return model


def test_every_array_has_its_published_distribution() -> None:
    for name, tensor in fresh().named_arrays():
        if name.endswith(".g"):
            assert (tensor == 1).all()
        elif name.endswith(".b"):
            assert (tensor == 0).all()
        else:
            std = 0.01 if name == "wpe" else 0.02 / math.sqrt(12) if name.endswith("c_proj.w") else 0.02
            assert tensor.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(tensor.mean().item()) < 5 * std / math.sqrt(tensor.numel()), name


def test_zero_projections_leave_all_else_alone() -> None:
    plain = dict(fresh().named_arrays())
    for name, tensor in fresh(zero_projections=True).named_arrays():
        if name.endswith("c_proj.w"):
            assert (tensor == 0).all()
        else:
            assert torch.equal(tensor, plain[name]), name


def test_the_generator_decides_and_nothing_else() -> None:
    first = dict(fresh(seed=1).named_arrays())
    torch.manual_seed(99)
    state = torch.get_rng_state()
    model = GPT(CONFIG)
    torch.set_rng_state(state)
    initialize(model, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.named_arrays())
    assert not torch.equal(dict(fresh(seed=2).named_arrays())["wte"], first["wte"])


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("n_layer", [1, 6])
def test_the_first_loss_is_that_of_guessing(width: int, n_layer: int) -> None:
    # Logits have a variance of 0.02^2 * n_embd, so a uniform guess is missed by half of that on average. What
    # is left is chance in the tokens drawn, and the input token's own logit, which the tied head favours.
    config = ModelConfig(n_layer=n_layer, n_head=4, n_embd=width, n_positions=64, vocab_size=2000)
    ids = torch.randint(2000, (8, 65), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits_BTV = fresh(config)(ids[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids[:, 1:].flatten()).item()
    assert -0.02 < loss - (math.log(2000) + 0.0002 * width) < 0.05
