from typing import Any

import pytest

from gpt2.config import PUBLISHED, ModelConfig
from gpt2.errors import ConfigError

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 4}


def test_the_smallest_model_is_one() -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=1, n_positions=1, vocab_size=1)
    assert config.n_inner == 4
    assert config.parameters == 2 + (2 + 2) + (3 + 3 + 1 + 1) + (4 + 4 + 4 + 1) + 2


def test_a_width_of_the_mlp_may_be_chosen() -> None:
    assert ModelConfig(**SMALL, n_inner=7).n_inner == 7


def test_heads_of_the_published_sizes_are_64_wide() -> None:
    assert {config.head_width for config in PUBLISHED.values()} == {64}


@pytest.mark.parametrize(
    "setting",
    [
        {"n_layer": 0},
        {"n_layer": -1},
        {"n_layer": 1.0},
        {"n_layer": "1"},
        {"n_layer": True},
        {"n_layer": None},
        {"n_head": 3},
        {"n_inner": -1},
        {"n_positions": 0},
        {"vocab_size": 1 << 40},
        {"layer_norm_epsilon": 0.0},
        {"layer_norm_epsilon": 1},
        {"layer_norm_epsilon": float("nan")},
        {"layer_norm_epsilon": "1e-5"},
        {"layer_norm_epsilon": None},
    ],
    ids=str,
)
def test_what_no_gpt2_can_have_is_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ModelConfig(**SMALL | setting)
