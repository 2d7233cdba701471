"""What decides a corpus besides its sources: one frozen configuration, from TOML or the command line."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt2.data.corpus.minhash import MinHash
from gpt2.data.corpus.sources import FetchSettings, SourceSpec
from gpt2.errors import DataError, SettingError, did_you_mean
from gpt2.files import parse_toml


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """The configuration of a corpus.

    Attributes:
        languages: ISO 639-1 codes; texts in other languages are dropped. None: all stay.
        language_confidence: from 0 to 1; below it a text in a wanted language is dropped too.
        min_characters: shorter texts are dropped.
        rules: rule sets for documents from the web, by name or path, in order.
        text_rules: rule sets for all other documents.
        mask: whose personal data is masked: "web", "all" or "none".
        drop_wikipedia: drop pages from Wikipedia's addresses, as WebText did.
        block_hosts: drop pages from these hosts and from hosts below them.
        duplicates: drop exact duplicates, by address and by text.
        near_duplicates: how to find near duplicates, to drop them; None keeps them.
        decontaminate: files and folders of test sets; a document that shares an n-gram with them is dropped.
        decontaminate_words: words in that n-gram.
        seed: of the shuffle and of fractional weights.
        shard_bytes: text in an output shard, about.
        fetch: how to fetch addresses; the only setting that is not part of the corpus's identity.

    Raises:
        SettingError: a value is invalid.
    """

    languages: tuple[str, ...] = ()
    language_confidence: float = 0.5
    min_characters: int = 200
    rules: tuple[str, ...] = ("gopher", "c4-lines", "fineweb", "webtext")
    text_rules: tuple[str, ...] = ()
    mask: Literal["web", "all", "none"] = "web"
    drop_wikipedia: bool = False
    block_hosts: tuple[str, ...] = ()
    duplicates: bool = True
    near_duplicates: MinHash | None = field(default_factory=MinHash)
    decontaminate: tuple[str, ...] = ()
    decontaminate_words: int = 13
    seed: int = 1
    shard_bytes: int = 64 << 20
    fetch: FetchSettings = field(default_factory=FetchSettings)

    def __post_init__(self) -> None:
        if self.mask not in ("web", "all", "none"):
            raise SettingError(f"mask must be web, all or none: got {self.mask!r}.")
        if not 0.0 <= self.language_confidence <= 1.0:
            raise SettingError(f"language_confidence must lie between 0 and 1: got {self.language_confidence}.")
        if not 1 <= self.shard_bytes <= 1 << 32:
            raise SettingError(f"shard_bytes must lie between 1 and {1 << 32:,}: got {self.shard_bytes:,}.")
        if self.decontaminate_words < 1:
            raise SettingError(f"decontaminate_words must be at least 1: got {self.decontaminate_words}.")


def read_config(path: Path) -> tuple[CorpusConfig, list[SourceSpec]]:
    """A configuration and its `[[source]]` tables from a TOML file.

    Raises:
        SettingError: not TOML, an unknown key (the nearest is named), or an invalid value.
        OSError: the file cannot be read.
    """
    values = parse_toml(path.read_bytes(), str(path), SettingError)
    tables = values.pop("source", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingError(f"{path}: sources are tables, each begun by [[source]].")
    if "near_duplicates" in values:
        given = values["near_duplicates"]
        values["near_duplicates"] = (
            None if given is False else MinHash() if given is True else make(MinHash, given, f"{path}, near_duplicates")
        )
    if "fetch" in values:
        values["fetch"] = make(FetchSettings, values["fetch"], f"{path}, fetch")
    return make(CorpusConfig, values, str(path)), [make(SourceSpec, table, f"{path}, source") for table in tables]


def make(kind: type[Any], values: Any, where: str) -> Any:
    """A dataclass from a TOML table; lists become tuples.

    Raises:
        SettingError: an unknown key, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise SettingError(f"{where} must be a table: got {values!r}.")
    declared = {each.name: str(each.type) for each in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in declared:
            raise SettingError(f"{where} has an unknown key {key!r}. {did_you_mean(key, *declared)}")
        if not _fits(value, declared[key]):
            raise SettingError(f"{where}: {key} has the wrong type: got {value!r}.")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise SettingError(f"{where} cannot be used: {error}.") from error
    except DataError as error:
        raise SettingError(f"{where}: {error}") from error


def _fits(value: Any, declared: str) -> bool:
    """Whether a TOML value has a field's declared type; nested dataclasses check their own."""
    if "bool" in declared or isinstance(value, bool):
        return "bool" in declared and isinstance(value, bool)
    if "tuple" in declared:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if "'int'" in declared:
        return isinstance(value, int)
    if "float" in declared:
        return isinstance(value, int | float)
    return declared != str(str) or isinstance(value, str)
