import dataclasses
from collections.abc import Callable

import pytest

from gpt2 import machine
from gpt2.config import PUBLISHED, ModelConfig
from gpt2.errors import TrainingError
from gpt2.model import flops
from gpt2.train import LoraConfig, TrainConfig, load_config, pretrain
from gpt2.train.config import StartConfig
from gpt2.train.plan import fit_memory, flops_per_token, lora_parameters, memory_estimate_bytes
from gpt2.train.precision import choose_precision


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
    assert memory_estimate_bytes(config, 4096, 1024) > 4 * 4 * config.model.parameters
    assert memory_estimate_bytes(config, 8192, 1024) > memory_estimate_bytes(config, 4096, 1024)
    longest = config.schedule.sequence[-1][1]
    assert memory_estimate_bytes(config, 1, 1024) == memory_estimate_bytes(config, longest, 1024)


def test_adapters_learn_inputs_and_outputs_of_each_map_times_the_rank(make_config: Callable[..., TrainConfig]) -> None:
    every = LoraConfig(rank=3, targets=("c_attn", "c_proj", "c_fc"))
    config = make_config(optim={"matrices": "adamw"})  # 2 blocks of width 16, four times that inside
    config = dataclasses.replace(config, start=StartConfig(model="gpt2-mini"), lora=every)
    assert lora_parameters(config) == 2 * 3 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16))


def test_memory_that_is_short_is_said_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., TrainConfig]
) -> None:
    long = {"model": {"n_positions": 1024}, "schedule": {"batch_tokens": 8192, "sequence": [[0.0, 64]]}}
    config = make_config(run={"micro_batch_tokens": 0}, **long)
    precision = choose_precision(config.run)
    said: list[str] = []

    def with_bytes(n_bytes: int, config: TrainConfig) -> TrainConfig:
        monkeypatch.setattr(machine, "available_memory_bytes", lambda: n_bytes)
        return fit_memory(config, precision, said.append)

    assert with_bytes(1 << 40, config) == with_bytes(0, config) == config, "enough, and unknown"
    smaller = with_bytes(905_000_000, config).run.micro_batch_tokens
    assert 0 < smaller < 2048 and "instead of 2,048" in said[-1]
    with pytest.raises(TrainingError, match=r"0\.9 GB are needed, and 0\.0 GB are free\. Set run\.recompute"):
        with_bytes(1, config)
    with pytest.raises(TrainingError, match=r"Try --lora, a shorter --context"):
        with_bytes(1, dataclasses.replace(config, start=StartConfig(model="gpt2-mini")))
    asked = make_config(run={"micro_batch_tokens": 1 << 30}, **long)
    with pytest.raises(TrainingError, match=r"of 8,192 tokens do not fit.* Set run\.micro_batch_tokens=\d+, or leave"):
        with_bytes(905_000_000, asked)
    with pytest.raises(TrainingError, match="do not fit"):
        pretrain(asked)
