"""Megatron's checkpoints: its own arithmetic on its own tensors as the referee, in each of its orders."""

import argparse
import enum
import json
import pickle
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2 import checkpoint
from gpt2.checkpoint import megatron as room
from gpt2.checkpoint import torch_pickle
from gpt2.cli import main as frame
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError
from gpt2.model import reference

from .conftest import MUTATIONS, small_tokenizer

CONFIG = ModelConfig(n_layer=2, n_head=4, n_embd=16, n_positions=32, vocab_size=260)
ARGS = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 16,
    "max_position_embeddings": 32,
    "padded_vocab_size": 384,
    "ffn_hidden_size": 64,
    "layernorm_epsilon": 1e-5,
    "openai_gelu": False,
    "bias_gelu_fusion": True,
    "tensor_model_parallel_size": 1,
    "params_dtype": torch.float16,
}
FILE = Path("mp_rank_00", "model_optim_rng.pt")


def tensors(attention: str = "attention", dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A transformer's random tensors by Megatron's names."""
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "input_layernorm": (16, None),
        f"{attention}.query_key_value": (48, 16),
        f"{attention}.dense": (16, 16),
        "post_attention_layernorm": (16, None),
        "mlp.dense_h_to_4h": (64, 16),
        "mlp.dense_4h_to_h": (16, 64),
    }
    found: dict[str, torch.Tensor] = {}
    for layer in range(2):
        for name, (out, inner) in sizes.items():
            shape = (out,) if inner is None else (out, inner)
            found[f"layers.{layer}.{name}.weight"] = torch.randn(shape, generator=generator) * 0.4
            found[f"layers.{layer}.{name}.bias"] = torch.randn(out, generator=generator) * 0.4
    found["final_layernorm.weight"] = torch.randn(16, generator=generator)
    found["final_layernorm.bias"] = torch.randn(16, generator=generator)
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def megatron(version: float | None, *, parts: str = "transformer", attention: str = "attention", **more: Any) -> Any:
    """A checkpoint as Megatron's save_checkpoint makes it, with some of what training leaves in it."""
    generator = torch.Generator().manual_seed(1)
    embedding = {
        "word_embeddings": {"weight": torch.randn(384, 16, generator=generator) * 0.3},
        "position_embeddings": {"weight": torch.randn(32, 16, generator=generator) * 0.3},
    }
    state: dict[str, Any] = {
        "iteration": 500,
        "args": argparse.Namespace(**ARGS),
        "model": {"language_model": {"embedding": embedding, parts: tensors(attention)}},
        "optimizer": {"fp32_from_fp16_params": [[torch.zeros(3)]], "param_groups": [{"lr": 1e-4}]},
        "rng_state": [{"random": random.getstate(), "np": np.random.get_state(), "torch": torch.get_rng_state()}],
    }
    if version is not None:
        state["checkpoint_version"] = version
    return state | more


def save(folder: Path, state: Any, **more: Any) -> Path:
    (folder / FILE).parent.mkdir(parents=True)
    torch.save(state, folder / FILE, **more)
    small_tokenizer().save(folder / "mp_rank_00")
    small_tokenizer().save(folder)
    return folder


def their_logits(state: Any, ids: list[int]) -> Any:
    """What Megatron computes (its ParallelAttention by versions, ParallelMLP with the fused GELU)."""
    version = state.get("checkpoint_version", 0)
    model = state["model"]["language_model"]
    wte, wpe = (model["embedding"][f"{name}_embeddings"]["weight"] for name in ("word", "position"))
    blocks = {
        name.replace("self_attention", "attention"): tensor
        for name, tensor in (model.get("transformer") or model["encoder"]).items()
    }

    def linear(x: Any, name: str) -> Any:
        return torch.nn.functional.linear(x, blocks[f"{name}.weight"], blocks[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return torch.nn.functional.layer_norm(x, (16,), blocks[f"{name}.weight"], blocks[f"{name}.bias"])

    x_TD = wte[ids] + wpe[: len(ids)]
    for layer in range(2):
        mixed = linear(norm(x_TD, f"layers.{layer}.input_layernorm"), f"layers.{layer}.attention.query_key_value")
        if version == 0:
            q, k, v = (part.view(-1, 4, 4) for part in mixed.split(16, dim=-1))
        elif version == 1:
            q, k, v = mixed.view(-1, 4, 4, 3).unbind(-1)
        else:
            q, k, v = mixed.view(-1, 4, 12).split(4, dim=-1)
        q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_TD = x_TD + linear(attended.transpose(0, 1).reshape(-1, 16), f"layers.{layer}.attention.dense")
        wide = linear(norm(x_TD, f"layers.{layer}.post_attention_layernorm"), f"layers.{layer}.mlp.dense_h_to_4h")
        wide = torch.nn.functional.gelu(wide, approximate="tanh")
        x_TD = x_TD + linear(wide, f"layers.{layer}.mlp.dense_4h_to_h")
    return norm(x_TD, "final_layernorm") @ wte[:260].T


def our_logits(found: Any, ids: list[int]) -> Any:
    arrays = {name: found.weights.float32(name) for name in found.weights.names}
    return reference.logits(found.config, arrays, np.array(ids))


IDS = [3, 250, 7, 7, 100]


@pytest.mark.parametrize(
    ("version", "parts", "attention"),
    [
        (None, "transformer", "attention"),
        (0, "encoder", "self_attention"),
        (1.0, "transformer", "attention"),
        (2.0, "encoder", "self_attention"),
        (3.0, "transformer", "attention"),
    ],
)
def test_each_order_has_megatrons_own_logits(tmp_path: Path, version: float | None, parts: str, attention: str) -> None:
    state = megatron(version, parts=parts, attention=attention)
    save(tmp_path / "release", state)
    small_tokenizer().save(tmp_path)
    found = checkpoint.read(tmp_path, allow_pickle=True)
    assert (found.format, found.config, found.weights.form) == ("megatron", CONFIG, "fp32")
    assert any(note.startswith("queries, keys and values reordered") for note in found.notes) == bool(version)
    np.testing.assert_allclose(our_logits(found, IDS), their_logits(state, IDS).numpy(), atol=2e-4)
    for other in {0, 1.0, 2.0} - {version or 0, 2.0 if version == 3.0 else None}:
        unlike = their_logits(state | {"checkpoint_version": other}, IDS).numpy()
        assert np.abs(our_logits(found, IDS) - unlike).max() > 0.1  # or the order would not be tested


@pytest.mark.parametrize(("dtype", "form"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_halves_are_read_as_they_are(tmp_path: Path, dtype: torch.dtype, form: str) -> None:
    state = megatron(2.0)
    model = state["model"]["language_model"]
    model["transformer"] = tensors(dtype=dtype)
    for part in model["embedding"].values():
        part["weight"] = part["weight"].to(dtype)
    found = checkpoint.read(save(tmp_path, state), allow_pickle=True)
    assert found.weights.form == form
    c_attn = found.weights.float32("h.0.attn.c_attn.w")
    expected = model["transformer"]["layers.0.attention.query_key_value.weight"].float().view(4, 3, 4, 16)
    np.testing.assert_array_equal(c_attn.T, expected.transpose(0, 1).reshape(48, 16).numpy())


@pytest.mark.long
@pytest.mark.parametrize("format", ["hf", "openai", "gguf", "llmc", "nanogpt"])
def test_it_is_converted_to_every_format(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 100)  # so that matrices go in pieces
    state = megatron(2.0)
    save(tmp_path / "release", state)
    small_tokenizer().save(tmp_path)
    arguments = ["convert", str(tmp_path), str(tmp_path / "goal"), "--to", format, "--allow-pickle"]
    assert frame.run(arguments) == 0
    back = checkpoint.read(tmp_path / "goal", allow_pickle=True)
    np.testing.assert_allclose(our_logits(back, IDS), their_logits(state, IDS).numpy(), atol=2e-4)


def test_the_folders_that_megatron_makes(tmp_path: Path) -> None:
    save(tmp_path / "iter_0000500", megatron(3.0))
    with pytest.raises(FormatError, match="is no model"):
        checkpoint.read(tmp_path, allow_pickle=True)  # which of several is not said
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("500\n", encoding="utf-8")
    assert checkpoint.read(tmp_path, allow_pickle=True).config.n_head == 4
    for place in (tmp_path / "iter_0000500", tmp_path / "iter_0000500" / FILE):
        assert checkpoint.read(place, allow_pickle=True).config.n_head == 4
    with pytest.raises(FormatError, match=r"model_optim_rng\.pt is a pickle.*--allow-pickle"):
        checkpoint.read(tmp_path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("../../500", encoding="utf-8")
    with pytest.raises(FormatError, match="is no model"):
        checkpoint.read(tmp_path, allow_pickle=True)
    (tmp_path / "megatron_lm_345m.zip").write_bytes(b"PK\3\4")
    with pytest.raises(FormatError, match="Unpack it"):
        checkpoint.read(tmp_path / "megatron_lm_345m.zip", allow_pickle=True)


def test_older_files_take_their_shape_from_a_configuration(tmp_path: Path) -> None:
    state = megatron(None)
    del state["args"]
    save(tmp_path, state, _use_new_zipfile_serialization=False)
    with pytest.raises(FormatError, match=r"does not say how many heads.*Put the model's config\.json there"):
        checkpoint.read(tmp_path, allow_pickle=True)
    settings = {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 32, "vocab_size": 384}
    (tmp_path / FILE.parent / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    found = checkpoint.read(tmp_path / FILE, allow_pickle=True)
    assert found.config == CONFIG
    np.testing.assert_allclose(our_logits(found, IDS), their_logits(state, IDS).numpy(), atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "multiple of n_head"),
        ({"num_attention_heads": 1 << 40}, "n_head"),
        ({"hidden_size": "16"}, "must be a whole number"),
        ({"tensor_model_parallel_size": 8}, "tensor_model_parallel_size is 8"),
        ({"swiglu": True}, "swiglu is True"),
        ({"position_embedding_type": "rope"}, "position_embedding_type is 'rope'"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection"),
    ],
)
def test_what_gpt2_has_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        room.config_of(ARGS | changes, Path("model_optim_rng.pt"))


def test_args_are_read_and_another_gelu_must_be_allowed(tmp_path: Path) -> None:
    save(tmp_path, megatron(2.0, args=argparse.Namespace(**ARGS | {"bias_gelu_fusion": False})))
    with pytest.raises(MismatchError, match=r"computes GELU exactly.*--tanh-gelu"):
        checkpoint.read(tmp_path, allow_pickle=True)
    notes = checkpoint.read(tmp_path, allow_pickle=True, tanh_gelu=True).notes
    assert any("computes GELU exactly" in note for note in notes)
    (tmp_path / FILE).unlink()
    torch.save(megatron(2.0, args=argparse.Namespace(**ARGS | {"num_layers": 1 << 20})), tmp_path / FILE)
    with pytest.raises(MismatchError, match="too few for the 1,048,576 layers of its args"):
        checkpoint.read(tmp_path, allow_pickle=True)


def test_another_version_a_missing_size_and_a_part_are_refused(tmp_path: Path) -> None:
    for version in (4.0, "2", True, float("nan"), [2]):
        with pytest.raises(FormatError, match="checkpoint_version"):
            room.ordering(version, Path("x"))
    with pytest.raises(FormatError, match="does not say num_layers"):
        room.config_of({name: value for name, value in ARGS.items() if name != "num_layers"}, Path("x"))
    save(tmp_path / "f", megatron(2.0))
    (tmp_path / "f" / "mp_rank_01").mkdir()
    with pytest.raises(MismatchError, match="one of the 2 parts"):
        checkpoint.read(tmp_path / "f", allow_pickle=True)


def test_a_name_under_both_of_its_spellings_is_refused(tmp_path: Path) -> None:
    state = megatron(2.0)
    blocks = state["model"]["language_model"]["transformer"]
    blocks["layers.0.self_attention.dense.bias"] = blocks["layers.0.attention.dense.bias"]
    save(tmp_path, state)
    with pytest.raises(FormatError, match="is there under another name too"):
        checkpoint.read(tmp_path, allow_pickle=True)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "secret", megatron(2.0))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "release").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="is no model"):
        checkpoint.read(tmp_path / "model", allow_pickle=True)
    (tmp_path / "other" / "mp_rank_00").mkdir(parents=True)
    (tmp_path / "other" / FILE).symlink_to(tmp_path / "secret" / FILE)
    with pytest.raises(FormatError, match="leads out of its folder"):
        checkpoint.read(tmp_path / "other", allow_pickle=True)


def test_megatrons_own_classes_are_passed_over_and_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class ModelType(enum.Enum):
        encoder_or_decoder = 1

        @classmethod
        def _missing_(cls, value: object) -> Any:
            made.append(1)

    for name in ("megatron", "megatron.model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("megatron.model.enums")
    ModelType.__module__, ModelType.__qualname__ = module.__name__, "ModelType"
    module.ModelType = ModelType  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = megatron(2.0, args=argparse.Namespace(**ARGS, model_type=ModelType.encoder_or_decoder))
    save(tmp_path, state)
    monkeypatch.delitem(sys.modules, module.__name__)
    assert checkpoint.read(tmp_path, allow_pickle=True).config == CONFIG
    assert not made


def test_what_transformers_converter_makes_is_read(tmp_path: Path) -> None:
    """Its checkpoint_reshaping_and_interoperability.py: settings of another class, a copy of wte for the head."""
    state = megatron(3.0, args=types.SimpleNamespace(**ARGS))
    wte = state["model"]["language_model"]["embedding"]["word_embeddings"]["weight"]
    state["model"]["word_embeddings_for_head"] = {"weight": wte}
    found = checkpoint.read(save(tmp_path / "tied", state), allow_pickle=True)
    assert "lm_head.weight left out: it repeats wte, as GPT-2's tied head must" in found.notes
    expected = their_logits(state | {"checkpoint_version": 2.0}, [1, 2, 250])
    np.testing.assert_allclose(our_logits(found, [1, 2, 250]), expected, atol=1e-4)
    state["model"]["word_embeddings_for_head"] = {"weight": wte + 1}
    with pytest.raises(MismatchError, match="its head is not tied"):
        checkpoint.read(save(tmp_path / "untied", state), allow_pickle=True)


def test_a_namespace_is_no_way_in(tmp_path: Path) -> None:
    for hostile in (
        b"cargparse\nNamespace\n(I1\ntR.",
        b"ctypes\nSimpleNamespace\n(I1\ntR.",
        b"cargparse\nArgumentParser\n)\x81.",
        b"cos\nsystem\n)\x81.",
    ):
        path = tmp_path / "model.pt"
        path.write_bytes(b"\x80\x02" + hostile)
        assert "it wants" in torch_pickle.describe(path)["error"]
    path.write_bytes(pickle.dumps(argparse.Namespace(a=1), 2))
    assert "error" in torch_pickle.describe(path)  # a namespace alone is no file of torch.save


@given(**MUTATIONS, version=st.sampled_from([0, 1.0, 2.0]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_files_are_errors_of_ours(tmp_path: Path, changes: Any, length: float, version: float) -> None:
    """The machine in this process; what it lets through is mapped and must be an array or an error of ours."""
    sound = tmp_path / f"sound-{version}.pt"
    if not sound.exists():
        torch.save(megatron(version), sound)
    content = bytearray(sound.read_bytes())
    content = content[: max(1, int(len(content) * length))]
    for where, value in changes:
        content[min(len(content) - 1, int(where * 6000))] = value
    (tmp_path / "spoilt.pt").write_bytes(content)
    assert set(torch_pickle.describe(tmp_path / "spoilt.pt")) in ({"error"}, {"tensors", "weights", "settings"})
