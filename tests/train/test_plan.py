import pytest

from gpt2.config import PUBLISHED, ModelConfig
from gpt2.model import flops
from gpt2.train import load_config
from gpt2.train.plan import flops_per_token, memory_estimate_bytes


@pytest.mark.parametrize("config", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_all_rows_are_the_whole_model(config: ModelConfig) -> None:
    whole = flops_per_token(config, seq_tokens=1024, rows=config.vocab_size)
    assert whole == flops.training_flops_per_token(config, 1024, causal=False)


def test_fewer_rows_are_less_work_by_six_for_each_weight() -> None:
    config = load_config("gpt2-mini").model
    whole = flops_per_token(config, seq_tokens=512, rows=config.vocab_size)
    assert whole - flops_per_token(config, seq_tokens=512, rows=6144) == 6 * (config.vocab_size - 6144) * config.n_embd


def test_memory_holds_at_least_weights_gradient_and_optimizer() -> None:
    config = load_config("gpt2-124m-adamw")
    assert memory_estimate_bytes(config, 4096, 1024) > 4 * 4 * flops.parameters(config.model)
    assert memory_estimate_bytes(config, 8192, 1024) > memory_estimate_bytes(config, 4096, 1024)
