"""ONNX: checked by the onnx package, and run by onnxruntime to the logits of the definition."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from gpt2 import checkpoint
from gpt2.bench.onnx_graph import write_onnx
from gpt2.checkpoint import onnx_file
from gpt2.checkpoint.weights import Weights
from gpt2.config import ModelConfig
from gpt2.errors import CheckpointError, FormatError, MismatchError
from gpt2.model import reference

from .conftest import random_arrays, small_tokenizer

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=32, vocab_size=263)
FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int4": "model_q4.onnx"}


class Runner:
    """A graph by onnxruntime, fed as Optimum and transformers.js feed it."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.empty = (config.n_head, 0, config.head_width)
        self.names = [each.name for each in self.session.get_inputs()]

    def __call__(self, ids_BT: Any, past: Any = None, mask_BS: Any = None, positions_BT: Any = None) -> Any:
        ids_BT = np.array(ids_BT, np.int64)
        past = past or [np.zeros((len(ids_BT), *self.empty), np.float32)] * (len(self.names) - 3)
        before = past[0].shape[2]
        total = before + ids_BT.shape[1]
        mask_BS = np.ones((len(ids_BT), total), np.int64) if mask_BS is None else mask_BS
        if positions_BT is None:
            positions_BT = np.broadcast_to(np.arange(before, total), ids_BT.shape)
        feed = dict(zip(self.names, [ids_BT, mask_BS, positions_BT, *past], strict=True))
        logits, *present = self.session.run(None, feed)
        return logits, present


def expected(weights: Weights, ids: list[int]) -> Any:
    return reference.logits(weights.config, {name: weights.float32(name) for name in weights.names}, ids)


def written(goal: Path, config: ModelConfig = CONFIG, form: str = "fp32") -> tuple[Runner, Weights]:
    weights = Weights.from_arrays(config, random_arrays(config))
    checkpoint.write(goal, weights, small_tokenizer(), format="onnx", form=form)
    # What the graph is to compute: of the values that `hf` holds in this form, `wpe` and vectors unrounded.
    rounded_folder = goal.with_name(f"rounded-{goal.name}")
    checkpoint.write_folder(rounded_folder, weights, config, None, form=form)
    rounded = checkpoint.read(rounded_folder).weights
    kept = {name: weights.float32(name) for name in weights.names if name == "wpe" or not name.endswith(("wte", ".w"))}
    arrays = {name: rounded.float32(name) for name in weights.names} | kept
    return Runner(goal / "onnx" / FILES[form], config), Weights.from_arrays(config, arrays)


@pytest.mark.parametrize("form", FILES)
def test_the_logits_are_those_of_the_definition(tmp_path: Path, form: str) -> None:
    run, weights = written(tmp_path / "goal", form=form)
    ids = [5, 262, 0, 7, 7, 100, 31]
    whole, _ = run([ids])
    wanted = expected(weights, ids)
    np.testing.assert_allclose(whole[0], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    first, past = run([ids[:3]])
    second, past = run([ids[3:4]], past)
    third, _ = run([ids[4:]], past)
    np.testing.assert_allclose(np.concatenate([first, second, third], axis=1), whole, rtol=1e-4, atol=1e-4)


def test_what_is_padded_is_not_attended_to(tmp_path: Path) -> None:
    run, _ = written(tmp_path / "goal")
    ids = [5, 262, 0, 7, 7, 100, 31]
    alone = run([ids])[0][0]
    padded = [[9, 9, *ids[:5]], ids]
    mask, positions = np.ones((2, 7), np.int64), np.array([[1, 1, *range(5)], range(7)])
    mask[0, :2] = 0
    together, past = run(padded, mask_BS=mask, positions_BT=positions)
    np.testing.assert_allclose(together[0, 2:], alone[:5], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(together[1], alone, rtol=1e-4, atol=1e-4)
    mask = np.concatenate([mask, np.ones((2, 2), np.int64)], axis=1)
    rest, _ = run([ids[5:], [1, 2]], past, mask, np.array([[5, 6], [7, 8]]))
    np.testing.assert_allclose(rest[0], alone[5:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("n_inner", [256, 96])
def test_the_checker_of_onnx_finds_nothing(tmp_path: Path, form: str, n_inner: int) -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=64, n_inner=n_inner, n_positions=8, vocab_size=263)
    run, weights = written(tmp_path / "goal", config, form)
    model = onnx.load(tmp_path / "goal" / "onnx" / FILES[form])
    onnx.checker.check_model(
        model, full_check=form != "int4"
    )  # it does not know the shapes of onnxruntime's MatMulNBits
    assert [each.name for each in model.graph.input] == [
        *("input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value")
    ]
    assert [each.name for each in model.graph.output] == ["logits", "present.0.key", "present.0.value"]
    wanted = expected(weights, [1, 2, 3])
    np.testing.assert_allclose(run([[1, 2, 3]])[0][0], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("form", FILES)
def test_a_model_beyond_the_limit_of_one_file_takes_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    whole, _ = written(tmp_path / "whole", form=form)
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 50_000)
    parted, _ = written(tmp_path / "parted", form=form)
    folder = tmp_path / "parted" / "onnx"
    assert {file.name for file in folder.iterdir()} == {FILES[form], FILES[form] + "_data"}
    assert (folder / FILES[form]).stat().st_size < 50_000
    onnx.checker.check_model(str(folder / FILES[form]))  # that the arrays lie where they are said to
    np.testing.assert_array_equal(parted([[1, 2, 3]])[0], whole([[1, 2, 3]])[0])
    checkpoint.write(
        tmp_path / "parted", expected_weights(), small_tokenizer(), format="onnx", form=form, overwrite=True
    )


def expected_weights() -> Weights:
    return Weights.from_arrays(CONFIG, random_arrays(CONFIG, seed=1))


def test_the_limit_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "goal")
    size = (tmp_path / "goal" / "onnx" / "model.onnx").stat().st_size
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", size)
    written(tmp_path / "fits")
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", size - 1)
    written(tmp_path / "not")
    assert len(list((tmp_path / "fits" / "onnx").iterdir())) == 1
    assert len(list((tmp_path / "not" / "onnx").iterdir())) == 2


def test_the_rest_of_the_folder_is_hugging_faces(tmp_path: Path) -> None:
    written(tmp_path / "goal")
    checkpoint.write_folder(tmp_path / "hf", expected_weights(), CONFIG, small_tokenizer())
    here, there = ({file.name: file for file in (tmp_path / name).iterdir()} for name in ("goal", "hf"))
    assert set(here) - {"onnx"} == set(there) - {"model.safetensors", "README.md"}
    for name in set(here) & set(there):
        assert here[name].read_bytes() == there[name].read_bytes()
    assert json.loads(here["config.json"].read_text(encoding="utf-8"))["model_type"] == "gpt2"


def test_what_cannot_be(tmp_path: Path) -> None:
    narrow = ModelConfig(n_layer=1, n_head=2, n_embd=48, n_positions=8, vocab_size=263)
    weights = Weights.from_arrays(narrow, random_arrays(narrow))
    with pytest.raises(MismatchError, match=r"widths 48 and 192 are not multiples of 32. Choose fp16"):
        checkpoint.write(tmp_path / "goal", weights, None, format="onnx", form="int4")
    assert list(tmp_path.iterdir()) == []
    written(tmp_path / "goal")
    (tmp_path / "optimum").mkdir()
    for name in ("config.json", "model.onnx"):
        (tmp_path / "optimum" / name).write_text("{}", encoding="utf-8")
    for asked in (tmp_path / "goal", tmp_path / "goal" / "onnx", tmp_path / "optimum", tmp_path / "optimum/model.onnx"):
        with pytest.raises(FormatError, match="is ONNX, which is written here and not read"):
            checkpoint.read(asked)
    (tmp_path / "goal" / "onnx" / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="'onnx', which is no part of a model"):
        checkpoint.write(tmp_path / "goal", expected_weights(), None, format="onnx", form="fp32", overwrite=True)


def test_the_graph_of_the_benchmarks_gives_the_last_tokens_logits(tmp_path: Path) -> None:
    weights = expected_weights()
    write_onnx(tmp_path / "bench.onnx", weights)
    session: Any = onnxruntime.InferenceSession(str(tmp_path / "bench.onnx"), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    ids = np.array([[5, 262, 0, 7], [1, 2, 3, 4]])
    past = [np.zeros((2, CONFIG.n_head, 0, CONFIG.head_width), np.float32)] * (len(names) - 1)
    _, *past = session.run(None, dict(zip(names, [ids[:, :3], *past], strict=True)))
    logits, *_ = session.run(None, dict(zip(names, [ids[:, 3:], *past], strict=True)))
    wanted = np.stack([expected(weights, row)[-1] for row in ids.tolist()])
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
