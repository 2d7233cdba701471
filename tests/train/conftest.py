"""A corpus and a vocabulary small enough that a training step takes milliseconds."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.data import PrepareConfig, ReadOptions, prepare
from gpt2.tokenizer import learn
from gpt2.train import TrainConfig
from gpt2.train.config_files import config_from

TALE = "the cat sat on a mat and saw how old dogs ran far away from home while it rained all day long"
N_VOCAB = 300


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards with a validation split, and beside them the vocabulary, in `vocabulary`."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    documents = [" ".join(draw.choices(TALE.split(), k=draw.randrange(40, 200))) + "." for _ in range(300)]
    (folder / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
    tokenizer = learn(documents, N_VOCAB)
    tokenizer.save(folder / "vocabulary")
    config = PrepareConfig(validation=0.1, read=ReadOptions(split_on="\n\n"))
    prepare([folder / "text.txt"], folder / "shards", config=config, tokenizer=tokenizer)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_config(data: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of 12 steps of 128 tokens; sections given by name change it."""

    def make(**sections: dict[str, Any]) -> TrainConfig:
        tree: dict[str, dict[str, Any]] = {
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": N_VOCAB},
            "data": {"folder": str(data / "shards"), "tokenizer": str(data / "vocabulary")},
            "optim": {"matrices": "muon", "lr": 0.01, "zero_projections": True},
            "schedule": {
                "tokens": 12 * 128,
                "batch_tokens": 128,
                "sequence": [[0.0, 16], [0.5, 32]],
                "shape": "trapezoid",
            },
            "loss": {"rows": 100, "full_fraction": 0.25, "chunk_tokens": 48},
            "rounding": {},
            "run": {
                "folder": str(tmp_path / "run"),
                "device": "cpu",
                "dtype": "fp32",
                "threads": 1,
                "micro_batch_tokens": 64,
                "validate_every_steps": 4,
                "validation_tokens": 256,
                "checkpoint_every_steps": 3,
                "keep": 3,
            },
        }
        for section, values in sections.items():
            tree[section] |= values
        return config_from(tree)

    return make
