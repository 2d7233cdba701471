"""Files of torch.save: torch and transformers as referees, and pickles that want to do more than hold tensors."""

import argparse
import collections
import dataclasses
import datetime
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gpt2 import checkpoint
from gpt2.checkpoint import torch_pickle
from gpt2.checkpoint.names import huggingface_names
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError
from gpt2.model import reference

from .conftest import MUTATIONS, TINY, published_layout, random_arrays, small_tokenizer

torch = pytest.importorskip("torch")

ARGS: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "bias": True, "vocab_size": 260}
CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=260)


@pytest.fixture
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes: Any = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 260}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=259, eos_token_id=259)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def as_nanogpt(model: Any, prefix: str = "", **changes: Any) -> dict[str, Any]:
    """A transformers model as nanoGPT's train.py saves it, the optimizer's state too."""
    arrays = {f"transformer.{name}": torch.tensor(array) for name, array in published_layout(model.transformer).items()}
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": collections.OrderedDict((prefix + name, tensor) for name, tensor in arrays.items()),
        "optimizer": optimizer.state_dict(),
        "model_args": ARGS | {"dropout": 0.0},
        "iter_num": 2000,
        "best_val_loss": torch.tensor(3.28),
        "config": {"out_dir": "out", "compile": True, "learning_rate": 6e-4, "init_from": None},
    } | changes


def logits(weights: Weights, ids: list[int]) -> Any:
    arrays = {name: weights.float32(name) for name in weights.names}
    return reference.logits(weights.config, arrays, np.array(ids))


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("legacy", [False, True])
def test_nanogpts_file_has_the_logits_of_transformers(tmp_path: Path, model: Any, prefix: str, legacy: bool) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(as_nanogpt(model, prefix), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(MismatchError, match=r"nanoGPT computes GELU exactly.*--tanh-gelu"):
        checkpoint.read(tmp_path, allow_pickle=True)
    found = checkpoint.read(tmp_path, allow_pickle=True, tanh_gelu=True)
    assert (found.format, found.config, found.weights.form) == ("nanogpt", CONFIG, "fp32")
    assert any(note.startswith("nanoGPT computes GELU exactly") for note in found.notes)
    assert ("names freed of _orig_mod., which torch.compile puts before them" in found.notes) == bool(prefix)
    checkpoint.write(tmp_path / "hf", found.weights, None, format="hf", form="fp32")
    converted = type(model).from_pretrained(tmp_path / "hf").eval()
    with torch.inference_mode():
        assert torch.equal(converted(torch.tensor([[1, 2, 250]])).logits, model(torch.tensor([[1, 2, 250]])).logits)
    for name, tensor in model.state_dict().items():
        if name.endswith("attn.c_proj.weight"):
            assert not torch.equal(tensor, tensor.t())  # or a square matrix could be left as it was


def test_padding_is_cut_and_missing_biases_are_zero(tmp_path: Path, model: Any) -> None:
    state = as_nanogpt(model)
    arrays = {name: tensor for name, tensor in state["model"].items() if not name.endswith(".bias")}
    wte = torch.zeros(320, 16)
    wte[:260] = arrays["transformer.wte.weight"]
    arrays["transformer.wte.weight"] = arrays["lm_head.weight"] = wte
    state |= {"model": arrays, "model_args": ARGS | {"bias": False, "vocab_size": 320}}
    torch.save(state, tmp_path / "ckpt.pt")
    small_tokenizer().save(tmp_path)
    found = checkpoint.read(tmp_path / "ckpt.pt", allow_pickle=True, tanh_gelu=True)
    assert found.config == CONFIG
    assert "biases of zero added (13 arrays): the model was trained without" in found.notes
    assert "vocabulary cut from 320 rows to the 260 that are tokens" in found.notes
    assert not found.weights.float32("h.1.mlp.c_fc.b").any()
    assert found.tokenizer().hash == small_tokenizer().hash


@pytest.fixture
def shards(tmp_path: Path, model: Any) -> Path:
    """As transformers saved a large model until 2023."""
    state = model.state_dict()
    model.config.save_pretrained(tmp_path)
    shard_of = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(state)}
    for shard in set(shard_of.values()):
        torch.save({name: state[name].clone() for name in state if shard_of[name] == shard}, tmp_path / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": shard_of}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    return tmp_path


def test_shards_of_pytorch_model_bin_are_read_together(shards: Path, model: Any) -> None:
    found = checkpoint.read(shards, allow_pickle=True)
    assert (found.format, found.config) == ("hf", CONFIG)
    state = model.transformer.state_dict()
    for ours, theirs in huggingface_names(2).items():
        np.testing.assert_array_equal(found.weights.float32(ours), state[theirs].numpy())


@pytest.mark.parametrize("shard", ["../pytorch_model.bin", "config.json", "pytorch_model-00003-of-00002.bin"])
def test_an_index_that_lies_about_shards_is_refused(shards: Path, shard: str) -> None:
    index = json.loads((shards / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))
    index["weight_map"]["transformer.wte.weight"] = shard
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FormatError, match=r"only names of files|not a bin file|is not complete"):
        checkpoint.read(shards, allow_pickle=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_model_bin_beside_its_configuration(tmp_path: Path, model: Any, dtype: str, legacy: bool) -> None:
    model = model.to(getattr(torch, dtype))
    model.config.save_pretrained(tmp_path)
    state = model.state_dict() | {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    found = checkpoint.read(tmp_path, allow_pickle=True)
    assert (found.format, found.weights.form) == (
        "hf",
        {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype],
    )
    assert any(note.startswith("attention masks left out (1 of") for note in found.notes)
    for name, tensor in published_layout(model.transformer).items():
        ours = name.replace(".weight", ".w" if tensor.ndim == 2 and name.startswith("h.") else ".g")
        ours = ours.replace(".bias", ".b").replace("wte.g", "wte").replace("wpe.g", "wpe")
        array = found.weights.float32(ours)
        np.testing.assert_array_equal(array.T if ours.endswith(".w") else array, tensor)


@pytest.mark.parametrize("form", ["fp32", "fp16", "bf16"])
def test_mingpts_file_beside_its_configuration(tmp_path: Path, model: Any, form: str) -> None:
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[form]
    model = model.to(dtype)
    torch.save({name: array.to(dtype) for name, array in as_nanogpt(model)["model"].items()}, tmp_path / "model.pt")
    sizes = {key: value for key, value in ARGS.items() if key != "bias"}
    (tmp_path / "config.json").write_text(json.dumps({"system": {}, "model": sizes}), encoding="utf-8")
    found = checkpoint.read(tmp_path, allow_pickle=True)
    assert (found.format, found.config, found.weights.form) == ("mingpt", CONFIG, form)
    with torch.inference_mode():
        expected = model.float()(torch.tensor([[1, 2, 250]])).logits[0].numpy()
    np.testing.assert_allclose(logits(found.weights, [1, 2, 250]), expected, atol=1e-4)


@pytest.mark.parametrize("form", ["fp32", "fp16", "bf16"])
def test_torch_opens_what_is_written_and_it_comes_back_exactly(tmp_path: Path, form: str) -> None:
    weights = Weights.from_arrays(TINY, random_arrays(TINY))
    checkpoint.write_folder(tmp_path / "hf", weights, TINY, None, form=form)
    before = checkpoint.read(tmp_path / "hf").weights
    checkpoint.write(tmp_path / "nano", before, None, format="nanogpt", form=form)
    state = torch.load(tmp_path / "nano" / "ckpt.pt", weights_only=True)
    assert state["model_args"] == ARGS | {"n_embd": 8, "block_size": 16, "vocab_size": 100, "dropout": 0.0}
    tensors = state["model"]
    assert tensors["lm_head.weight"].data_ptr() == tensors["transformer.wte.weight"].data_ptr()
    assert str(tensors["lm_head.weight"].dtype) == {"fp32": "torch.float32", "fp16": "torch.float16"}.get(
        form, "torch.bfloat16"
    )
    assert tensors["transformer.h.1.mlp.c_fc.weight"].shape == (32, 8)
    turned = tensors["transformer.h.1.attn.c_proj.weight"].float().numpy()
    np.testing.assert_array_equal(turned, before.float32("h.1.attn.c_proj.w").T)
    torch.load(tmp_path / "nano" / "ckpt.pt", mmap=True, weights_only=True)
    again = checkpoint.read(tmp_path / "nano", allow_pickle=True)
    checkpoint.write_folder(tmp_path / "back", again.weights, again.config, None, form=form)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    assert not again.weights.float32("wte").flags.owndata or form != "fp32"  # mapped, not copied


def test_what_nanogpt_has_no_setting_for_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=2, n_positions=4, vocab_size=9, n_inner=20)
    with pytest.raises(MismatchError, match="cannot be written for nanoGPT"):
        checkpoint.write(
            tmp_path / "m", Weights.from_arrays(config, random_arrays(config)), None, format="nanogpt", form="fp32"
        )


@dataclasses.dataclass
class Settings:
    """What a training script keeps beside the weights, of a class that nobody else has."""

    n_layer: int = 2
    n_head: int = 2
    n_embd: int = 16
    block_size: int = 32
    vocab_size: int = 260


class Attributes(dict[str, Any]):
    """A dictionary of a class of its own, as Lightning's hyperparameters are."""


BESIDE: dict[str, Callable[[], Any]] = {
    "a NumPy scalar": lambda: [np.float64(3.2), np.float32(1), np.int64(7), np.bool_(True)],
    "paths": lambda: [Path("out"), PurePosixPath("/data"), PureWindowsPath("c:/data")],
    "settings": lambda: argparse.Namespace(lr=6e-4, out=Path("out"), device=torch.device("cpu"), dtype=torch.float16),
    "an object": Settings,
    "a dictionary of another class": lambda: Attributes(lr=6e-4, betas=(0.9, 0.95)),
    "collections": lambda: [collections.Counter("aab"), collections.defaultdict(list, a=[1]), collections.deque([1])],
    "sets and times": lambda: [{1, 2}, frozenset([1]), torch.Size([2]), datetime.datetime(2020, 1, 1), 1j],
    "an optimizer": lambda: torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1e-3),
    "tensors of no use": lambda: {"losses": torch.tensor([]), "half": torch.zeros(4, 4)[:, ::2]},
    "random numbers": lambda: [np.random.get_state(), random.getstate(), torch.get_rng_state(), np.arange(4.0)],
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_training_scripts_keep_beside_the_weights_is_passed_over(
    tmp_path: Path, model: Any, beside: str, protocol: int
) -> None:
    model.config.save_pretrained(tmp_path)
    state = {"model_state_dict": model.state_dict(), "beside": BESIDE[beside]()}
    torch.save(state, tmp_path / "model.pt", pickle_protocol=protocol)
    assert_has_the_logits_of(model, read(tmp_path))


def assert_has_the_logits_of(model: Any, found: Any) -> None:
    with torch.inference_mode():
        expected = model.float()(torch.tensor([[1, 2, 250]])).logits[0].numpy()
    np.testing.assert_allclose(logits(found.weights, [1, 2, 250]), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "wrappers"),
    [
        ("module.", ["module"]),
        ("_orig_mod.module.", ["_orig_mod", "module"]),
        ("module._orig_mod.", ["module", "_orig_mod"]),
    ],
)
def test_names_are_freed_of_what_wrappers_put_before_them(
    tmp_path: Path, model: Any, prefix: str, wrappers: list[str]
) -> None:
    torch.save(as_nanogpt(model, prefix), tmp_path / "ckpt.pt")
    found = checkpoint.read(tmp_path, allow_pickle=True, tanh_gelu=True)
    assert [note.split()[3] for note in found.notes if note.startswith("names freed")] == [f"{w}.," for w in wrappers]
    assert_has_the_logits_of(model, found)


def test_a_dictionary_of_parameters_with_attributes_is_read(tmp_path: Path, model: Any) -> None:
    parameters = collections.OrderedDict(model.named_parameters())
    for parameter in parameters.values():
        parameter._is_hf_initialized = True
    model.config.save_pretrained(tmp_path)
    torch.save({"module." + name: p for name, p in parameters.items()}, tmp_path / "model.pt")
    assert_has_the_logits_of(model, read(tmp_path))


def test_a_model_inside_a_module_is_read_and_nothing_beside_it_is_lost(tmp_path: Path, model: Any) -> None:
    model.config.save_pretrained(tmp_path)
    inside = {"model." + name: tensor for name, tensor in model.transformer.state_dict().items()}
    torch.save(inside, tmp_path / "model.pt")
    assert_has_the_logits_of(model, read(tmp_path))
    torch.save(inside | {"lm_head.weight": torch.zeros_like(model.lm_head.weight)}, tmp_path / "model.pt")
    with pytest.raises(MismatchError, match=r"lm_head.weight that differs from wte"):
        read(tmp_path)
    torch.save(inside | {"value_head.weight": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(MismatchError, match=r"no place for: value_head\.weight"):
        read(tmp_path)


def test_a_module_that_was_saved_whole_is_read(tmp_path: Path, model: Any) -> None:
    model.config.save_pretrained(tmp_path)
    torch.save(model, tmp_path / "model.pt")
    assert_has_the_logits_of(model, read(tmp_path))


def test_float64_is_rounded_and_said(tmp_path: Path, model: Any) -> None:
    model.double().config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = read(tmp_path)
    assert (found.weights.form, found.notes[0]) == ("fp32", "float64 rounded to float32")
    wte = model.transformer.wte.weight.detach().numpy()
    np.testing.assert_array_equal(found.weights.float32("wte"), wte.astype(np.float32))
    for format, form in (("hf", "fp32"), ("hf", "int8"), ("gguf", "fp16"), ("nanogpt", "bf16"), ("llmc", "fp32")):
        checkpoint.write(tmp_path / f"{format}-{form}", found.weights, None, format=format, form=form)
    back = checkpoint.read(tmp_path / "hf-fp32")
    np.testing.assert_array_equal(back.weights.float32("wte"), wte.astype(np.float32))


def test_settings_in_an_object_say_the_models_size(tmp_path: Path, model: Any) -> None:
    state = as_nanogpt(model)
    torch.save({"model": state["model"], "config": Settings(), "step": 19072, "val_loss": 3.07}, tmp_path / "model.pt")
    with pytest.raises(MismatchError, match=r"may compute GELU exactly \(it does not say\).*--tanh-gelu"):
        read(tmp_path)
    found = checkpoint.read(tmp_path, allow_pickle=True, tanh_gelu=True)
    assert (found.format, found.config) == ("nanogpt", CONFIG)
    assert_has_the_logits_of(model, found)


def test_weights_under_another_name_are_named(tmp_path: Path, model: Any) -> None:
    model.config.save_pretrained(tmp_path)
    torch.save({"net": model.state_dict()}, tmp_path / "model.pt")
    with pytest.raises(MismatchError, match=r"There are others, without a place in it: net\.transformer\.wte\.weight"):
        read(tmp_path)


class Command:
    """What a hostile pickle holds: an object that says to call a function when it is opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def archive(path: Path, content: bytes, members: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("ckpt/data.pkl", content)
        for name, data in (members or {}).items():
            file.writestr(name, data)
    return path


def read(path: Path) -> Any:
    return checkpoint.read(path, allow_pickle=True)


CALLS = {
    "os.system": Command(os.system, "touch RAN"),
    "eval": Command(eval, "open('RAN', 'w')"),
    "exec": Command(exec, "open('RAN', 'w')"),
    "import": Command(__import__, "antigravity"),
    "bytearray": Command(bytearray, 1 << 40),
}


def test_a_name_with_a_backslash_is_refused_as_another(tmp_path: Path) -> None:
    path = archive(tmp_path / "ckpt.pt", b"cbuiltins\neval\\d\n)R.")
    assert r"it wants builtins.eval\d" in torch_pickle.describe(path)["error"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "ckpt.pt", pickle.dumps({"model": CALLS[name]}, protocol))
    with pytest.raises(FormatError, match=r"it wants .* called\. Nothing in it was run"):
        read(path)
    legacy = tmp_path / "old.pt"
    legacy.write_bytes(pickle.dumps(CALLS[name], protocol))
    with pytest.raises(FormatError, match="it wants"):
        read(legacy)
    assert not (tmp_path / "RAN").exists()


REACH = """
import socket, sys
from gpt2.checkpoint.torch_pickle import confine
if not confine():
    sys.exit(77)
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
except OSError:
    sys.exit(0)
sys.exit("a connection was made")
"""


def test_the_process_that_looks_has_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()  # it is there
        done = subprocess.run([sys.executable, "-c", REACH, str(port)], check=False, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this system gives no process a network of its own")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such limit")
def test_the_process_that_looks_has_little_memory() -> None:
    program = "from gpt2.checkpoint.torch_pickle import confine\nconfine()\nbytearray(1 << 30)"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "MemoryError" in done.stderr


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpu%btQ%b(%bt(%bt\x89ccollections\nOrderedDict\n)RtR."
)


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(count: int = 4, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)) -> bytes:
    numbers = [b"".join(map(number, values)) for values in ([count], [offset], shape, strides)]
    return b"\x80\x02}X\x05\x00\x00\x00model" + (TENSOR % tuple(numbers))[:-1] + b"s."


STORAGE = {"ckpt/data/0": bytes(16)}
HOSTILE: dict[str, tuple[bytes, dict[str, bytes], str]] = {
    "a shape of 10^9": (tensor(shape=(10**9,)), STORAGE, "does not lie in it"),
    "a storage of 2^40": (tensor(count=1 << 40), STORAGE, "are not all there"),
    "a negative shape": (tensor(shape=(-4,)), STORAGE, "a tensor that cannot be"),
    "an offset past the end": (tensor(offset=3), STORAGE, "does not lie in it"),
    "strides that jump": (tensor(shape=(2,), strides=(2,)), STORAGE, "does not lie in one piece"),
    "strides of zero": (tensor(shape=(10**6,), strides=(0,)), STORAGE, "does not lie in"),
    "no numbers": (tensor(), {}, "are not all there"),
    "a member that leads out": (tensor(), {"ckpt/data/../../0": bytes(16)}, "leads out of the archive"),
    "an absolute member": (tensor(), {"/etc/x": b""}, "leads out of the archive"),
    "no end": (b"\x80\x02}", STORAGE, "damaged"),
    "an empty pickle": (b"", STORAGE, "damaged"),
    "a stack run empty": (b"\x80\x020.", STORAGE, "uses the instruction POP|damaged"),
    "a memo of nothing": (b"\x80\x02h\x05.", STORAGE, "damaged"),
    "an object's state": (b"\x80\x02]}b.", STORAGE, "sets the state of an object"),
    "an instance": (b"(cos\nsystem\no.", STORAGE, "uses the instruction OBJ"),
    "an extension": (b"\x80\x02\x82\x01.", STORAGE, "uses the instruction EXT1"),
    "a text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", STORAGE, "damaged"),
    "a dictionary in itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", STORAGE, "nested more than"),
    "a list as a key": (b"\x80\x02}]K\x01s.", STORAGE, "neither texts nor numbers"),
    "a key twice": (
        b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.",
        STORAGE,
        "a key of a dictionary is given",
    ),
    "a name twice": (
        b"\x80\x02}(X\x01\x00\x00\x00a}X\x01\x00\x00\x00bK\x01sX\x03\x00\x00\x00a.bK\x02u.",
        STORAGE,
        "'a.b' is given",
    ),
    "no tensors": (b"\x80\x02}.", STORAGE, "holds no tensors"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, fault: str) -> None:
    content, members, message = HOSTILE[fault]
    path = archive(tmp_path / "ckpt.pt", content, members)
    with pytest.raises((FormatError, MismatchError), match=message):
        read(path)


def test_a_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    path = archive(tmp_path / "ckpt.pt", tensor(), {"ckpt/data/0": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(FormatError, match="it may be a zip bomb"):
        read(path)


def test_members_over_one_another_and_twice(tmp_path: Path) -> None:
    path = archive(tmp_path / "ckpt.pt", tensor(), STORAGE | {"ckpt/data/1": bytes(16)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        first, second = (file.getinfo(f"ckpt/data/{i}").header_offset for i in range(2))
    at = content.rindex(struct.pack("<I", second))
    path.write_bytes(content[:at] + struct.pack("<I", first) + content[at + 4 :])
    with pytest.raises(FormatError, match=r"overlaps another|archive is damaged"):
        read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ckpt/data.pkl", tensor())
        file.writestr("ckpt/data/0", bytes(16))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("ckpt/data/0", bytes(16))
    with pytest.raises(FormatError, match="is there twice"):
        read(path)


def test_doubling_dictionaries_are_counted(tmp_path: Path) -> None:
    """Ten lines that would be a billion values: a dictionary of ten times the one before."""
    content: Any = {"x": 1}
    for _ in range(9):
        content = {str(i): content for i in range(10)}
    with pytest.raises(FormatError, match="more than 262,144 values"):
        read(archive(tmp_path / "ckpt.pt", pickle.dumps(content, 2)))


def memoised(name: str) -> bytes:
    """A text of a megabyte, and a dictionary that has it a thousand times over."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x00"
    if name == "texts":
        items = b"".join(number(i) + b"h\x00" for i in range(1000))
        return b"\x80\x02}(" + number(-1) + text + items + b"u."
    return b"\x80\x02}" + text + b"K\x01s."


def test_what_a_memo_multiplies_is_not_written_out(tmp_path: Path) -> None:
    many = archive(tmp_path / "many.pt", memoised("texts"))
    facts = torch_pickle.describe(many)
    assert len(json.dumps(facts)) < 1000  # a thousand times a megabyte is left out
    assert "a name of more than" in torch_pickle.describe(archive(tmp_path / "long.pt", memoised("name")))["error"]
    huge = {str(i): 1 << 10_000 for i in range(1000)}
    assert len(json.dumps(torch_pickle.describe(archive(tmp_path / "huge.pt", pickle.dumps(huge, 2))))) < 1000
    middle = {str(i): "y" * 900 for i in range(20_000)}
    path = archive(tmp_path / "sum.pt", pickle.dumps(middle, 2))
    assert "names and texts of more than" in torch_pickle.describe(path)["error"]


def test_tensors_that_would_be_copied_over_and_over_are_refused(tmp_path: Path) -> None:
    whole = tensor(count=10_000, shape=(10_000,))[:-2]
    one = whole[whole.index(b"ctorch") :]
    many = b"\x80\x02}(" + b"".join(b"X\x02\x00\x00\x00%02d" % i + one for i in range(50)) + b"u."
    messages: set[str] = set()
    for name in ("a", "aa", "aaa", "aaaa"):  # moves the numbers by one byte each
        path = archive(tmp_path / "ckpt.pt", many, {f"ckpt/{name}": b"", "ckpt/data/0": bytes(40_000)})
        with pytest.raises(FormatError) as caught:
            read(path)
        messages.add(str(caught.value).partition("ckpt.pt ")[2][:40])
    assert "is refused: its tensors lie over one ano" in messages


def test_shared_branches_without_leaves_end(tmp_path: Path) -> None:
    content: Any = {}
    for _ in range(12):
        content = {str(i): content for i in range(10)}
    path = archive(tmp_path / "ckpt.pt", pickle.dumps(content, 2))
    assert "more than 262,144 values" in torch_pickle.describe(path)["error"]


def test_a_key_whose_hash_would_take_forever_is_refused(tmp_path: Path) -> None:
    nested = b"K\x01" + b"q\x00h\x00\x86" * 60  # each a pair of the one before
    path = archive(tmp_path / "ckpt.pt", b"\x80\x02}" + nested + b"K\x01s.")
    assert "neither texts nor numbers" in torch_pickle.describe(path)["error"]
    for hostile in (nested + b"Q.", nested + b")R.", nested + b"h\x00\x93)R."):
        path = archive(tmp_path / "ckpt.pt", b"\x80\x02" + hostile)
        assert "error" in torch_pickle.describe(path)  # and said without writing it out


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, model: Any) -> None:
    (tmp_path / "there").mkdir()
    torch.save(as_nanogpt(model), tmp_path / "there" / "secret.pt")
    (tmp_path / "ckpt.pt").symlink_to(tmp_path / "there" / "secret.pt")
    with pytest.raises(FormatError, match="leads out of its folder"):
        read(tmp_path / "ckpt.pt")


def test_it_must_be_asked_for(tmp_path: Path, model: Any) -> None:
    torch.save(as_nanogpt(model), tmp_path / "ckpt.pt")
    with pytest.raises(FormatError, match=r"ckpt\.pt is a pickle.*--allow-pickle"):
        checkpoint.read(tmp_path / "ckpt.pt")
    (tmp_path / "my model").mkdir()
    (tmp_path / "ckpt.pt").rename(tmp_path / "my model" / "ckpt.pt")
    with pytest.raises(FormatError, match=r"`gpt2 convert '[^']*my model' DST --to hf --allow-pickle`"):
        checkpoint.read(tmp_path / "my model")


@given(**MUTATIONS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_files_are_refused_or_described(tmp_path: Path, changes: Any, length: float) -> None:
    """The machine itself, without its own process: no crash, no other exception."""
    sound = tmp_path / "sound.pt"
    if not sound.exists():
        weights = Weights.from_arrays(TINY, random_arrays(TINY))
        checkpoint.write(tmp_path / "m", weights, None, format="nanogpt", form="fp32")
        sound.write_bytes((tmp_path / "m" / "ckpt.pt").read_bytes())
    content = bytearray(sound.read_bytes())
    content = content[: max(1, int(len(content) * length))]
    for where, value in changes:  # half of them in the pickle, which is at the beginning
        content[int(where * (len(content) - 1))] = value
        content[min(len(content) - 1, int(where * 3000))] = value
    (tmp_path / "spoilt.pt").write_bytes(content)
    facts = torch_pickle.describe(tmp_path / "spoilt.pt")
    assert set(facts) in ({"error"}, {"tensors", "weights", "settings"})
