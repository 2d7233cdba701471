"""Small models, and a Hugging Face folder of one to be spoilt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2 import checkpoint
from gpt2.config import ModelConfig
from gpt2.errors import Gpt2Error
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.alphabet import BYTE_ORDER, letters
from gpt2.tokenizer.assembly import assemble

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


def small_tokenizer() -> Tokenizer:
    """The bytes, three merges and `<|endoftext|>`: 260 ids."""
    names = [*letters(BYTE_ORDER), "he", "ll", "hell", "<|endoftext|>"]
    merges = [("h", "e"), ("l", "l"), ("he", "ll")]
    return Tokenizer(assemble({name: i for i, name in enumerate(names)}, merges, {"<|endoftext|>": 259}))


def published_layout(model: Any) -> dict[str, NDArray[np.float32]]:
    """A transformers GPT-2 as nanoGPT and llm.c hold it: their names, matrices as [out, in]."""
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    return {
        name: np.ascontiguousarray((tensor.t() if name.endswith(turned) else tensor).float().numpy())
        for name, tensor in state.items()
    }


def read_mutated(path: Path, content: bytes, changes: Any, length: float, *, opened: Path | None = None) -> None:
    """Read a file with some bytes changed and its end cut off: an error of ours, or arrays that can be used.

    `opened` is the folder that it is in, where that is what is read.
    """
    spoilt = bytearray(content[: max(1, int(len(content) * length))])
    for where, value in changes:
        spoilt[int(where * (len(spoilt) - 1))] = value
    path.write_bytes(spoilt)
    try:
        found = checkpoint.read(opened or path)
        for name in found.weights.names:
            assert found.weights.float32(name).shape == checkpoint.shapes(found.config)[name]
        found.tokenizer()
    except Gpt2Error:
        pass


MUTATIONS = {
    "changes": st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    "length": st.one_of(st.just(1.0), st.floats(0, 1)),
}
