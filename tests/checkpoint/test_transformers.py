"""The referee: Hugging Face's library loads what we write, in silence, and we read what it writes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

os.environ["HF_HUB_OFFLINE"] = "1"

transformers = pytest.importorskip("transformers")

from gpt2 import checkpoint  # noqa: E402
from gpt2.checkpoint.names import huggingface_names, shapes  # noqa: E402
from gpt2.config import ModelConfig  # noqa: E402
from gpt2.model import reference  # noqa: E402
from gpt2.tokenizer import Tokenizer  # noqa: E402

from .conftest import random_arrays  # noqa: E402

SHAPES = [
    ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=32),
    ModelConfig(n_layer=1, n_head=3, n_embd=30, n_positions=20, vocab_size=301, n_inner=50, layer_norm_epsilon=1e-6),
    ModelConfig(n_layer=3, n_head=1, n_embd=8, n_positions=17, vocab_size=99),
]
TORCH_TYPE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TEXTS = ["Hello world", " naïve  café\n\n\t日本語 🙂", "1234567890 don't<|endoftext|>end"]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_warning()


def logits_of(model: Any, ids: list[int]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].float().numpy()


@pytest.mark.parametrize("form", TORCH_TYPE)
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_what_we_write_loads_there_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], config: ModelConfig, form: str
) -> None:
    arrays = random_arrays(config)
    checkpoint.write_folder(tmp_path / "m", arrays, config, None, form=form)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")

    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.dtype == TORCH_TYPE[form]
    weights = checkpoint.read(tmp_path / "m").weights
    theirs = model.transformer.state_dict()
    for ours, name in huggingface_names(config.n_layer).items():
        np.testing.assert_array_equal(theirs[name].float().numpy(), weights.float32(ours))

    ids = [5, 0, 17, 98, 11]
    expected = reference.logits(config, {name: weights.float32(name) for name in weights.names}, np.array(ids))
    np.testing.assert_allclose(logits_of(model.float().eval(), ids), expected, atol=1e-4, rtol=1e-4)


def test_the_vocabulary_we_write_loads_there_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, published = SHAPES[0], Tokenizer.published()
    checkpoint.write_folder(tmp_path / "m", random_arrays(config), config, published)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert tokenizer.model_max_length == config.n_positions
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == published.encode(text, allow_special=True)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id == 50256


@pytest.mark.parametrize("dtype", TORCH_TYPE.values(), ids=str)
def test_what_they_write_is_read_and_written_back_with_the_same_logits(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sizes: Any = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 300}
    config = transformers.GPT2Config(**sizes, bos_token_id=299, eos_token_id=299)
    model = transformers.GPT2LMHeadModel(config).to(dtype).eval()
    model.save_pretrained(tmp_path / "theirs")
    found = checkpoint.read(tmp_path / "theirs")
    assert found.config == ModelConfig(**sizes)
    assert found.notes == ()
    checkpoint.write_folder(tmp_path / "ours", found.weights, found.config, None, form=found.weights.form)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(logits_of(again, [1, 2, 3]), logits_of(model, [1, 2, 3]))


def test_their_shards_are_read(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=300)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    weights = checkpoint.read(tmp_path).weights
    np.testing.assert_array_equal(weights.float32("wte"), model.transformer.wte.weight.detach().numpy())
    np.testing.assert_array_equal(weights.float32("ln_f.b"), model.transformer.ln_f.bias.detach().numpy())


def test_the_table_of_names_is_theirs() -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, n_positions=4, vocab_size=6, n_inner=10)
    theirs = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=4, vocab_size=6, n_inner=10)
    state = transformers.GPT2Model(theirs).state_dict()
    ours = shapes(config)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        name: ours[openai] for openai, name in huggingface_names(config.n_layer).items()
    }


def test_the_int8_form_is_refused_there_and_made_ordinary_here(tmp_path: Path) -> None:
    config = SHAPES[0]
    checkpoint.write_folder(tmp_path / "int8", random_arrays(config), config, None, form="int8")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "int8")
    found = checkpoint.read(tmp_path / "int8")
    checkpoint.write_folder(tmp_path / "fp32", found.weights, found.config, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "fp32")
    np.testing.assert_array_equal(model.transformer.wte.weight.detach().numpy(), found.weights.float32("wte"))
