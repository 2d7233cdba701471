"""The configuration and sources of `gpt2 corpus build`: from the file, overridden by options."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gpt2.cli.options import wrong_usage
from gpt2.errors import DataError

if TYPE_CHECKING:
    from gpt2.data.corpus import CorpusConfig, SourceSpec


def settled(
    sources: tuple[str, ...],
    *,
    config: Path | None,
    kind: str,
    licence: str,
    languages: tuple[str, ...],
    rules: tuple[str, ...],
    no_rules: bool,
    min_characters: int | None,
    mask: Literal["web", "all", "none"] | None,
    drop_wikipedia: bool | None,
    near: bool | None,
    decontaminate: tuple[str, ...],
    seed: int | None,
    **fetching: Any,
) -> tuple["CorpusConfig", list["SourceSpec"]]:
    """The configuration and the sources; options that were given override the file.

    Raises:
        SettingError: a file or value cannot be used.
        click.UsageError: a source is of unknown kind, or a language cannot be identified.
    """
    from gpt2.data.corpus import CorpusConfig, MinHash, SourceSpec, read_config
    from gpt2.data.corpus.language import language_gate

    chosen, specs = read_config(config) if config else (CorpusConfig(), [])
    given = {
        "languages": languages or None,
        "rules": () if no_rules else rules or None,
        "text_rules": () if no_rules else rules or None,
        "min_characters": min_characters,
        "mask": mask,
        "drop_wikipedia": drop_wikipedia,
        "decontaminate": decontaminate or None,
        "seed": seed,
    }
    chosen = dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})
    if near is not None:
        chosen = dataclasses.replace(chosen, near_duplicates=(chosen.near_duplicates or MinHash()) if near else None)
    fetch = {name: value for name, value in fetching.items() if value is not None}
    chosen = dataclasses.replace(chosen, fetch=dataclasses.replace(chosen.fetch, **fetch))
    with wrong_usage(DataError):
        specs += [SourceSpec(path=path, kind=kind, licence=licence) for path in sources]
        language_gate(chosen.languages, chosen.language_confidence)
    return chosen, specs


def share(part: str | None) -> tuple[int, int] | None:
    """`3/8` as numbers.

    Raises:
        click.BadParameter: it does not look like that.
    """
    if part is None:
        return None
    first, slash, second = part.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise click.BadParameter(f"{part!r} does not look like 3/8", param_hint="--part")
    return int(first), int(second)
