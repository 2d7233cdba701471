import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gpt2.errors import ConfigError
from gpt2.optim import stage
from gpt2.train import TrainConfig, load_config, recipe_names, to_toml
from gpt2.train.config_files import as_tree, config_from

MODEL = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64, "vocab_size": 100}


def tree(**sections: dict[str, Any]) -> dict[str, Any]:
    return {"model": MODEL, "schedule": {"batch_tokens": 64, "sequence": [[0.0, 32]]}} | sections


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_sound_and_survives_being_saved(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(config), encoding="utf-8")
    assert load_config(saved) == config


def test_the_recipes_are_those_the_manual_names() -> None:
    assert recipe_names() == ["gpt2-124m-adamw", "gpt2-124m-fast", "gpt2-mini", "small-cpu", "tiny-cpu"]


def test_odd_texts_survive_being_saved(tmp_path: Path) -> None:
    mixture = {'a "b" \\ c': 0.5, "naïve.txt": 2.0}
    config = config_from(tree(data={"folder": "C:\\data\\new", "mixture": mixture}))
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(config), encoding="utf-8")
    assert load_config(saved) == config
    assert config_from(as_tree(config)) == config


def test_overrides_come_last_and_in_order() -> None:
    config = load_config(
        "gpt2-mini",
        ["optim.lr=0.5", "optim.lr=1e-4", "run.device=cpu", "data.mixture={a=1}", "schedule.sequence=[[0, 128]]"],
    )
    assert config.optim.lr == 1e-4
    assert config.run.device == "cpu"
    assert config.data.mixture == {"a": 1.0}
    assert config.schedule.sequence == ((0.0, 128),)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rte=1", "There is no setting optim.learning_rte"),
        ("optim.l=1", "Did you mean optim.lr?"),
        ("optm.lr=1", "Did you mean optim?"),
        ("schedule.batch_token=1", "Did you mean schedule.batch_tokens?"),
        ("model.n_layers=2", "Did you mean model.n_layer?"),
        ("optim.lr", "write section.name=value"),
        ("lr=1", "write section.name=value"),
        ("optim.lr.x=1", "'lr' has no settings inside it"),
        ("optim.lr=fast", "optim.lr must be a number: got 'fast'"),
        ("run.seed=1.5", "run.seed must be a whole number: got 1.5"),
        ("run.seed=true", "run.seed must be a whole number: got True"),
        ("run.compile=1", "run.compile must be true or false: got 1"),
        ("optim.matrices=sgd", "optim.matrices must be one of adamw, muon: got 'sgd'"),
        ("optim.betas=[0.9]", "optim.betas must be written as in the recipes"),
        ("optim.lr=nan", "optim.lr must lie between"),
        ("optim.lr=-1", "optim.lr must lie between 0.0 and 10.0: got -1"),
        ("optim=3", "write section.name=value"),
        ("schedule.sequence=[[0.5, 16]]", "stages that begin at 0"),
        ("schedule.sequence=[[0, 16], [0.5, 32], [0.2, 16]]", "stages that begin at 0"),
        ("schedule.sequence=[]", "stages that begin at 0"),
        ("schedule.sequence=[[0, 128]]", "the model's context is 64"),
        ("schedule.sequence=[[0, 48]]", "64 is not one of 48. Try 48."),
        ("loss.rows=101", "loss.rows must lie between 0 and 100"),
        ("data.mixture={a=0}", "data.mixture.a must be above 0"),
        ("model.n_head=3", "n_embd must be a multiple of n_head"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config_from(tree())), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert message in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gpt2-mini'"):
        load_config("gpt2-mni")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"[model\n\xff")
    with pytest.raises(ConfigError, match=r"bad\.toml is not readable TOML"):
        load_config(tmp_path / "bad.toml")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(load_config("tiny-cpu")), encoding="utf-8-sig")
    assert load_config(str(file)) == load_config("tiny-cpu")


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"The setting model\.n_head is missing"):
        config_from({"model": {"n_layer": 1, "n_embd": 8}})
    with pytest.raises(ConfigError, match="The setting model is missing"):
        config_from({})


def test_the_last_step_completes_the_tokens() -> None:
    config = config_from(tree())
    for tokens, steps in ((1, 1), (64, 1), (65, 2), (640, 10)):
        changed = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, tokens=tokens))
        assert isinstance(changed, TrainConfig)
        assert changed.total_steps == steps


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_ends_at_its_full_context_with_time_to_learn_it(name: str) -> None:
    config = load_config(name)
    lengths = [length for _, length in config.schedule.sequence]
    assert lengths == sorted(lengths)
    assert lengths[-1] == config.model.n_positions
    assert stage(1.0, config.schedule.sequence) == config.model.n_positions
    assert config.schedule.sequence[-1][0] <= 0.9, "a tenth of the run at least is at the full context"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_takes_whole_sequences_of_every_length_and_ends_in_its_last_stages(name: str) -> None:
    config = load_config(name)
    step = tokens = 0
    while tokens < config.schedule.tokens:
        length, batch_tokens = (stage(tokens / config.schedule.tokens, of) for of in stages(config))
        assert batch_tokens % length == 0
        step, tokens = step + 1, tokens + batch_tokens
    assert step == config.total_steps
    assert (length, batch_tokens) == (config.model.n_positions, config.schedule.batches[-1][1])


def test_stages_of_batch_and_sequence_meet_at_the_end() -> None:
    staged = tree(schedule={"batch_stages": [[0.0, 64], [0.5, 256]], "sequence": [[0.0, 16], [0.3, 64]]})
    config = config_from(staged)
    seen = [tuple(stage(at, of) for of in stages(config)) for at in (0.0, 0.29, 0.3, 0.5, 1.0)]
    assert seen == [(16, 64), (16, 64), (64, 64), (64, 256), (64, 256)]


def stages(config: TrainConfig) -> tuple[Any, Any]:
    return config.schedule.sequence, config.schedule.batches
