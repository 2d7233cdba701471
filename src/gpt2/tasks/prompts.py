"""The prompts as data: from this package's `prompts.toml`, or a user's file of the same form."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2.errors import DataError, GenerationError

_OURS = Path(__file__).with_name("prompts.toml")  # importlib.resources would cost 30 ms at each start


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslatePrompts:
    """Attributes:
    form: of one example, with {source} and {target}.
    examples: the same sentence by language.
    max_tokens: the most to generate.
    """

    form: str
    examples: tuple[Mapping[str, str], ...]
    max_tokens: int

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that every example has."""
        shared = set[str].intersection(*(set(example) for example in self.examples)) if self.examples else set[str]()
        return tuple(sorted(shared))


@dataclass(frozen=True, kw_only=True, slots=True)
class SummarizePrompts:
    """Attributes:
    form: with {text} and {hint}.
    hint: asks for a summary; empty for the paper's comparison without one.
    max_tokens: generated.
    top_k: tokens to sample from.
    sentences: kept from the generated text.
    """

    form: str
    hint: str
    max_tokens: int
    top_k: int
    sentences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPrompts:
    """Attributes:
    question: marks a question.
    answer: marks an answer, and ends the prompt.
    examples: question and answer, for questions without a passage.
    max_tokens: the most to generate.
    """

    question: str
    answer: str
    examples: tuple[tuple[str, str], ...]
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The prompts of all tasks."""

    translate: TranslatePrompts
    summarize: SummarizePrompts
    answer: AnswerPrompts

    @classmethod
    def ours(cls) -> "Prompts":
        """This package's prompts."""
        return _parsed(_OURS.read_text(encoding="utf-8"), _OURS.name)

    @classmethod
    def given(cls, prompts: object) -> "Prompts":
        """The caller's prompts, or this package's.

        Raises:
            GenerationError: `prompts` is something else.
        """
        if not isinstance(prompts, Prompts | None):
            raise GenerationError(f"Prompts are what gpt2.tasks.Prompts.read makes of a file: got {prompts!r:.60}.")
        return prompts or cls.ours()

    @classmethod
    def read(cls, path: Path) -> "Prompts":
        """Prompts from a file; this package's for those that it omits.

        Raises:
            DataError: it is not TOML, or a value does not have the form of `prompts.toml`; the message says which.
            OSError: it cannot be read.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} cannot be read as UTF-8: {error}.") from None
        return _parsed(text, str(path), under=cls.ours())


def _parsed(text: str, source: str, under: Prompts | None = None) -> Prompts:
    import tomllib  # only for tasks; every command with a model imports this module

    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is not TOML: {error}.") from None
    kinds = {"translate": TranslatePrompts, "summarize": SummarizePrompts, "answer": AnswerPrompts}
    _refuse_unknown(tables, kinds, source)
    made: dict[str, Any] = {}
    for name, kind in kinds.items():
        place, table = f"{source}, [{name}]", tables.get(name, {})
        if not isinstance(table, dict):
            raise DataError(f"{source}: {name} must be a table: got {table!r}.")
        _refuse_unknown(table, kind.__dataclass_fields__, place)
        values = {field: _checked(field, value, place) for field, value in table.items()}
        if name == "answer" and "examples" in values:
            values["examples"] = tuple(_pair(each, place) for each in values["examples"])
        made[name] = kind(**values) if under is None else replace(getattr(under, name), **values)
    for name, marks in (("translate", ("{source}", "{target}")), ("summarize", ("{text}",))):
        for mark in marks:
            if mark not in made[name].form:
                raise DataError(f"{source}, [{name}]: form must hold {mark}: got {made[name].form!r}.")
    return Prompts(**made)


def _refuse_unknown(values: Mapping[str, Any], known: Mapping[str, Any], source: str) -> None:
    for name in values:
        if name not in known:
            raise DataError(f"{source} has {name!r}, which means nothing here. Known: {', '.join(known)}.")


def _checked(field: str, value: Any, source: str) -> Any:
    if field in ("max_tokens", "top_k", "sentences"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f"{source}: {field} must be a whole number from 1 on: got {value!r}.")
        return value
    if field != "examples":
        if not isinstance(value, str):
            raise DataError(f"{source}: {field} must be a text: got {value!r}.")
        return value
    examples: list[Any] = value if isinstance(value, list) else [value]
    for example in examples:
        if not isinstance(example, dict) or not all(isinstance(text, str) for text in example.values()):
            raise DataError(f"{source}: each of the examples must be a table of texts: got {example!r}.")
    return tuple(examples)


def _pair(example: Mapping[str, str], source: str) -> tuple[str, str]:
    if set(example) != {"question", "answer"}:
        raise DataError(f"{source}: each of the examples must have a question and an answer: got {dict(example)!r}.")
    return example["question"], example["answer"]
