"""Every sampling setting, with its range and one line of help.

The ranges in the metadata are the only ones: they are checked here, and the command line, the HTTP schema
and the documentation are built from them.
"""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from gpt2.config import truth_of
from gpt2.errors import GenerationError

Overflow = Literal["slide", "refuse"]

MAX_SAMPLES = 1024
MAX_SEED = (1 << 64) - 1
MAX_BIAS = 100.0  # OpenAI's range: 100 all but forces a token, -100 all but bans it


def _setting(help: str, **limits: float) -> dict[str, Any]:
    """Metadata of a setting: `help`, and of `least`, `above` (exclusive) and `most` those that hold."""
    return {"help": help, **limits}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a text is continued. The defaults sample from the model's own distribution.

    The filters' order and definitions are those of `generation.filters`.

    Raises:
        GenerationError: a value outside its range, or two that exclude each other; the message names both.
    """

    max_tokens: int = field(default=128, metadata=_setting("generate at most this many tokens", least=0))
    min_tokens: int = field(default=0, metadata=_setting("do not stop before this many tokens", least=0))
    temperature: float = field(default=1.0, metadata=_setting("divide the logits by this; 0 is greedy", least=0))
    top_k: int = field(default=0, metadata=_setting("keep the k most likely tokens; 0 keeps all", least=0))
    top_p: float = field(
        default=1.0,
        metadata=_setting("keep the fewest top tokens whose probabilities sum to at least this", above=0, most=1),
    )
    min_p: float = field(
        default=0.0, metadata=_setting("keep tokens at least this fraction as likely as the likeliest", least=0, most=1)
    )
    typical_p: float = field(
        default=1.0,
        metadata=_setting(
            "keep the fewest tokens nearest the entropy whose probabilities sum to at least this", above=0, most=1
        ),
    )
    repetition_penalty: float = field(
        default=1.0,
        metadata=_setting("scale down tokens already in the prompt or continuation; 1 is off", least=0.01, most=100),
    )
    presence_penalty: float = field(
        default=0.0, metadata=_setting("subtract this from the logits of tokens already generated", least=-2, most=2)
    )
    frequency_penalty: float = field(
        default=0.0, metadata=_setting("subtract this for each time a token was already generated", least=-2, most=2)
    )
    no_repeat_ngram: int = field(
        default=0, metadata=_setting("never repeat a sequence of this many tokens; 0 is off", least=0)
    )
    logit_bias: Mapping[int, float] = field(
        default_factory=dict[int, float],
        hash=False,
        metadata=_setting("add this to the logit of a token id, -100 to 100"),
    )
    stop: tuple[str, ...] = field(default=(), metadata=_setting("stop before this text; it is not returned"))
    stop_ids: tuple[int, ...] = field(default=(), metadata=_setting("stop at this token id; its text is not returned"))
    ignore_eot: bool = field(default=False, metadata=_setting("continue after the end-of-text token"))
    n: int = field(default=1, metadata=_setting("number of continuations", least=1, most=MAX_SAMPLES))
    best_of: int | None = field(
        default=None,
        metadata=_setting(
            "generate this many and return the n with the highest mean log-probability per token",
            least=1,
            most=MAX_SAMPLES,
        ),
    )
    logprobs: int | None = field(
        default=None,
        metadata=_setting("report the log-probability of each generated token and of this many top tokens", least=0),
    )
    prompt_logprobs: int | None = field(
        default=None,
        metadata=_setting("report the log-probability of each prompt token and of this many top tokens", least=0),
    )
    seed: int | None = field(
        default=None, metadata=_setting("the same seed gives the same text; random by default", least=0, most=MAX_SEED)
    )
    overflow: Overflow = field(
        default="slide",
        metadata=_setting("when the context is full, slide keeps its last half and continues; refuse stops"),
    )
    truncate_prompt: bool = field(
        default=False, metadata=_setting("keep only the end of a prompt longer than the context")
    )

    if TYPE_CHECKING:  # type checkers accept what is accepted: one stop by itself, and lists

        def __init__(self, **settings: Unpack["Settings"]) -> None: ...

    def __post_init__(self) -> None:
        # One stop given bare is the likeliest slip, and a string would pass as a sequence of characters.
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else _several("stop", self.stop))
        object.__setattr__(self, "stop_ids", _several("stop_ids", self.stop_ids))
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.type in (int, float) or (setting.type == int | None and value is not None):
                value = checked_number(setting.name, value, whole=setting.type is not float, limits=setting.metadata)
                object.__setattr__(self, setting.name, value)
            elif setting.type is bool:
                object.__setattr__(self, setting.name, truth_of(setting.name, value, GenerationError))
        self._check_stops()
        self._check_bias()
        if not isinstance(self.overflow, str) or self.overflow not in ("slide", "refuse"):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GenerationError(f"overflow must be 'slide' or 'refuse': got {self.overflow!r}.")
        if self.min_tokens > self.max_tokens:
            raise GenerationError(
                f"min_tokens may not exceed max_tokens: got min_tokens={self.min_tokens}, max_tokens={self.max_tokens}."
            )
        if self.best_of is not None and self.best_of < self.n:
            raise GenerationError(
                f"best_of must be at least n, which are chosen from it: got best_of={self.best_of}, n={self.n}."
            )

    def changed(self, **settings: Any) -> Self:
        """The same with some settings changed, by name, and with a seed, drawn where nobody gave one.

        Raises:
            TypeError: there is no such setting.
            GenerationError: a value is out of range.
        """
        for name in settings.keys() - self.__dataclass_fields__.keys():
            from difflib import get_close_matches

            near = get_close_matches(name, self.__dataclass_fields__, n=1)
            advice = f"Did you mean {near[0]}?" if near else "help(gpt2.Sampling) lists them."
            raise TypeError(f"There is no setting {name!r}. {advice}")
        changed = replace(self, **settings)
        # a seed that nobody gave stays short enough to type
        return changed if changed.seed is not None else replace(changed, seed=secrets.randbits(32))

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    @property
    def candidates(self) -> int:
        """How many continuations are generated. Greedy ones are all the same, so there `best_of` adds none."""
        return self.n if self.best_of is None or self.is_greedy else self.best_of

    def _check_stops(self) -> None:
        for stop in self.stop:
            if not isinstance(stop, str) or not stop:  # pyright: ignore[reportUnnecessaryIsInstance] -- users' values
                raise GenerationError(f"stop must be strings of at least one character: got {stop!r}.")
        for token in self.stop_ids:
            checked_number("stop_ids", token, whole=True, limits={"least": 0})

    def _check_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] -- users' values
            raise GenerationError(
                f"logit_bias must say by token id what is added to its logit, as {{50256: -100}}: "
                f"got {self.logit_bias!r:.60}."
            )
        limits = {"least": -MAX_BIAS, "most": MAX_BIAS}
        biases = {
            checked_number("a token id of logit_bias", token, whole=True, limits={"least": 0}): checked_number(
                f"logit_bias of token {token}", bias, whole=False, limits=limits
            )
            for token, bias in self.logit_bias.items()
        }
        object.__setattr__(self, "logit_bias", biases)


# What help(gpt2.Sampling) and a notebook's `gpt2.Sampling?` show; nowhere is a setting described twice.
Sampling.__doc__ = f"{Sampling.__doc__}\n    Attributes:\n" + "".join(
    f"        {setting.name}: {setting.metadata['help']}.\n" for setting in fields(Sampling)
)


class Settings(TypedDict, total=False):
    """The fields of `Sampling` as they are given to a call by name, for type checkers and editors."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram: int
    logit_bias: Mapping[int, float]
    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    ignore_eot: bool
    n: int
    best_of: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    seed: int | None
    overflow: Overflow
    truncate_prompt: bool


def sampling_of(given: object, settings: Mapping[str, Any]) -> Sampling:
    """The settings of one call: what was given as a `Sampling`, what was given by name over it, and a seed.

    Raises:
        TypeError: there is no setting of that name.
        GenerationError: a value is out of range, or `given` is no `Sampling`.
    """
    if not isinstance(given, Sampling | None):
        raise GenerationError(
            f"Settings are given by name, as max_tokens=50, or as a gpt2.Sampling: got {given!r:.60}."
        )
    return (given or Sampling()).changed(**settings)


def check_function(name: str, given: object) -> None:
    """Refuse what cannot be called, before there is anything to tell it.

    Raises:
        GenerationError: it is no function.
    """
    if not callable(given):
        raise GenerationError(f"{name} must be a function, or left out: got {given!r:.60}.")


def _several(name: str, given: object) -> tuple[Any, ...]:
    if not isinstance(given, Iterable):
        raise GenerationError(f"{name} must be a list, or left out: got {given!r:.60}.")
    return tuple(given)


def checked_number(name: str, value: object, *, whole: bool, limits: Mapping[str, Any] | None = None) -> Any:
    """The number that somebody gave for `name`, NumPy's as Python's.

    Raises:
        GenerationError: it is none, or outside `limits`: `least`, `above` (exclusive) and `most`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise GenerationError(f"{name} must be a {'whole ' if whole else ''}number: got {value!r:.60}.")
    number, limits = int(value) if isinstance(value, Integral) else float(value), limits or {}
    if not math.isfinite(number):
        raise GenerationError(f"{name} must be finite: got {number}.")
    if "least" in limits and number < limits["least"]:
        raise GenerationError(f"{name} must be at least {limits['least']:g}: got {number}.")
    if "above" in limits and number <= limits["above"]:
        raise GenerationError(f"{name} must be above {limits['above']:g}: got {number}.")
    if "most" in limits and number > limits["most"]:
        raise GenerationError(f"{name} must be at most {limits['most']}: got {number}.")
    return number
