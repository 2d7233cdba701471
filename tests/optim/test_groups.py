import pytest
import torch
from torch import nn

from gpt2.config import ModelConfig
from gpt2.model.gpt import GPT
from gpt2.optim import partition
from gpt2.optim.groups import kind_of


@pytest.fixture
def model() -> GPT:
    return GPT(ModelConfig(n_layer=2, n_head=2, n_embd=8, n_positions=8, vocab_size=11))


def test_the_groups_partition_the_parameters(model: GPT) -> None:
    named = dict(model.named_parameters())
    groups = partition(named.items())
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(named)
    assert all(group[name] is named[name] for group in groups.values() for name in group)


def test_each_kind_holds_what_it_should(model: GPT) -> None:
    groups = partition(model.named_parameters())
    assert set(groups["embedding"]) == {"wte.weight", "wpe.weight"}
    assert len(groups["matrix"]) == 4 * 2
    assert all(p.ndim == 2 for p in groups["matrix"].values())
    assert all(name.endswith(".bias") or ".ln_" in f".{name}" for name in groups["vector"])


def test_a_frozen_parameter_is_in_no_group(model: GPT) -> None:
    model.wpe.weight.requires_grad_(False)
    assert set(partition(model.named_parameters())["embedding"]) == {"wte.weight"}


def test_what_no_gpt2_has_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="3 axes"):
        kind_of("h.0.conv.weight", 3)


def test_a_square_matrix_in_a_block_is_no_embedding() -> None:
    assert partition([("h.0.attn.c_proj.weight", nn.Parameter(torch.zeros(3, 3)))])["matrix"]
