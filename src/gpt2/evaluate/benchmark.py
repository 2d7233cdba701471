"""What a benchmark is: its files, the choices its protocol leaves open, and pure functions to a score.

files -> plan(texts, setting) -> requests -> the model -> plan.measure(results) -> figures
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2.generation.targets import Target, TargetScore
from gpt2.tasks import Asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """What the model wrote when it was asked.

    Attributes:
        text: up to what stopped it.
        logprob: of all its tokens, the one that stopped it included.
    """

    text: str
    logprob: float


Request = Target | Asked  # score these tokens; continue this prompt
Answer = TargetScore | Continued
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of a benchmark.

    Attributes:
        path: below the data folder.
        sha256: of its bytes.
        origin: how to get it, and its licence.
    """

    path: str
    sha256: str
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Something the paper leaves open.

    Attributes:
        values: that may be chosen; the first is the default.
        help: what is chosen.
    """

    values: tuple[str, ...]
    help: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a plan is made for.

    Attributes:
        encode: text to ids.
        eot: the end-of-text token, which stands before a text that has nothing before it.
        n_positions: the context, in tokens.
        stride: by how many tokens the window moves on in a text beyond the context.
        limit: at most this many examples.
        choices: a value for each of the benchmark's choices.
    """

    encode: Callable[[str], list[int]]
    eot: int
    n_positions: int
    stride: int
    limit: int | None
    choices: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to ask the model, and what to make of its answers.

    Attributes:
        requests: of one kind, in any order the runner likes; each stands for itself.
        measure: figures from the answers, in the order of the requests.
        n_examples: that were taken from the files.
        notes: what is to be said beside the figures.
    """

    requests: Sequence[Target] | Sequence[Asked]
    measure: Callable[[Sequence[Any]], Figures]
    n_examples: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark of the paper.

    Attributes:
        name: on the command line.
        title: in tables.
        protocol: the paper's words, with their section.
        files: that it reads.
        choices: by name, what the protocol leaves open.
        plan: from the text of each file, in order, to requests.
        paper: figure -> what the paper reports for 124M, 355M, 774M and 1.5B, where it prints it.
    """

    name: str
    title: str
    protocol: str
    files: tuple[DataFile, ...]
    choices: Mapping[str, Choice]
    plan: Callable[[Sequence[str], Setting], Plan]
    paper: Mapping[str, tuple[float | None, ...]]
