"""Small models, and a Hugging Face folder of one to be spoilt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2 import checkpoint
from gpt2.config import ModelConfig

TINY = ModelConfig(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=100)


def random_arrays(config: ModelConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in checkpoint.shapes(config).items()}


@pytest.fixture
def tiny() -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    return TINY, random_arrays(TINY)


@pytest.fixture
def folder(tmp_path: Path, tiny: Any) -> Path:
    """A sound folder of the tiny model, without a vocabulary."""
    config, arrays = tiny
    checkpoint.write_folder(tmp_path / "model", arrays, config, None)
    return tmp_path / "model"


@pytest.fixture
def rewrite():
    """Change a folder's arrays or its configuration behind the writer's back."""

    def change(folder: Path, arrays: Any = lambda arrays: arrays, **settings: Any) -> None:
        file = folder / "model.safetensors"
        stored = {name: checkpoint.StoredArray(data=a.data.copy(), dtype=a.dtype) for name, a in read(file).items()}
        checkpoint.write_safetensors(file, arrays(stored))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    read = checkpoint.read_safetensors
    return change
