"""Odd shapes, random weights for them, and Hugging Face's GPT-2 holding the same weights."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpt2.checkpoint.names import huggingface_names, shapes
from gpt2.config import ModelConfig

Arrays = dict[str, NDArray[np.float64]]

SHAPES = {
    "heads of 64": ModelConfig(n_layer=2, n_head=2, n_embd=128, n_positions=32, vocab_size=101),
    "heads of 7, n_inner given": ModelConfig(n_layer=3, n_head=3, n_embd=21, n_positions=19, vocab_size=97, n_inner=50),
    "heads of 80": ModelConfig(n_layer=1, n_head=1, n_embd=80, n_positions=24, vocab_size=33),
    "heads of 1, large epsilon": ModelConfig(
        n_layer=4, n_head=8, n_embd=8, n_positions=40, vocab_size=5, layer_norm_epsilon=1e-2
    ),
    "narrow MLP, small epsilon": ModelConfig(
        n_layer=2, n_head=4, n_embd=48, n_positions=16, vocab_size=300, n_inner=8, layer_norm_epsilon=1e-7
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small are the matrices that more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return request.param


@pytest.fixture
def arrays(config: ModelConfig) -> Arrays:
    """Float64, and large enough that attention is far from even and GELU from linear."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0.0, 0.3 if len(shape) == 1 else 1.0 / np.sqrt(shape[0]), shape) + name.endswith(".g")
        for name, shape in shapes(config).items()
    } | {"wte": rng.normal(0.0, 0.5, (config.vocab_size, config.n_embd))}


@pytest.fixture
def ids_BT(config: ModelConfig) -> NDArray[np.int64]:  # noqa: N802 (tensors end in their axes)
    return np.random.default_rng(1).integers(config.vocab_size, size=(3, config.n_positions))


@pytest.fixture
def huggingface(config: ModelConfig, arrays: Arrays) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Hugging Face's GPT2LMHeadModel in float64: ids [B, T] -> logits [B, T, V]."""
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**dataclasses.asdict(config), bos_token_id=0, eos_token_id=0)
    )
    names = huggingface_names(config.n_layer)
    model.double().eval()
    model.transformer.load_state_dict({names[name]: torch.tensor(array) for name, array in arrays.items()})

    @torch.no_grad()
    def logits(ids_BT: NDArray[np.int64]) -> NDArray[np.float64]:
        return model(torch.tensor(ids_BT)).logits.numpy()

    return logits
