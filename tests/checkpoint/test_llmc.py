"""llm.c's files: equal, byte for byte, to the published layout, with transformers' logits after conversion."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gpt2 import checkpoint
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError

from .conftest import MUTATIONS, TINY, published_layout, random_arrays, read_mutated, small_tokenizer

PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")  # in the order of the file


def as_llmc_writes(model: Any, dtype: Any) -> bytes:
    """A transformers model as llm.c's train_gpt2.py writes it (write_model, write_tensors), by torch's rounding."""
    import torch

    config, state = model.config, published_layout(model)
    padded = -(-config.vocab_size // 128) * 128
    header = np.zeros(256, "<i4")
    version = {torch.float32: 3, torch.bfloat16: 5}[dtype]
    sizes = (config.n_positions, config.vocab_size, config.n_layer, config.n_head, config.n_embd, padded)
    header[:8] = (20240326, version, *sizes)
    wte = np.zeros((padded, config.n_embd), np.float32)
    wte[: config.vocab_size] = state["wte.weight"]
    arrays = [wte, state["wpe.weight"]]
    arrays += [
        state[f"h.{i}.{part}.{kind}"] for part in PARTS for kind in ("weight", "bias") for i in range(config.n_layer)
    ]
    arrays += [state["ln_f.weight"], state["ln_f.bias"]]
    tensors = [torch.tensor(array).to(dtype) for array in arrays]
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    return header.tobytes() + b"".join(tensor.view(integers).numpy().tobytes() for tensor in tensors)


@pytest.fixture
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    sizes: Any = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 260}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=259, eos_token_id=259)).eval()
    with torch.no_grad():  # fresh biases are zero and layer norms one: then half of the names could be exchanged
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_their_file_has_their_logits_and_ours_is_the_same_to_the_byte(tmp_path: Path, model: Any, form: str) -> None:
    import torch
    import transformers

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[form]
    theirs = tmp_path / "theirs.bin"
    theirs.write_bytes(as_llmc_writes(model, dtype))
    found = checkpoint.read(theirs)
    assert (found.format, found.weights.form) == ("llmc", form)
    assert found.notes == (
        "matrices transposed from [out, in] to [in, out]",
        "vocabulary cut from 384 rows to the 260 that are tokens",
    )

    checkpoint.write(tmp_path / "hf", found.weights, None, format="hf", form=form)
    converted = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    ids = torch.tensor([[1, 2, 250, 3]])
    with torch.inference_mode():
        assert torch.equal(converted(ids).logits, model.to(dtype)(ids).logits)

    again = checkpoint.read(tmp_path / "hf")
    checkpoint.write(tmp_path / "ours", again.weights, small_tokenizer(), format="llmc", form=form)
    assert (tmp_path / "ours" / "model.bin").read_bytes() == theirs.read_bytes()
    assert checkpoint.read(tmp_path / "ours").tokenizer().hash == small_tokenizer().hash


def test_an_untransposed_square_matrix_would_be_seen(tmp_path: Path, model: Any) -> None:
    """The shapes of c_proj do not tell [out, in] from [in, out]; its values do."""
    (tmp_path / "m.bin").write_bytes(as_llmc_writes(model, __import__("torch").float32))
    found = checkpoint.read(tmp_path / "m.bin").weights.float32("h.1.attn.c_proj.w")
    expected = model.transformer.h[1].attn.c_proj.weight.detach().numpy()
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, expected.T)


def test_int8_is_expanded(tmp_path: Path) -> None:
    checkpoint.write_folder(tmp_path / "int8", random_arrays(TINY), TINY, None, form="int8")
    weights = checkpoint.read(tmp_path / "int8").weights
    checkpoint.write(tmp_path / "m", weights, None, format="llmc", form="fp32")
    again = checkpoint.read(tmp_path / "m").weights
    for name in weights.names:
        np.testing.assert_array_equal(again.float32(name), weights.float32(name))


def test_what_the_header_has_no_place_for_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=2, n_positions=4, vocab_size=9, n_inner=20)
    weights = Weights.from_arrays(config, random_arrays(config))
    with pytest.raises(MismatchError, match=r"cannot be written for llm\.c"):
        checkpoint.write(tmp_path / "m", weights, None, format="llmc", form="fp32")
    with pytest.raises(CheckpointError, match="cannot be written as 'llmc' in 'fp16'"):
        checkpoint.write(tmp_path / "m", weights, None, format="llmc", form="fp16")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    weights = Weights.from_arrays(TINY, random_arrays(TINY))
    checkpoint.write(tmp_path / "m", weights, None, format="llmc", form="fp32")
    return tmp_path / "m" / "model.bin"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, 4, "version 4"),
        (2, 0, "n_positions must lie between"),
        (3, -1, "vocab_size must lie between"),
        (4, 1 << 24, "16,777,216 layers; at most 4,096"),
        (4, 1, "is truncated or damaged"),
        (5, 3, "multiple of n_head"),
        (6, 1 << 23, "is truncated or damaged"),
        (7, 99, "99 rows are fewer than the 100 tokens"),
        (7, 2**31 - 1, "is truncated or damaged"),
    ],
)
def test_a_header_that_lies_is_refused(file: Path, place: int, value: int, message: str) -> None:
    content = bytearray(file.read_bytes())
    struct.pack_into("<i", content, 4 * place, value)
    file.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        checkpoint.read(file)


@pytest.mark.parametrize("length", [4, 1023, 1024, -1])
def test_a_file_cut_off_is_refused(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(FormatError, match=r"is truncated|not a whole"):
        checkpoint.read(file.parent)


def test_a_pickle_named_bin_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="is a pickle"):
        checkpoint.read(tmp_path)


@given(**MUTATIONS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_headers_are_errors_of_ours(file: Path, changes: Any, length: float) -> None:
    sound = file.with_name("sound")
    if not sound.exists():
        sound.write_bytes(file.read_bytes())
    content = sound.read_bytes()
    read_mutated(file, content[:32], changes, 1.0)  # the header alone
    spoilt = file.read_bytes() + content[32 : max(33, int(len(content) * length))]
    read_mutated(file, spoilt, [], 1.0)


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=4, vocab_size=9)
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "secret", weights, None, format="llmc", form="fp32")
    (tmp_path / "model").mkdir()
    secret = tmp_path / "secret" / "model.bin"
    (tmp_path / "model" / "model.bin").symlink_to(secret)
    with pytest.raises(FormatError, match="leads out of its folder"):
        checkpoint.read(tmp_path / "model")
