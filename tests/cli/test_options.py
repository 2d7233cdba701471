"""Shared options are built from what they set, and say the same."""

import dataclasses
import os
from pathlib import Path

import click
import pytest

from gpt2 import native
from gpt2.cli.options import ModelChoice, Sectioned, model_options, sampling_options
from gpt2.generation import Sampling


def parsed(*arguments: str, **defaults: object) -> Sampling:
    """The sampling that a verb would get."""
    found: list[Sampling] = []

    @click.command(cls=Sectioned)
    @sampling_options(**defaults)
    def verb(*, sampling: Sampling) -> None:
        found.append(sampling)

    verb.main(list(arguments), standalone_mode=False)
    return found[0]


def test_without_options_the_defaults_are_those_of_sampling() -> None:
    assert parsed() == Sampling()


def test_a_verb_may_have_defaults_of_its_own() -> None:
    assert parsed(temperature=0.8, top_k=40) == Sampling(temperature=0.8, top_k=40)
    assert parsed("--top-k", "0", temperature=0.8, top_k=40) == Sampling(temperature=0.8)


def test_every_setting_can_be_given() -> None:
    given = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "no_repeat_ngram": 3,
        "logit_bias": {50256: -100.0, 5: 1.5},
        "stop": ("\n", "end"),
        "stop_ids": (1, 2),
        "ignore_eot": True,
        "n": 2,
        "best_of": 4,
        "logprobs": 1,
        "prompt_logprobs": 0,
        "seed": 2**64 - 1,
        "overflow": "refuse",
        "truncate_prompt": True,
    }
    assert set(given) == {setting.name for setting in dataclasses.fields(Sampling)}
    arguments: list[str] = []
    for name, value in given.items():
        option = "--stop-id" if name == "stop_ids" else "--" + name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(option)
        elif isinstance(value, tuple):
            arguments += [part for each in value for part in (option, str(each))]
        elif isinstance(value, dict):
            arguments += [part for token, bias in value.items() for part in (option, f"{token}={bias}")]
        else:
            arguments += [option, str(value)]
    assert parsed(*arguments) == Sampling(**given)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--top-p", "0"],
        ["--top-p", "1.5"],
        ["--temperature", "-1"],
        ["--n", "0"],
        ["--logit-bias", "5"],
        ["--logit-bias", "5=much"],
        ["--logit-bias", "5=nan"],
        ["--logit-bias", "5=1000"],
        ["--stop", ""],
        ["--n", "3", "--best-of", "2"],
        ["--overflow", "wrap"],
        ["--max-tokens", "2", "--min-tokens", "3"],
    ],
)
def test_a_setting_out_of_range_is_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parsed(*arguments)


def test_help_shows_defaults_and_ranges_that_say_something() -> None:
    @click.command(cls=Sectioned)
    @sampling_options(temperature=0.8)
    def verb(*, sampling: Sampling) -> None:
        raise AssertionError(sampling)

    shown = verb.get_help(click.Context(verb, max_content_width=200, terminal_width=200))
    assert "Sampling:\n" in shown
    assert "0 is greedy.  [default: 0.8]\n" in shown
    assert "0<x<=1]" in shown
    assert "18446744073709551615" not in shown
    assert shown.index("--help") < shown.index("Sampling:")


def level_seen_by_a_verb(*arguments: str) -> str | None:
    found: list[str | None] = []

    @click.command(cls=Sectioned)
    @model_options
    def verb(*, choice: ModelChoice) -> None:
        found.append(os.environ.get("GPT2_ISA"))

    verb.main(list(arguments), standalone_mode=False)
    return found[0]


@pytest.mark.parametrize("before", [None, "avx2"])
def test_isa_is_the_environment_s_for_as_long_as_the_verb_runs(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("GPT2_ISA", raising=False)
    if before:
        monkeypatch.setenv("GPT2_ISA", before)
    assert level_seen_by_a_verb() == before
    assert level_seen_by_a_verb("--isa", "portable") == "portable"
    assert os.environ.get("GPT2_ISA") == before


@pytest.mark.parametrize("other", ["--backend=torch", "--backend=reference", "--device=cuda"])
def test_isa_goes_with_the_native_engine_alone(other: str) -> None:
    with pytest.raises(click.UsageError, match="--isa"):
        level_seen_by_a_verb("--isa", "portable", other)


def test_every_level_can_be_asked_for() -> None:
    [isa] = [param for param in click.command(model_options(lambda **_: None)).params if param.name == "isa"]
    assert isinstance(isa.type, click.Choice)
    files = Path(native.__path__[0]).glob("level_*.cpp")
    assert {file.stem.removeprefix("level_").replace("_", "-") for file in files} == {*isa.type.choices}
