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
COUNTS = ("words", "tokens", "bytes")  # figures that measure the text, not the model


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of a benchmark, as it is handed out.

    Attributes:
        path: below the data folder.
        sha256: of its bytes; empty where no copy was at hand to take it from, and then any file is taken and its
            hash reported.
        origin: what it is, and its licence.
        url: where `gpt2 download-data` gets it: the file, or a .zip that holds it; empty where this package may not.
        member: what is read of it, where it is an archive (.zip, .tar.gz, .tgz).
        tail_bytes: only so many bytes at its end are read.
        when: a choice and those of its values with which the file is read; empty for always.
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
        decode: ids to text.
        eot: the end-of-text token, which stands before a text that has nothing before it.
        n_positions: the context, in tokens.
        stride: by how many tokens the window moves on in a text beyond the context.
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
        """How long the prompt of a task may be."""
        return Room(n_positions=self.n_positions, count=lambda text: len(self.encode(text)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One example, as people look at it.

    Attributes:
        given: the end of what the model was given.
        expected: the right answer.
        answered: the model's, or its favourite.
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
    """What to ask the model, and what to make of its answers.

    Attributes:
        requests: of one kind, in any order the runner likes; each stands for itself.
        measure: figures from the answers, in the order of the requests.
        n_examples: that were taken from the files.
        judge: what was made of each example, from the answers, where examples are right or wrong.
        scored: the figure that is the mean of the examples' scores, where one is.
        errors: standard errors of figures that are no shares of right examples and no means of their scores.
        notes: what is to be said beside the figures.
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
    """What somebody else measured with the published weights.

    Attributes:
        size: "124M", "355M", "774M" or "1.5B".
        figure: what it is, in words where it is none of ours.
        value: measured.
        setting: how, as far as it is known.
        source: where it is written.
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
        choices: by name, what the protocol leaves open.
        plan: from the text of each file, in order, to requests.
        paper: figure -> what the paper reports for 124M, 355M, 774M and 1.5B, where it prints it.
        better: whether "higher" or "lower" is better.
        made_up: files in `examples/` of the same form, in the order of `files`, that need no licence.
        headline: the figure that the comparison over model sizes shows.
        known: what others measured of the published weights, by their settings.
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
        """Those that are read with these choices."""
        return tuple(file for file in self.files if not file.when or chosen.get(file.when[0]) in file.when[1:])

    def defaults(self) -> dict[str, str]:
        """Every choice's first value."""
        return {name: choice.values[0] for name, choice in self.choices.items()}

    def chosen(self, asked: Mapping[str, str]) -> dict[str, str]:
        """Every choice: as it was asked for, else its first value.

        Raises:
            DataError: there is no such choice, or it cannot be so.
        """
        for name, value in asked.items():
            if name not in self.choices:
                known = ", ".join(self.choices) or "none"
                raise DataError(f"{self.name} has no choice {name!r}. Its choices: {known}.")
            if value not in self.choices[name].values:
                allowed = ", ".join(self.choices[name].values)
                raise DataError(f"{self.name}.{name} cannot be {value!r}. It can be: {allowed}.")
        return {**self.defaults(), **asked}
