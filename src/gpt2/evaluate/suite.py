"""All benchmarks by name, in the order of the paper's table."""

import difflib

from gpt2.errors import DataError
from gpt2.evaluate import (
    cbt,
    cnn_dailymail,
    coqa,
    enwik8,
    hellaswag,
    lambada,
    natural_questions,
    one_billion_word,
    ptb,
    wikitext,
    wmt14,
    wsc273,
)
from gpt2.evaluate.benchmark import Benchmark

PAPER: tuple[Benchmark, ...] = (
    lambada.BENCHMARK,
    cbt.COMMON_NOUNS,
    cbt.NAMED_ENTITIES,
    wikitext.WIKITEXT2,
    ptb.BENCHMARK,
    enwik8.ENWIK8,
    enwik8.TEXT8,
    wikitext.WIKITEXT103,
    one_billion_word.BENCHMARK,
    wsc273.BENCHMARK,
    coqa.BENCHMARK,
    cnn_dailymail.BENCHMARK,
    wmt14.EN_FR,
    wmt14.FR_EN,
    natural_questions.BENCHMARK,
)
SUITE = (*PAPER, hellaswag.BENCHMARK)
SUITES = {"paper": PAPER, "all": SUITE}
NAMES = tuple(benchmark.name for benchmark in SUITE)


def find(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        DataError: there is none; the message has the nearest name, or of a file what there is for texts of one's own.
    """
    for benchmark in SUITE:
        if benchmark.name == name:
            return benchmark
    if any(mark in name for mark in "./\\"):
        raise DataError(
            f"There is no benchmark {name!r}. A benchmark has a name, and data of its own (--data). A file of your own "
            f"is scored by `gpt2 score --file FILE --totals`, and texts one by one in Python, by "
            f"gpt2.load().score(text). There are: {', '.join(NAMES)}."
        )
    near = difflib.get_close_matches(name.lower().replace("-", ""), NAMES, n=1, cutoff=0.5)
    advice = f"Did you mean {near[0]}? " if near else ""
    raise DataError(f"There is no benchmark {name!r}. {advice}There are: {', '.join(NAMES)}.")
