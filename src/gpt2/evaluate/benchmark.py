"""What a benchmark is: its files, the choices its protocol leaves open, and pure functions to a score.

files -> plan(texts, setting) -> requests -> the model -> plan.measure(results) -> figures
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpt2.errors import DataError
from gpt2.generation.targets import Target, TargetScore
from gpt2.tasks import Asked, Room


@dataclass(frozen=True, kw_only=True, slots=True)
class Continued:
    """A continuation that the model wrote.

    Attributes:
        text: up to what stopped it.
        logprob: of all its tokens, including the one that stopped it.
    """

    text: str
    logprob: float


Request = Target | Asked  # score these tokens; continue this prompt
Answer = TargetScore | Continued
Figures = dict[str, float]
COUNTS = ("words", "tokens", "bytes")  # figures that measure the text, not the model


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of a benchmark, as published.

    Attributes:
        path: below the data folder.
        sha256: of its bytes; empty if we had no copy: then any file is accepted and its hash reported.
        origin: what it is, and its licence.
        url: where `gpt2 download-data` gets the file, or a .zip that holds it; empty if this package may not.
        member: the file to read, in an archive (.zip, .tar.gz, .tgz).
        tail_bytes: read only so many bytes at its end.
        when: a choice and the values of it for which the file is read; empty: always.
    """

    path: str
    sha256: str
    origin: str
    url: str = ""
    member: str = ""
    tail_bytes: int | None = None
    when: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Something the paper leaves open.

    Attributes:
        values: its possible values; the first is the default.
        help: what it decides.
    """

    values: tuple[str, ...]
    help: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The model and options that a plan is made for.

    Attributes:
        encode: text to ids.
        decode: ids to text.
        eot: the end-of-text token, which precedes a text that has nothing before it.
        n_positions: the context, in tokens.
        stride: tokens by which the window moves in a text longer than the context.
        limit: at most this many examples.
        choices: a value for each of the benchmark's choices.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    eot: int
    n_positions: int
    stride: int
    limit: int | None
    choices: Mapping[str, str]

    @property
    def room(self) -> Room:
        """The longest allowed prompt of a task."""
        return Room(n_positions=self.n_positions, count=lambda text: len(self.encode(text)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One judged example, for people.

    Attributes:
        given: the end of the model's input.
        expected: the right answer.
        answered: the model's answer, or its favourite.
        score: 1 for right, 0 for wrong, or between.
        confidence: the probability that the model gave its answer, where it can be told.
        then: what follows the answer, where the answer is chosen by how likely it makes that.
    """

    given: str
    expected: str
    answered: str
    score: float
    confidence: float | None = None
    then: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to ask the model, and how to measure its answers.

    Attributes:
        requests: of one kind and independent, so the runner may choose the order.
        measure: figures from the answers, in the order of the requests.
        n_examples: taken from the files.
        judge: the judged examples from the answers, if examples can be right or wrong.
        scored: the figure that is the mean of the examples' scores, if there is one.
        errors: standard errors of figures that are neither shares of right examples nor means of their scores.
        notes: to report with the figures.
    """

    requests: Sequence[Target] | Sequence[Asked]
    measure: Callable[[Sequence[Any]], Figures]
    n_examples: int
    judge: Callable[[Sequence[Any]], Sequence[Judged]] | None = None
    scored: str = ""
    errors: Callable[[Sequence[Any]], Figures] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A published measurement of the published weights.

    Attributes:
        size: "124M", "355M", "774M" or "1.5B".
        figure: which, in words if it is none of ours.
        value: measured.
        setting: how it was measured, as far as known.
        source: where it was published.
    """

    size: str
    figure: str
    value: float
    setting: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark of the paper.

    Attributes:
        name: on the command line.
        title: in tables.
        protocol: the paper's words, with their section.
        files: that it reads.
        choices: what the protocol leaves open, by name.
        plan: makes a plan from the text of each file, in order.
        paper: figure -> the paper's values for 124M, 355M, 774M and 1.5B, where printed.
        better: whether "higher" or "lower" is better.
        made_up: files in `examples/` of the same form, in the order of `files`, that need no licence.
        headline: the figure for the comparison over model sizes.
        known: others' measurements of the published weights, with their settings.
    """

    name: str
    title: str
    protocol: str
    files: tuple[DataFile, ...]
    choices: Mapping[str, Choice]
    plan: Callable[[Sequence[str], Setting], Plan]
    paper: Mapping[str, tuple[float | None, ...]]
    made_up: tuple[str, ...]
    headline: str
    better: Literal["higher", "lower"]
    known: tuple[Known, ...] = ()

    def files_for(self, chosen: Mapping[str, str]) -> tuple[DataFile, ...]:
        """The files that are read with these choices."""
        return tuple(file for file in self.files if not file.when or chosen.get(file.when[0]) in file.when[1:])

    def defaults(self) -> dict[str, str]:
        """Every choice's first value."""
        return {name: choice.values[0] for name, choice in self.choices.items()}

    def chosen(self, asked: Mapping[str, str]) -> dict[str, str]:
        """Every choice: as asked for, else its first value.

        Raises:
            DataError: there is no such choice, or no such value.
        """
        for name, value in asked.items():
            if name not in self.choices:
                known = ", ".join(self.choices) or "none"
                raise DataError(f"{self.name} has no choice {name!r}. Its choices: {known}.")
            if value not in self.choices[name].values:
                allowed = ", ".join(self.choices[name].values)
                raise DataError(f"{self.name}.{name} cannot be {value!r}. It can be: {allowed}.")
        return {**self.defaults(), **asked}
