"""What `finetune` and `pretrain` are given that they cannot use is refused at once, by its name."""

from pathlib import Path
from typing import Any

import pytest

from gpt2.errors import ConfigError, DataError, ModelNotFoundError
from gpt2.train import finetune, load_config, pretrain


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"text": 5}, DataError, "The text is given by its path: got 5"),
        ({"out": None}, ConfigError, "new model's folder is given by its path: got None"),
        ({"out": "a\0b"}, ConfigError, "no file can have this name"),
        ({"model": 5}, ModelNotFoundError, "no model 5"),
        ({"lora": 8}, ConfigError, "True, False or a gpt2.train.LoraConfig: got 8"),
        ({"field": b"text"}, ConfigError, "field is the name .*: got b'text'"),
        ({"field": "\ud800"}, ConfigError, "field is the name"),
        ({"validation": "0.1"}, ConfigError, "validation='0.1': it is a share"),
        ({"validation": float("nan")}, ConfigError, "validation=nan: it is a share"),
        ({"validation": -1}, ConfigError, "validation=-1: it is a share"),
        ({"epochs": "2"}, ConfigError, "'2' times: epochs must be a number above 0"),
        ({"errors": "ignore"}, ConfigError, "'ignore': say strict or replace"),
        ({"overrides": "optim.lr=1"}, ConfigError, "a list of settings.*: got 'optim.lr=1'"),
        ({"overrides": [5]}, ConfigError, "overridden by a text.*: got 5"),
        ({"say": 5}, ConfigError, "say must be a function, or left out: got 5"),
        ({"on_plan": 5}, ConfigError, "on_plan must be a function"),
        ({"on_sample": 5}, ConfigError, "on_sample must be a function"),
        ({"trackers": 5}, ConfigError, "trackers are a list .*: got 5"),
        ({"trackers": [5]}, ConfigError, r"trackers are a list .*: got \[5\]"),
    ],
)
def test_what_cannot_be_a_setting_of_fine_tuning(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    text = tmp_path / "novel.txt"
    text.write_text("Once upon a time. " * 500, encoding="utf-8")
    with pytest.raises(error, match=said):
        finetune(**{"text": text, "out": tmp_path / "mine"} | settings)
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize(
    ("given", "settings", "said"),
    [
        (None, {}, r"a gpt2\.train\.TrainConfig: got None"),
        ("recipe", {}, "load_config makes one of a recipe"),
        (load_config("tiny-cpu"), {"say": 5}, "say must be a function"),
        (load_config("tiny-cpu"), {"trackers": 5}, "trackers are a list .*: got 5"),
    ],
)
def test_what_cannot_be_a_run(given: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pretrain(given, **settings)
