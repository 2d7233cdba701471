"""Adapters from strangers: what a hostile folder can hold, and merging that keeps nothing in memory."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2 import checkpoint
from gpt2.checkpoint import lora
from gpt2.checkpoint.forms import encode
from gpt2.checkpoint.weights import StoredArray
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError

from .conftest import MUTATIONS, random_arrays, read_mutated

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=100)


def arrays(rank: int = 2, inputs: int = 8, outputs: int = 24) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "h.0.attn.c_attn.lora_A": rng.normal(size=(rank, inputs)),
        "h.0.attn.c_attn.lora_B": rng.normal(size=(outputs, rank)),
    }


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    checkpoint.write_folder(tmp_path / "base", random_arrays(CONFIG), CONFIG, None)
    (tmp_path / "adapter").mkdir()
    checkpoint.write_adapter(
        tmp_path / "adapter", arrays(), base=str(tmp_path / "base"), alpha=4, dropout=0, targets=("attn.c_attn",)
    )
    return tmp_path / "adapter"


def change(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def test_merging_is_the_plain_sum_and_is_made_when_asked_for(adapter: Path, tmp_path: Path) -> None:
    merged, base = checkpoint.read(adapter).weights, checkpoint.read(tmp_path / "base").weights
    a, b = (array.astype(np.float32) for array in arrays().values())
    expected = base.float32("h.0.attn.c_attn.w") + np.float32(2) * (b @ a).T
    np.testing.assert_array_equal(merged.float32("h.0.attn.c_attn.w"), expected)
    stored = merged.stored("h.0.attn.c_attn.w")
    np.testing.assert_array_equal(stored.rows(2, 5).float32(), expected[2:5])
    np.testing.assert_array_equal(stored.transposed().float32(), expected.T)
    np.testing.assert_array_equal(np.concatenate([block.data for block in stored.blocks()]), expected)
    stored.release()
    for name in set(base.names) - {"h.0.attn.c_attn.w"}:
        np.testing.assert_array_equal(merged.float32(name), base.float32(name))


@pytest.mark.parametrize("form", ["fp16", "int8", "int4"])
def test_the_form_is_not_the_base_s_where_a_matrix_has_changed(adapter: Path, tmp_path: Path, form: str) -> None:
    base = checkpoint.read(tmp_path / "base").weights
    checkpoint.write_folder(tmp_path / "base", base, CONFIG, None, form=form, overwrite=True)
    found = checkpoint.read(adapter)
    assert (found.weights.form, found.weights.forms, found.rounded_to) == ("fp32", (form, "fp32"), form)
    assert checkpoint.read(tmp_path / "base").weights.forms == (form,)


@pytest.mark.parametrize(("pattern", "alpha"), [("^h.0.attn.c_attn", 12), ("^transformer.h.0.attn.c_attn", 4)])
def test_names_of_gpt2model_without_its_head_are_read(
    adapter: Path, tmp_path: Path, pattern: str, alpha: float
) -> None:
    """PEFT's patterns are of the names in the model that it changed: the second fits nothing there."""
    expected = checkpoint.read(adapter).weights.float32("h.0.attn.c_attn.w")
    file = adapter / "adapter_model.safetensors"
    found = checkpoint.read_safetensors(file)
    checkpoint.write_safetensors(file, {name.replace(".transformer.", "."): array for name, array in found.items()})
    np.testing.assert_array_equal(checkpoint.read(adapter).weights.float32("h.0.attn.c_attn.w"), expected)
    change(adapter, alpha_pattern={pattern: 12})
    base = checkpoint.read(tmp_path / "base").weights.float32("h.0.attn.c_attn.w")
    ours = checkpoint.read(adapter).weights.float32("h.0.attn.c_attn.w")
    np.testing.assert_allclose(ours - base, (expected - base) * (alpha / 4), atol=1e-5)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_factors_in_halves_are_read(adapter: Path, dtype: str) -> None:
    file = adapter / "adapter_model.safetensors"
    found = checkpoint.read_safetensors(file)
    halves = {name: StoredArray(data=encode(array.data, dtype, name), dtype=dtype) for name, array in found.items()}
    values = [array.float32() for array in halves.values()]
    checkpoint.write_safetensors(file, halves)
    for read, expected in zip(checkpoint.read_adapter(adapter).arrays.values(), values, strict=True):
        np.testing.assert_array_equal(read, expected)


def test_a_merged_model_is_not_held_in_memory(tmp_path: Path) -> None:
    config = ModelConfig(n_layer=8, n_head=2, n_embd=128, n_positions=8, vocab_size=300)
    checkpoint.write_folder(tmp_path / "base", random_arrays(config), config, None)
    names = checkpoint.map_names(config, ("mlp.c_fc",))
    pairs = {f"{name}.lora_A": np.ones((1, 128)) for name in names} | {
        f"{name}.lora_B": np.ones((512, 1)) for name in names
    }
    (tmp_path / "adapter").mkdir()
    base = str(tmp_path / "base")
    checkpoint.write_adapter(tmp_path / "adapter", pairs, base=base, alpha=1, dropout=0, targets=("mlp.c_fc",))
    checkpoint.read(tmp_path / "adapter")
    tracemalloc.start()
    try:
        found = checkpoint.read(tmp_path / "adapter")
        checkpoint.write_folder(tmp_path / "merged", found.weights, config, None)
        assert tracemalloc.get_traced_memory()[1] < 4.5 * 4 * 128 * 512  # of eight matrices
    finally:
        tracemalloc.stop()


def test_factors_whose_product_would_fill_the_memory_are_refused_before_it_is_made(adapter: Path) -> None:
    wide = arrays(rank=1, inputs=1 << 20, outputs=1 << 20)
    checkpoint.write_adapter(adapter, wide, base=str(adapter.parent / "base"), alpha=1, dropout=0, targets=("c_attn",))
    with pytest.raises(MismatchError, match=r"with \[1048576, 1048576\], and the model has one of \[8, 24\]"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("pattern", [r"(\w+)+$x", "(a|a)*x", "[", "c_attn(?=x)", "x" * 500])
def test_patterns_that_might_not_end_are_refused(adapter: Path, pattern: str) -> None:
    change(adapter, alpha_pattern={pattern: 3})
    with pytest.raises(MismatchError, match="is not a plain name"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("pattern", ["c_attn", r"h\.\d+\.attn.c_attn", "^transformer.h.0.attn.c_attn", "c_fc|c_attn"])
def test_plain_patterns_are_peft_s(adapter: Path, pattern: str) -> None:
    change(adapter, alpha_pattern={"c_proj": 5, pattern: 6})
    assert checkpoint.read_adapter(adapter).scales["h.0.attn.c_attn"] == 3


@pytest.mark.parametrize("pattern", [".*" * 100 + "z", r"\d+" * 100 + "z", r".*\d+" * 60, ".*|" * 100 + "z"])
def test_patterns_of_many_stars_come_to_an_end(adapter: Path, pattern: str) -> None:
    change(adapter, alpha_pattern={pattern: 6})
    assert checkpoint.read_adapter(adapter).scales["h.0.attn.c_attn"] == (3 if "|" in pattern else 2)


@given(
    st.sampled_from(["", "^"]),
    st.lists(st.sampled_from([".*", ".", r"\.", r"\d", r"\d+", "|", "h", "0", "1", "attn", "c_attn"]), max_size=7),
    st.sampled_from(["h.0.attn.c_attn", "h.101.attn.c_attn"]),
)
@settings(max_examples=2000, deadline=None, derandomize=True)
def test_a_plain_pattern_fits_what_re_says(begin: str, parts: list[str], name: str) -> None:
    pattern = begin + "".join(parts)
    expected = re.match(rf"(.*\.)?({pattern})$", f"transformer.{name}") is not None
    assert lora._pattern({pattern: True}, name, otherwise=False) is expected


def test_patterns_too_long_for_so_many_maps_are_refused(adapter: Path) -> None:
    change(adapter, alpha_pattern={f"{'.*' * 150}{i}": 1 for i in range(1000)})
    factors = {f"h.{i}.{name[4:]}": array for i in range(8) for name, array in arrays().items()}
    stored = {
        f"transformer.{name}.weight": StoredArray(data=array.astype(np.float32), dtype="F32")
        for name, array in factors.items()
    }
    checkpoint.write_safetensors(adapter / "adapter_model.safetensors", stored)
    with pytest.raises(FormatError, match="alpha_pattern is too long for 16 arrays"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("name", ["peft_type", "init_lora_weights"])
def test_a_long_setting_is_not_repeated_whole(adapter: Path, name: str) -> None:
    change(adapter, **{name: "A" * 100_000})
    with pytest.raises(MismatchError) as caught:
        checkpoint.read(adapter)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("alpha", [10**400, -(10**400), 1e39], ids=["int", "negative", "float"])
def test_a_scale_that_is_no_number_of_ours_is_refused(adapter: Path, alpha: float) -> None:
    change(adapter, lora_alpha=alpha)
    with pytest.raises(FormatError, match="has no number lora_alpha"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("way", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_an_adapter_whose_beginning_changed_the_base_is_refused(adapter: Path, way: str) -> None:
    change(adapter, init_lora_weights=way)
    with pytest.raises(MismatchError, match=f"init_lora_weights = '{way}', which is not plain LoRA"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("way", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_an_adapter_whose_beginning_left_the_base_is_read(adapter: Path, way: str | bool | None) -> None:
    change(adapter, init_lora_weights=way)
    assert checkpoint.read(adapter).format == "lora"


def test_an_adapter_in_a_pickle_says_how_to_rewrite_it(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(FormatError, match=r"adapter_model\.bin is a pickle.*save it again"):
        checkpoint.read(adapter)


def test_an_adapter_of_rank_zero_is_refused(adapter: Path) -> None:
    base = str(adapter.parent / "base")
    checkpoint.write_adapter(adapter, arrays(rank=0), base=base, alpha=1, dropout=0, targets=("attn.c_attn",))
    with pytest.raises(FormatError, match="lora_A and lora_B of one rank, 1 or more"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_link_out_of_the_folder_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).rename(adapter.parent / "secret")
    (adapter / name).symlink_to(adapter.parent / "secret")
    with pytest.raises(FormatError, match="leads out of its folder"):
        checkpoint.read(adapter)


def test_one_matrix_under_two_names_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    found = checkpoint.read_safetensors(file)
    stored = {name: StoredArray(data=array.data.copy(), dtype="F32") for name, array in found.items()}
    again = {name.removeprefix("base_model.model.transformer."): array for name, array in stored.items()}
    checkpoint.write_safetensors(file, stored | again)
    with pytest.raises(FormatError, match="under another name too"):
        checkpoint.read(adapter)


def test_an_adapter_of_itself_or_a_key_twice_is_refused(adapter: Path) -> None:
    change(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(MismatchError, match="adapter of another adapter"):
        checkpoint.read(adapter)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="'peft_type' is given twice"):
        checkpoint.read(adapter)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@given(**MUTATIONS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_files_are_errors_of_ours(adapter: Path, name: str, changes: Any, length: float) -> None:
    sound = adapter.parent / f"sound-{name}"
    if not sound.exists():
        sound.write_bytes((adapter / name).read_bytes())
    read_mutated(adapter / name, sound.read_bytes(), changes, length, opened=adapter)
