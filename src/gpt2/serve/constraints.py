"""Constrained continuations: a JSON schema, a regular expression, a choice, a grammar; allowed tokens, bad words.

llguidance compiles the grammars, within bounds of size, states and work (`trial.py`). Everything fails closed: a
grammar that does not compile is refused before anything is computed, and a continuation with no allowed token ends its
request with an error. The fields have vLLM's or OpenAI's names.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from gpt2.errors import GenerationError
from gpt2.generation import Constraint, Follower
from gpt2.serve.faults import ApiError, bad_request, limit_exceeded
from gpt2.serve.limits import Limits
from gpt2.serve.models import ServedModel
from gpt2.serve.schema import CompletionRequest, ResponseFormat, StructuredOutputs
from gpt2.serve.trial import BOUNDS
from gpt2.serve.vocabulary import Vocabulary

Mask = NDArray[np.bool_]

_MAX_DEPTH = 64
# A base model that may write white space anywhere writes little else, so allow one space after commas and colons only.
# Not lenient: that would ignore unknown keywords, and the answer would break the schema.
_JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}


def constraint_of(asked: CompletionRequest, served: ServedModel, limits: Limits) -> Constraint | None:
    """The constraint that a request puts on its continuations; None if it has none.

    Raises:
        ApiError: 400: the constraint is too large, too deep or invalid, or it conflicts with another field.
    """
    parts: list[Constraint] = []
    grammar = _grammar_of(asked, limits)
    if grammar is not None:
        param, text = grammar
        if served.model.tokenizer.eot is None:
            raise bad_request(f"{param} cannot be used: this model has no end-of-text token to end with.", param)
        if asked.ignore_eos:
            raise bad_request(f"{param} cannot be used with ignore_eos: its text could not end.", param)
        parts.append(_Grammar(served.vocabulary, text, param, limits.grammar_seconds))
    if asked.allowed_token_ids is not None:
        parts.append(_allowed(asked.allowed_token_ids, served))
    if asked.bad_words:
        parts.append(_without(asked.bad_words, served))
    if len(parts) > 1:
        return _All(tuple(parts))
    return parts[0] if parts else None


def _grammar_of(asked: CompletionRequest, limits: Limits) -> tuple[str, str] | None:
    """The field that asks for a grammar, and the grammar in llguidance's form."""
    wanted: list[tuple[str, str, str]] = []  # as the client calls it, kind, source
    if asked.response_format is not None and asked.response_format.type != "text":
        wanted.append(("response_format", *_of_response_format(asked.response_format)))
    if asked.structured_outputs is not None:
        wanted += _of_structured_outputs(asked.structured_outputs)
        if not wanted:
            raise bad_request(
                "structured_outputs must have one of json, regex, choice, json_object and grammar.",
                "structured_outputs",
            )
    if not wanted:
        return None
    if len(wanted) > 1:
        names = " and ".join(name for name, _, _ in wanted)
        raise bad_request(f"One grammar at a time: got {names}.", wanted[1][0].partition(".")[0])
    name, kind, source = wanted[0]
    param = name.partition(".")[0]
    size = len(source.encode("utf-8", "replace"))
    if size > limits.grammar_bytes:
        raise limit_exceeded(
            "The grammar is too large", f"{size:,} bytes", "grammar_bytes", f"{limits.grammar_bytes:,}", param=param
        )
    makers = {
        "json": lambda schema: LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_STYLE),
        "regex": LLMatcher.grammar_from_regex,
        "grammar": LLMatcher.grammar_from_lark,
    }
    try:
        return param, makers[kind](source)
    except ValueError as error:
        raise _not_a_grammar(param, str(error)) from None


def _of_response_format(format: ResponseFormat) -> tuple[str, str]:
    if format.type == "json_object":
        return "json", '{"type":"object"}'
    if format.json_schema is None or format.json_schema.json_schema is None:
        raise bad_request("response_format of type json_schema needs json_schema.schema.", "response_format")
    return "json", _schema_text(format.json_schema.json_schema, "response_format")


def _of_structured_outputs(asked: StructuredOutputs) -> list[tuple[str, str, str]]:
    param = "structured_outputs"
    wanted: list[tuple[str, str, str]] = []
    if asked.json_schema is not None:
        schema: Any = asked.json_schema
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise bad_request(f"structured_outputs.json is not JSON: {error}.", param) from None
        wanted.append(("structured_outputs.json", "json", _schema_text(schema, param)))
    if asked.regex is not None:
        wanted.append(("structured_outputs.regex", "regex", asked.regex))
    if asked.choice is not None:
        if not asked.choice or not all(asked.choice):
            raise bad_request("structured_outputs.choice must hold at least one text, and none that is empty.", param)
        wanted.append(("structured_outputs.choice", "grammar", _choice(asked.choice)))
    if asked.json_object:
        wanted.append(("structured_outputs.json_object", "json", '{"type":"object"}'))
    if asked.grammar is not None:
        wanted.append(("structured_outputs.grammar", "grammar", asked.grammar))
    return wanted


def _choice(texts: Sequence[str]) -> str:
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def _schema_text(schema: object, param: str) -> str:
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise bad_request(f"{param}: a JSON schema is an object.", param)
    depth = _depth(schema)
    if depth > _MAX_DEPTH:
        raise bad_request(f"{param}: the schema is nested {depth} deep, and the limit is {_MAX_DEPTH}.", param)
    return json.dumps(schema)


def _depth(value: object) -> int:
    """How deep lists and objects are nested. Not recursive, since its result is what bounds recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest - 1


def _not_a_grammar(param: str, reason: str) -> ApiError:
    return bad_request(f"{param} cannot be used: {' '.join(reason.split())[:300]}.", param)


class _Grammar:
    """A compiled grammar; each continuation follows a copy.

    Another process tries it first (`Trial`). The constructor takes its first step, the costliest, off the engine's
    thread.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str, param: str, most_seconds: float) -> None:
        self._size = vocabulary.size
        self._most_seconds = most_seconds
        fault = vocabulary.trial.fault(grammar, most_seconds)
        if fault is not None:
            raise _not_a_grammar(param, fault)
        self._matcher = LLMatcher(vocabulary.compiled, grammar, log_level=0, limits=BOUNDS)
        try:
            _GrammarFollower(self._matcher, self._size, most_seconds).allowed()
        except GenerationError as error:
            raise _not_a_grammar(param, str(error)) from None

    def begin(self) -> Follower:
        return _GrammarFollower(self._matcher.deep_copy(), self._size, self._most_seconds)


class _GrammarFollower:
    def __init__(self, matcher: LLMatcher, size: int, most_seconds: float) -> None:
        self._matcher = matcher
        self._size = size
        self._most_seconds = most_seconds

    def allowed(self) -> Mask:
        began = time.monotonic()
        mask = self._matcher.compute_bitmask()
        seconds = time.monotonic() - began
        self._check()
        if seconds > self._most_seconds:
            raise GenerationError(
                f"The grammar is too costly: a step of it took {seconds:.2f} s, and the limit grammar_seconds is "
                f"{self._most_seconds:g}. Simplify it: large counts in {{}} are the usual cause."
            )
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        return bits[: self._size].astype(np.bool_)

    def advance(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationError(
                f"The text cannot be continued: the grammar asks for more than the server's bounds allow, or for what "
                f"cannot be ({' '.join(self._matcher.get_error().split())[:200]}). Simplify it."
            )


@dataclass(frozen=True, slots=True)
class _Fixed:
    """The same tokens at every place."""

    mask: Mask

    def begin(self) -> Follower:
        return self

    def allowed(self) -> Mask:
        return self.mask

    def advance(self, token: int) -> None:
        pass


def _allowed(ids: Sequence[int], served: ServedModel) -> Constraint:
    if not ids:
        raise bad_request("allowed_token_ids must hold at least one id.", "allowed_token_ids")
    served.check_ids(ids, "allowed_token_ids")
    mask = np.zeros(served.model.tokenizer.vocab_size, np.bool_)
    mask[list(ids)] = True
    return _Fixed(mask)


class _Without:
    """Forbids the last token of each sequence wherever the tokens before it have just been written."""

    def __init__(self, sequences: Iterable[Sequence[int]], size: int) -> None:
        self.size = size
        self.last: dict[tuple[int, ...], list[int]] = {}  # forbidden tokens by the tokens before them
        for *before, last in sequences:
            self.last.setdefault(tuple(before), []).append(last)
        self.lengths = sorted(set(map(len, self.last)))  # one look-up per length, however many words

    def begin(self) -> Follower:
        return _WithoutFollower(self)


class _WithoutFollower:
    def __init__(self, rule: _Without) -> None:
        self._rule = rule
        self._recent: tuple[int, ...] = ()

    def allowed(self) -> Mask:
        rule, n_recent = self._rule, len(self._recent)
        mask = np.ones(rule.size, np.bool_)
        for length in rule.lengths:
            if length <= n_recent and (last := rule.last.get(self._recent[n_recent - length :])):
                mask[last] = False
        return mask

    def advance(self, token: int) -> None:
        longest = self._rule.lengths[-1]
        self._recent = (*self._recent, token)[-longest:] if longest else ()


def _without(words: Sequence[str], served: ServedModel) -> Constraint:
    if not all(word.strip() for word in words):
        raise bad_request("bad_words must be texts that are not empty.", "bad_words")
    tokenizer = served.model.tokenizer
    spellings = {spelling for word in words for spelling in (word, " " + word.lstrip())}
    sequences = {tuple(tokenizer.encode(spelling)) for spelling in spellings}
    return _Without(sequences, tokenizer.vocab_size)


@dataclass(frozen=True, slots=True)
class _All:
    """Several constraints at once."""

    parts: tuple[Constraint, ...]

    def begin(self) -> Follower:
        return _AllFollower([part.begin() for part in self.parts])


class _AllFollower:
    def __init__(self, parts: Sequence[Follower]) -> None:
        self._parts = parts

    def allowed(self) -> Mask:
        return np.logical_and.reduce([part.allowed() for part in self._parts])

    def advance(self, token: int) -> None:
        for part in self._parts:
            part.advance(token)
