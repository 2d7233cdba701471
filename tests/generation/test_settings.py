import dataclasses
from collections.abc import Sequence
from typing import get_type_hints

import pytest

from gpt2.errors import GenerationError
from gpt2.generation import Sampling
from gpt2.generation.settings import Settings


def test_defaults_sample_from_the_model_itself():
    sampling = Sampling()
    assert not sampling.is_greedy
    assert sampling.candidates == 1
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.typical_p) == (1, 0, 1, 0, 1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1, 0, 0)


def test_a_seed_that_is_given_is_kept_and_one_that_is_not_is_drawn():
    assert Sampling(seed=0).changed(n=2).seed == Sampling().changed(seed=0).seed == 0
    assert Sampling().changed().seed is not None


@pytest.mark.parametrize("setting", dataclasses.fields(Sampling), ids=lambda setting: setting.name)
def test_every_setting_has_one_line_of_help(setting: dataclasses.Field):
    text = setting.metadata["help"]
    assert 10 < len(text) < 90
    assert not text.endswith(".")
    assert set(setting.metadata) <= {"help", "least", "above", "most"}


@pytest.mark.parametrize("setting", dataclasses.fields(Sampling), ids=lambda setting: setting.name)
def test_the_limits_in_the_metadata_are_those_that_hold(setting: dataclasses.Field):
    limits = setting.metadata
    outside = [limits[name] - 1 for name in ("least",) if name in limits]
    outside += [limits[name] + 1 for name in ("most",) if name in limits]
    outside += [limits[name] for name in ("above",) if name in limits]
    for value in outside:
        with pytest.raises(GenerationError, match=f"{setting.name} must be .*got {value}"):
            Sampling(**{setting.name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": float("nan")}, "temperature must be finite: got nan"),
        ({"temperature": "hot"}, "temperature must be a number: got 'hot'"),
        ({"top_k": 2.0}, "top_k must be a whole number: got 2.0"),
        ({"n": True}, "n must be a whole number: got True"),
        ({"logprobs": False}, "logprobs must be a whole number: got False"),
        ({"stop": ("a", "")}, "stop must be strings of at least one character: got ''"),
        ({"stop_ids": [-1]}, "stop_ids must be at least 0: got -1"),
        ({"logit_bias": {3: 101}}, "logit_bias of token 3 must be at most 100.0: got 101"),
        ({"logit_bias": {-3: 1}}, "a token id of logit_bias must be at least 0: got -3"),
        ({"overflow": "wrap"}, "overflow must be 'slide' or 'refuse': got 'wrap'"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens=3, max_tokens=2"),
        ({"n": 3, "best_of": 2}, "best_of=2, n=3"),
    ],
)
def test_what_cannot_be_is_named_with_its_limit(settings: dict, message: str):
    with pytest.raises(GenerationError, match=message):
        Sampling(**settings)


def test_one_stop_string_may_be_given_bare():
    assert Sampling(stop="END").stop == ("END",)
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")


def test_a_call_takes_every_setting_by_name():
    given, kept = get_type_hints(Settings), get_type_hints(Sampling)
    assert given.keys() == kept.keys()
    wider = {"stop": str | Sequence[str], "stop_ids": Sequence[int]}
    assert given == kept | wider
    assert list(given) == list(kept)


def test_settings_stay_what_they_were_checked_as():
    given = {3: 1.0}
    sampling = Sampling(logit_bias=given)
    given[3] = 1e9
    assert sampling.logit_bias == {3: 1.0}
    assert {sampling: "a", Sampling(logit_bias={3: 2.0}): "b"}[Sampling(logit_bias={3: 1.0})] == "a"


def test_best_of_adds_nothing_to_greedy():
    assert Sampling(n=2, best_of=5).candidates == 5
    assert Sampling(n=2, best_of=5, temperature=0).candidates == 2


def test_help_says_what_every_setting_does() -> None:
    assert Sampling.__doc__ is not None
    for setting in dataclasses.fields(Sampling):
        assert f"\n        {setting.name}: {setting.metadata['help']}.\n" in Sampling.__doc__
