"""The paper's zero-shot suite: one file per benchmark, with pure functions from examples to requests to a score."""

from gpt2.evaluate.benchmark import Benchmark, Choice, Continued, DataFile, Judged, Known, Plan, Setting
from gpt2.evaluate.comparison import compare
from gpt2.evaluate.page import page
from gpt2.evaluate.runner import evaluate
from gpt2.evaluate.suite import NAMES, SUITE, SUITES, find

__all__ = [
    "NAMES",
    "SUITE",
    "SUITES",
    "Benchmark",
    "Choice",
    "Continued",
    "DataFile",
    "Judged",
    "Known",
    "Plan",
    "Setting",
    "compare",
    "evaluate",
    "find",
    "page",
]
