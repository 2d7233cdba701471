"""Quality rules from TOML: each section of a file is one check with its limits, applied in the file's order.

A missing rule is off. The sets inside the package are named by their files: gopher, c4, c4-lines, c4-paragraphs,
fineweb, webtext; any other name is the path of a TOML file.
"""

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

from gpt2.data.corpus import quality
from gpt2.data.corpus.page import Step
from gpt2.errors import SettingError, did_you_mean
from gpt2.files import parse_toml

CHECKS: dict[str, type[quality.Check]] = {
    "repetition": quality.Repetition,
    "words": quality.Words,
    "cleaning": quality.Cleaning,
    "paragraphs": quality.Paragraphs,
    "lines": quality.Lines,
    "tokens": quality.Tokens,
}


def shipped_sets() -> list[str]:
    """The names of the sets inside the package."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in resources.files("gpt2.data.corpus.rules").iterdir()
        if file.name.endswith(".toml")
    )


def read_set(name: str) -> dict[str, Any]:
    """The content of a rule set's file.

    Raises:
        SettingError: there is no such set, or the file is not TOML.
    """
    if name in shipped_sets():
        data = resources.files("gpt2.data.corpus.rules").joinpath(f"{name}.toml").read_bytes()
    elif Path(name).is_file():
        data = Path(name).read_bytes()
    else:
        raise SettingError(f"There is no rule set {name!r}. {did_you_mean(name, *shipped_sets())} Or give a TOML file.")
    return parse_toml(data, f"The rule set {name}", SettingError)


def make_steps(name: str) -> list[tuple[str, Step]]:
    """The checks of a set as steps, each with its name, such as `gopher.words`.

    Raises:
        SettingError: an unknown section or rule (the nearest is named), or a limit of the wrong type.
    """
    label = Path(name).name.removesuffix(".toml")
    steps: list[tuple[str, Step]] = []
    for section, limits in read_set(name).items():
        check = CHECKS.get(section)
        if check is None or not isinstance(limits, dict):
            raise SettingError(
                f"The rule set {name} has an unknown section {section!r}. {did_you_mean(section, *CHECKS)}"
            )
        steps.append((f"{label}.{section}", _check(check, label, name, limits)))
    return steps


def _check(check: type[quality.Check], label: str, name: str, limits: dict[str, Any]) -> Step:
    known = {field.name: field for field in dataclasses.fields(check) if field.name != "set_name"}
    values: dict[str, Any] = {}
    for key, value in limits.items():
        if key not in known:
            raise SettingError(f"The rule set {name} has an unknown rule {key!r}. {did_you_mean(key, *known)}")
        listed = "tuple" in str(known[key].type)
        fits = (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
            if listed
            else isinstance(value, bool) is (known[key].type is bool) and isinstance(value, int | float)
        )
        if not fits:
            wanted = "a list of texts" if listed else "true or false" if known[key].type is bool else "a number"
            raise SettingError(f"The rule {key} of the set {name} must be {wanted}: got {value!r}.")
        values[key] = tuple(value) if isinstance(value, list) else value
    return check(set_name=label, **values)
