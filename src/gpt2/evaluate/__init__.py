"""The paper's zero-shot suite: one file a benchmark, each pure functions from examples to requests to a score."""

from gpt2.evaluate.benchmark import Benchmark, Choice, Continued, DataFile, Plan, Setting
from gpt2.evaluate.runner import evaluate
from gpt2.evaluate.suite import NAMES, SUITE, find

__all__ = ["NAMES", "SUITE", "Benchmark", "Choice", "Continued", "DataFile", "Plan", "Setting", "evaluate", "find"]
