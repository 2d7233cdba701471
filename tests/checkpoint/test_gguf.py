"""GGUF: judged by the `gguf` package in both directions, by llama.cpp where it is installed, and distrusted."""

import itertools
import json
import struct
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gpt2 import checkpoint
from gpt2.checkpoint.forms import encode
from gpt2.checkpoint.gguf_blocks import DECODERS, ENCODERS
from gpt2.checkpoint.gguf_file import TYPES, Unwritten, read_gguf, write_gguf
from gpt2.checkpoint.unfinished import array_file
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError, TokenizerError
from gpt2.model import reference
from gpt2.tokenizer import Tokenizer

from .conftest import MUTATIONS, published_layout, random_arrays, read_mutated, small_tokenizer

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=32, vocab_size=263)
THEIR_PARTS = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_f": "output_norm",
}


def their_name(name: str) -> str:
    """From transformers' name to llama.cpp's (gguf-py, tensor_mapping.py)."""
    parts = name.split(".")
    if parts[0] == "h":
        return f"blk.{parts[1]}.{THEIR_PARTS['.'.join(parts[2:-1])]}.{parts[-1]}"
    return f"{THEIR_PARTS[parts[0]]}.{parts[-1]}"


@pytest.fixture
def weights() -> Weights:
    return Weights.from_arrays(CONFIG, random_arrays(CONFIG))


@pytest.fixture
def file(tmp_path: Path, weights: Weights) -> Path:
    checkpoint.write(tmp_path / "m.gguf", weights, small_tokenizer(), format="gguf", form="fp32")
    return tmp_path / "m.gguf"


@pytest.mark.parametrize("form", ["fp32", "fp16", "bf16", "q8_0", "q4_0"])
def test_their_reader_finds_what_we_wrote(tmp_path: Path, weights: Weights, form: str) -> None:
    gguf = pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "m.gguf"
    checkpoint.write(path, weights, small_tokenizer(), format="gguf", form=form)
    theirs = gguf.GGUFReader(path)
    checkpoint.write(tmp_path / "hf", weights, None, format="hf", form="fp32")
    expected = published_layout(transformers.GPT2Model.from_pretrained(tmp_path / "hf"))
    kind = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}[form]
    assert {tensor.name for tensor in theirs.tensors} == {their_name(name) for name in expected}
    by_name = {tensor.name: tensor for tensor in theirs.tensors}
    for name, array in expected.items():
        tensor = by_name[their_name(name)]
        stored_as = "F32" if array.ndim == 1 or name == "wpe.weight" else kind
        assert tensor.tensor_type.name == stored_as
        rounded = gguf.quants.quantize(array, tensor.tensor_type)
        np.testing.assert_array_equal(np.asarray(tensor.data).view(np.uint8), rounded.view(np.uint8))
    values = {key: field.contents() for key, field in theirs.fields.items()}
    assert values["general.architecture"] == "gpt2"
    assert values["gpt2.feed_forward_length"] == 256
    assert values["gpt2.attention.layer_norm_epsilon"] == np.float32(1e-5)
    assert (
        values["general.file_type"]
        == {
            "fp32": gguf.LlamaFileType.ALL_F32,
            "fp16": gguf.LlamaFileType.MOSTLY_F16,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
            "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
        }[form]
    )
    assert values["tokenizer.ggml.tokens"][256:] == [
        "he",
        "ll",
        "hell",
        "<|endoftext|>",
        "[PAD260]",
        "[PAD261]",
        "[PAD262]",
    ]
    assert values["tokenizer.ggml.merges"] == ["h e", "l l", "he ll"]
    assert values["tokenizer.ggml.eos_token_id"] == 259
    kinds = gguf.TokenType
    assert values["tokenizer.ggml.token_type"][258:] == [kinds.NORMAL, kinds.CONTROL, *[kinds.UNUSED] * 3]


def test_what_weights_were_rounded_to_is_known(tmp_path: Path, weights: Weights) -> None:
    for form, known in (("fp32", None), ("fp16", "fp16"), ("q8_0", "Q8_0")):
        checkpoint.write(tmp_path / f"{form}.gguf", weights, small_tokenizer(), format="gguf", form=form)
        assert checkpoint.read(tmp_path / f"{form}.gguf").rounded_to == known


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_what_their_writer_writes_has_their_values_and_transformers_logits(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    sizes: Any = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 32, "vocab_size": 260}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=259, eos_token_id=259)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "gpt2")
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_custom_alignment(64)
    quantised = {}
    for name, array in published_layout(model.transformer).items():
        stored_as = gguf.GGMLQuantizationType["F32" if array.ndim == 1 or name == "wpe.weight" else kind]
        data = gguf.quants.quantize(array, stored_as)
        writer.add_tensor(their_name(name), data, raw_dtype=stored_as)
        quantised[name] = gguf.quants.dequantize(data, stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = checkpoint.read(tmp_path / "theirs.gguf")
    assert (found.format, found.config) == ("gguf", ModelConfig(**sizes))
    checkpoint.write(tmp_path / "hf", found.weights, None, format="hf", form="fp32")
    converted = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    for name, array in published_layout(converted.transformer).items():
        np.testing.assert_array_equal(array, quantised[name])
    ids = torch.tensor([[1, 2, 250, 3]])
    with torch.inference_mode():
        difference = (converted(ids).logits - model(ids).logits).abs().max()
    assert difference <= {"F32": 0, "F16": 0.02, "BF16": 0.2, "Q8_0": 0.2, "Q4_0": 3}[kind]


@pytest.mark.parametrize("form", ["fp32", "fp16", "bf16"])
def test_there_and_back_is_exact(tmp_path: Path, form: str) -> None:
    config = ModelConfig(n_layer=1, n_head=3, n_embd=30, n_positions=20, vocab_size=260, n_inner=50)
    checkpoint.write_folder(tmp_path / "hf", random_arrays(config), config, small_tokenizer(), form=form)
    before = checkpoint.read(tmp_path / "hf")
    checkpoint.write(tmp_path / "m.gguf", before.weights, before.tokenizer(), format="gguf", form=form)
    found = checkpoint.read(tmp_path / "m.gguf")
    assert (found.config, found.weights.form) == (config, form)
    for name in before.weights.names:
        np.testing.assert_array_equal(found.weights.float32(name), before.weights.float32(name))
    assert found.tokenizer().hash == small_tokenizer().hash
    checkpoint.write(tmp_path / "again", found.weights, found.tokenizer(), format="hf", form=form)
    for name in ("model.safetensors", "vocab.json", "merges.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def with_head(file: Path, kind: str, head: Any, *, embedding: str = "Q4_0") -> Path:
    """The same with an `output.weight`, as llama.cpp's converter wrote until 2024."""
    metadata, tensors = read_gguf(file)
    unwritten = {name: Unwritten(t.type, t.shape, partial(iter, [t.data])) for name, t in tensors.items()}
    values = checkpoint.read(file).weights.float32("wte")
    for name, stored_as, array in (("token_embd.weight", embedding, values), ("output.weight", kind, head(values))):
        data = ENCODERS[stored_as](array, name) if stored_as in ENCODERS else encode(array, stored_as, name)
        unwritten[name] = Unwritten(stored_as, array.shape, partial(iter, [data]))
    with array_file(file.with_name("headed.gguf"), None) as out:
        write_gguf(out, metadata, unwritten)
    return file.with_name("headed.gguf")


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "F32", "BF16"])
def test_of_a_head_that_is_rounded_less_than_the_embedding_the_head_is_taken(file: Path, kind: str) -> None:
    """llama-quantize gives `output.weight` a finer type than `token_embd.weight`."""
    found = checkpoint.read(with_head(file, kind, lambda values: values))
    assert f"output.weight repeats it in {kind}, finer than Q4_0" in " ".join(found.notes)
    exact = checkpoint.read(file).weights.float32("wte")
    np.testing.assert_allclose(found.weights.float32("wte"), exact, atol=0.01 * float(np.abs(exact).max()))


def test_a_head_that_is_rounded_as_much_or_more_is_left_out(file: Path) -> None:
    found = checkpoint.read(with_head(file, "Q4_0", lambda values: values, embedding="F32"))
    assert "output.weight left out: it repeats token_embd" in " ".join(found.notes)
    np.testing.assert_array_equal(found.weights.float32("wte"), checkpoint.read(file).weights.float32("wte"))


OTHER_HEADS = {
    "another matrix": ("Q8_0", "Q4_0", lambda values: values[::-1].copy()),
    "one row of another": ("Q8_0", "Q4_0", lambda values: np.concatenate([values[:-1], values[:1]])),
    "fewer rows": ("Q8_0", "Q4_0", lambda values: values[:-1]),
    "no numbers": ("F32", "Q4_0", lambda values: values * np.float32(np.nan)),
    "infinities": ("F32", "F32", lambda values: values * np.float32(np.inf)),
    "a little learned": ("F32", "F32", lambda values: values * np.float32(1.001)),
    "a little learned, in halves": ("F16", "F32", lambda values: values * np.float32(1.01)),
}


@pytest.mark.parametrize("fault", OTHER_HEADS)
def test_a_head_of_its_own_is_refused(file: Path, fault: str) -> None:
    kind, embedding, head = OTHER_HEADS[fault]
    with pytest.raises(MismatchError, match="differs from token_embd: its head is not tied"):
        checkpoint.read(with_head(file, kind, head, embedding=embedding))


def test_unused_tokens_are_cut(file: Path, weights: Weights) -> None:
    found = checkpoint.read(file)
    assert found.config.vocab_size == 260
    assert found.notes[-1] == "vocabulary cut from 263 rows to the 260 that are tokens"
    np.testing.assert_array_equal(found.weights.float32("wte"), weights.float32("wte")[:260])


def test_the_published_vocabulary_comes_back(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=2, n_positions=4)
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "m.gguf", weights, Tokenizer.published(), format="gguf", form="fp16")
    assert checkpoint.read(tmp_path).tokenizer().hash == Tokenizer.published().hash


def test_words_added_to_a_vocabulary_are_marked_as_such_and_come_back(tmp_path: Path) -> None:
    """llama.cpp reads tokens of type 4 (user-defined) wherever they stand, those of type 3 (control) when asked."""
    small_tokenizer().save(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"new word": 260, "<pad>": 261}', encoding="utf-8")
    added = Tokenizer.from_folder(tmp_path)
    config = replace(CONFIG, vocab_size=262)
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "m.gguf", weights, added, format="gguf", form="fp32")
    metadata, _ = read_gguf(tmp_path / "m.gguf")
    assert metadata["tokenizer.ggml.token_type"][-3:] == [3, 4, 3]
    assert checkpoint.read(tmp_path / "m.gguf").tokenizer().hash == added.hash


@pytest.mark.parametrize(("form", "largest"), [("q8_0", 127 * 65504.0), ("q4_0", 8 * 65504.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_value_that_a_scale_in_half_precision_can_hold(
    tmp_path: Path, form: str, largest: float, sign: int
) -> None:
    arrays = random_arrays(CONFIG)
    arrays["h.0.attn.c_proj.w"][3, 3] = sign * largest
    checkpoint.write(tmp_path / "m.gguf", Weights.from_arrays(CONFIG, arrays), None, format="gguf", form=form)
    read = checkpoint.read(tmp_path / "m.gguf").weights.float32("h.0.attn.c_proj.w")
    assert read[3, 3] == sign * largest
    arrays["h.0.attn.c_proj.w"][3, 3] = sign * largest * 1.001
    with pytest.raises(MismatchError, match=r"h\.0\.attn\.c_proj\.w cannot be stored as Q._0: .* beyond"):
        checkpoint.write(tmp_path / "n.gguf", Weights.from_arrays(CONFIG, arrays), None, format="gguf", form=form)


def test_what_does_not_fit_q8_0_is_refused(tmp_path: Path, weights: Weights) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=30, n_positions=4, vocab_size=9)
    narrow = Weights.from_arrays(config, random_arrays(config))
    with pytest.raises(MismatchError, match="not multiples of 32"):
        checkpoint.write(tmp_path / "m.gguf", narrow, None, format="gguf", form="q8_0")
    arrays = random_arrays(CONFIG)
    arrays["h.0.attn.c_proj.w"][3, 3] = np.nan
    with pytest.raises(MismatchError, match=r"h\.0\.attn\.c_proj\.w cannot be stored as Q8_0"):
        checkpoint.write(tmp_path / "m.gguf", Weights.from_arrays(CONFIG, arrays), None, format="gguf", form="q8_0")
    assert list(tmp_path.iterdir()) == []


def test_only_a_gguf_file_is_overwritten(tmp_path: Path, weights: Weights, file: Path) -> None:
    with pytest.raises(CheckpointError, match="is there already"):
        checkpoint.write(file, weights, None, format="gguf", form="fp32")
    checkpoint.write(file, weights, None, format="gguf", form="fp16", overwrite=True)
    assert checkpoint.read(file).weights.form == "fp16"
    (tmp_path / "letter").write_text("dear", encoding="utf-8")
    with pytest.raises(CheckpointError, match="it is no GGUF file"):
        checkpoint.write(tmp_path / "letter", weights, None, format="gguf", form="fp16", overwrite=True)
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoint.write(tmp_path, weights, None, format="gguf", form="fp16", overwrite=True)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def tensor(name: str, shape: tuple[int, ...], offset: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "another version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
    "2^60 tensors": (header(1 << 60, 0), "at most"),
    "2^60 keys": (header(0, 1 << 60), "at most"),
    "a name of 2^60 bytes": (header(0, 1) + struct.pack("<Q", 1 << 60), "a name of"),
    "a text past the end": (header(0, 1) + text("k") + struct.pack("<IQ", 8, 1 << 39), "should follow"),
    "a list past the end": (header(0, 1) + text("k") + struct.pack("<IIQ", 9, 12, 1 << 20), "should follow"),
    "a list of 2^40": (header(0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 1 << 40), "which is not read"),
    "lists in lists": (header(0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "which is not read"),
    "no such type": (header(0, 1) + text("k") + struct.pack("<I", 99), "no type 99"),
    "a key twice": (header(0, 2) + 2 * (text("k") + struct.pack("<IB", 0, 1)), "'k' is given twice"),
    "no UTF-8": (header(0, 1) + struct.pack("<Q", 1) + b"\xff", "not UTF-8"),
    "an alignment of 0": (header(0, 1) + text("general.alignment") + struct.pack("<II", 4, 0), "multiple of 8"),
    "a tensor twice": (header(2, 0) + 2 * tensor("t", (8,), 0) + bytes(96), "'t' is given twice"),
    "a shape of 10^9": (header(1, 0) + tensor("t", (10**9,), 0), "is truncated"),
    "a shape of 2^63": (header(1, 0) + tensor("t", (1 << 63,), 0), "cannot have the shape"),
    "a shape with 0": (header(1, 0) + tensor("t", (0,), 0), "cannot have the shape"),
    "five axes": (header(1, 0) + tensor("t", (1,) * 5, 0), "5 axes"),
    "part of a block": (header(1, 0) + tensor("t", (33,), 0, 8), "cannot have the shape"),
    "a type we do not read": (header(1, 0) + tensor("t", (256,), 0, 16), "ggml's type 16; read are F32"),
    "overlapping": (header(2, 0) + tensor("a", (16,), 0) + tensor("b", (8,), 32) + bytes(128), "overlaps"),
    "not aligned": (header(1, 0) + tensor("a", (8,), 4) + bytes(128), "not aligned"),
    "an offset of 2^63": (header(1, 0) + tensor("a", (8,), 1 << 63) + bytes(128), "is truncated"),
    "a text of 40 MB": (
        header(0, 1) + text("k") + struct.pack("<IQ", 8, 40 << 20) + bytes(40 << 20),
        "before its tensors",
    ),
    "the magic alone": (b"GGUF", "not a whole GGUF"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, fault: str) -> None:
    content, message = HOSTILE[fault]
    (tmp_path / "m.gguf").write_bytes(content.ljust(24, b"\0") if len(content) > 4 else content)
    with pytest.raises(FormatError, match=message):
        checkpoint.read(tmp_path / "m.gguf")


def changed(file: Path, old: bytes, new: bytes) -> Path:
    content = file.read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    file.write_bytes(content.replace(old, new))
    return file


def test_another_architecture_is_refused(file: Path) -> None:
    changed(
        file,
        text("general.architecture") + struct.pack("<I", 8) + text("gpt2"),
        text("general.architecture") + struct.pack("<I", 8) + text("gptj"),
    )
    with pytest.raises(MismatchError, match="its architecture is 'gptj'"):
        checkpoint.read(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gpt2.block_count", 1 << 24, "too few for its"),
        ("gpt2.block_count", 1, "no place for"),
        ("gpt2.block_count", 0, "n_layer must lie"),
        ("gpt2.attention.head_count", 3, "multiple of n_head"),
        ("gpt2.context_length", 31, "position_embd.weight has the shape"),
        ("gpt2.embedding_length", 32, "has rows of 64"),
        ("gpt2.feed_forward_length", 128, "ffn_up.weight has the shape"),
    ],
)
def test_metadata_that_lies_is_refused(file: Path, key: str, value: int, message: str) -> None:
    begin = text(key) + struct.pack("<I", 4)
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, content.index(begin) + len(begin), value)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(file)


def test_a_vocabulary_of_another_kind_is_refused(file: Path) -> None:
    begin = text("tokenizer.ggml.pre") + struct.pack("<I", 8)
    changed(file, begin + text("gpt-2"), begin + text("qwen2"))
    with pytest.raises(TokenizerError, match="is not GPT-2's: it is 'gpt2', 'qwen2'"):
        checkpoint.read(file).tokenizer()


def test_a_merge_that_makes_nothing_is_refused(file: Path) -> None:
    changed(file, text("he ll"), text("he lx"))
    with pytest.raises(TokenizerError, match="cannot be read"):
        checkpoint.read(file).tokenizer()


@given(**MUTATIONS)
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_spoilt_files_are_errors_of_ours(file: Path, changes: Any, length: float) -> None:
    sound = file.with_name("sound")
    if not sound.exists():
        sound.write_bytes(file.read_bytes())
        file.unlink()
    content = sound.read_bytes()
    header_bytes = content.index(b"output_norm.bias") + 64
    spoilt = file.with_name("spoilt.gguf")
    read_mutated(spoilt, content[:header_bytes], changes, length)  # most changes hit the header
    read_mutated(spoilt, spoilt.read_bytes() + content[header_bytes:], [], 1.0)


@pytest.mark.long
def test_llama_cpp_gives_the_same_ids_and_greedy_text(tmp_path: Path) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    config = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=128)
    weights = Weights.from_arrays(config, random_arrays(config))
    tokenizer = Tokenizer.published()
    checkpoint.write(tmp_path / "m.gguf", weights, tokenizer, format="gguf", form="fp32")
    arrays = {name: weights.float32(name) for name in weights.names}
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(tmp_path / "m.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 128, 1, 1
    server = xllamacpp.Server(parameters)
    for prompt in ("Hello world", " naïve  café\n\n\t日本語 🙂 1234567890 don't"):
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps({"content": prompt}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            ids = json.load(answer)["tokens"]
        assert ids == tokenizer.encode(prompt)
        completion = server.handle_completions({"prompt": prompt, "max_tokens": 10, "temperature": 0})
        for _ in itertools.repeat(None, 10):
            ids.append(int(reference.logits(config, arrays, np.array(ids))[-1].argmax()))
        assert completion["choices"][0]["text"] == tokenizer.decode(ids[-10:])
    for form in ("q8_0", "q4_0"):  # it rounds activations too, so that only whether it runs is asked
        checkpoint.write(tmp_path / form, weights, tokenizer, format="gguf", form=form)
        parameters.model.path = str(tmp_path / form)
        completion = xllamacpp.Server(parameters).handle_completions({"prompt": "Hello", "max_tokens": 3})
        assert completion["usage"]["completion_tokens"] == 3


def test_the_container_keeps_every_kind_of_value(file: Path) -> None:
    metadata, tensors = read_gguf(file)
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["gpt2.block_count"] == 2
    assert isinstance(metadata["gpt2.attention.layer_norm_epsilon"], float)
    assert tensors["blk.0.ffn_up.weight"].shape == (256, 64)


@pytest.mark.parametrize("kind", list(DECODERS))
def test_blocks_are_expanded_as_the_gguf_package_does(kind: str) -> None:
    """On random bytes, which have every code and scale, the infinite and the missing ones too."""
    gguf = pytest.importorskip("gguf")
    from gpt2.checkpoint.gguf_blocks import expand_blocks

    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    facts = TYPES[kind]
    assert (facts.block_values, facts.block_bytes) == (values, size)
    assert facts.number == gguf.GGMLQuantizationType[kind].value
    blocks = np.random.default_rng(0).integers(0, 256, (2000, size), np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(blocks.reshape(-1, size), gguf.GGMLQuantizationType[kind])
    ours = expand_blocks(blocks, kind)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))


@pytest.mark.parametrize(("kind", "width"), [("Q8_0", 64), ("Q5_0", 96), ("Q4_K", 256), ("Q6_K", 512)])
def test_parts_of_an_expanding_array_are_parts_of_the_whole(
    kind: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2.checkpoint.gguf_array import ExpandingArray
    from gpt2.checkpoint.gguf_blocks import expand_blocks

    facts = TYPES[kind]
    octets = np.random.default_rng(0).integers(0, 100, (50, width // facts.block_values, facts.block_bytes), np.uint8)
    whole = expand_blocks(octets.reshape(-1, facts.block_bytes), kind).reshape(50, width)
    array = ExpandingArray(octets, kind, 0, 50, is_turned=False)
    monkeypatch.setattr("gpt2.checkpoint.weights.BLOCK_VALUES", 1000)
    for found, expected in ((array, whole), (array.transposed(), whole.T), (array.transposed().transposed(), whole)):
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found.float32(), expected)
        np.testing.assert_array_equal(found.rows(3, 41).float32(), expected[3:41])
        np.testing.assert_array_equal(found.rows(3, 41).rows(2, 99).float32(), expected[5:41])
        pieces = list(found.blocks())
        assert len(pieces) > 1 or expected.shape[0] == facts.block_values
        np.testing.assert_array_equal(np.concatenate([piece.data for piece in pieces]), expected)


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=4, n_positions=4, vocab_size=9)
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(tmp_path / "secret", weights, None, format="gguf", form="fp32")
    (tmp_path / "model").mkdir()
    secret = tmp_path / "secret"
    (tmp_path / "model" / "m.gguf").symlink_to(secret)
    with pytest.raises(FormatError, match="leads out of its folder"):
        checkpoint.read(tmp_path / "model")
