from math import prod

import pytest

from gpt2.checkpoint.names import huggingface_names, shapes
from gpt2.config import PUBLISHED, ModelConfig

# Radford et al. 2019, as corrected by OpenAI's README.
COUNTS = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_number_of_parameters(name: str) -> None:
    config = PUBLISHED[name]
    assert sum(prod(shape) for shape in shapes(config).values()) == config.parameters == COUNTS[name]


def test_shapes_of_one_model() -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=5, vocab_size=7, n_inner=6)
    assert shapes(config) == {
        "wte": (7, 4),
        "wpe": (5, 4),
        "h.0.ln_1.g": (4,),
        "h.0.ln_1.b": (4,),
        "h.0.attn.c_attn.w": (4, 12),
        "h.0.attn.c_attn.b": (12,),
        "h.0.attn.c_proj.w": (4, 4),
        "h.0.attn.c_proj.b": (4,),
        "h.0.ln_2.g": (4,),
        "h.0.ln_2.b": (4,),
        "h.0.mlp.c_fc.w": (4, 6),
        "h.0.mlp.c_fc.b": (6,),
        "h.0.mlp.c_proj.w": (6, 4),
        "h.0.mlp.c_proj.b": (4,),
        "ln_f.g": (4,),
        "ln_f.b": (4,),
    }
    assert config.parameters == sum(prod(shape) for shape in shapes(config).values())


def test_both_vocabularies_of_names_go_together() -> None:
    config = PUBLISHED["gpt2"]
    names = huggingface_names(config.n_layer)
    assert list(names) == list(shapes(config))
    assert len(set(names.values())) == len(names) == 148
    assert names["h.11.mlp.c_proj.w"] == "h.11.mlp.c_proj.weight"
