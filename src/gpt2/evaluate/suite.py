"""The benchmarks there are, by name."""

import difflib

from gpt2.errors import DataError
from gpt2.evaluate import lambada, natural_questions, ptb, wikitext2, wsc273
from gpt2.evaluate.benchmark import Benchmark

SUITE: tuple[Benchmark, ...] = (
    lambada.BENCHMARK,
    wikitext2.BENCHMARK,
    ptb.BENCHMARK,
    wsc273.BENCHMARK,
    natural_questions.BENCHMARK,
)
NAMES = tuple(benchmark.name for benchmark in SUITE)


def find(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        DataError: there is none; the message has the nearest name.
    """
    for benchmark in SUITE:
        if benchmark.name == name:
            return benchmark
    near = difflib.get_close_matches(name.lower().replace("-", ""), NAMES, n=1)
    advice = f"Did you mean {near[0]}? " if near else ""
    raise DataError(f"There is no benchmark {name!r}. {advice}There are: {', '.join(NAMES)}.")
