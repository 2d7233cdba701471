"""Small models with lively weights, and the definition in float64 that backends are held to."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2.checkpoint.names import shapes
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.model import reference

# Odd numbers everywhere: nothing is a multiple of a vector's width, and heads are not 64 wide.
CONFIG = ModelConfig(n_layer=3, n_head=3, n_embd=21, n_positions=48, vocab_size=97, n_inner=50)


def random_arrays(config: ModelConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights large enough that every part of the model matters to the logits."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes(config).items():
        values = rng.normal(0.0, 0.1 if name.endswith(".b") else 1.5 / np.sqrt(shape[0]), shape)
        arrays[name] = (1.0 + 0.2 * rng.normal(size=shape) if name.endswith(".g") else values).astype(np.float32)
    arrays["wte"] = rng.normal(0.0, 0.5, arrays["wte"].shape).astype(np.float32)
    arrays["wpe"] = rng.normal(0.0, 0.2, arrays["wpe"].shape).astype(np.float32)
    return arrays


@pytest.fixture(scope="session")
def weights() -> Weights:
    return Weights.from_arrays(CONFIG, random_arrays(CONFIG))


@pytest.fixture(scope="session")
def ties() -> Weights:
    """The same, but tokens 10 to 29 have one vector, 40 to 42 another: their logits are equal to the bit."""
    arrays = random_arrays(CONFIG)
    arrays["wte"][10:30] = arrays["wte"][10]
    arrays["wte"][40:43] = arrays["wte"][40]
    return Weights.from_arrays(CONFIG, arrays)


@pytest.fixture(scope="session")
def define(weights: Weights) -> Callable[[Sequence[int]], NDArray[np.float64]]:
    """The definition in float64: tokens -> logits [T, V]."""
    exact = {name: weights.float32(name).astype(np.float64) for name in weights.names}
    return lambda tokens: reference.logits(CONFIG, exact, list(tokens))
