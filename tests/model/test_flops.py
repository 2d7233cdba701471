import pytest

from gpt2.config import PUBLISHED, ModelConfig
from gpt2.model import flops

SMALL = PUBLISHED["gpt2"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_the_published_sizes_have_their_parameters(name: str, count: int) -> None:
    assert PUBLISHED[name].parameters == count


def test_parameters_of_an_odd_shape_are_those_of_the_module() -> None:
    from gpt2.model.gpt import GPT

    config = ModelConfig(n_layer=3, n_head=3, n_embd=21, n_positions=17, vocab_size=97, n_inner=50)
    assert config.parameters == sum(p.numel() for p in GPT(config).parameters())


def test_operations_are_those_pytorch_counts() -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from gpt2.model.gpt import GPT

    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=31, n_inner=20)
    model, ids = GPT(config), torch.zeros(3, 16, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # plain products, mask or not
        logits = model(ids)
        assert counter.get_total_flops() == 3 * 16 * flops.forward_flops_per_token(config, 16, causal=False)
        logits.sum().backward()
    assert counter.get_total_flops() == 3 * 16 * flops.training_flops_per_token(config, 16, causal=False)


def test_six_times_the_parameters_and_attention() -> None:
    # Chowdhery et al. 2022: 6 N + 12 L H K S, with N the weights that are multiplied.
    full = flops.training_flops_per_token(SMALL, 1024, causal=False)
    assert (
        full
        == 6 * (124_439_808 - 786_432 - 12 * (4 * 768 + 3 * 768 + 768 + 3072 + 768) - 2 * 768) + 12 * 12 * 768 * 1024
    )
    causal = flops.training_flops_per_token(SMALL, 1024, causal=True)
    assert full - causal == 12 * 12 * 768 * (1024 - 512.5)
