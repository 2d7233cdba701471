"""Running benchmarks on a model, and everything that must be known to compare the figures."""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.errors import DataError
from gpt2.evaluate.benchmark import Answer, Benchmark, Continued, Plan, Request, Setting
from gpt2.evaluate.cache import Answers
from gpt2.evaluate.files_of_data import read_files
from gpt2.files import sha256_file
from gpt2.generation import Sampling
from gpt2.generation.targets import Target, score_targets
from gpt2.language_model import LanguageModel
from gpt2.tasks import Asked

Progress = Callable[[str, int, int], None]  # benchmark, requests answered, of how many

_STEP_TOKENS = 512  # of short requests together: enough to keep the matrix products busy
_PROMPTS_AT_ONCE = 32


def evaluate(
    model: LanguageModel,
    benchmarks: Sequence[Benchmark],
    data: Path,
    *,
    version: str,
    stride: int | None = None,
    limit: int | None = None,
    choices: Mapping[str, Mapping[str, str]] | None = None,
    cache: Path | None = None,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Figures of each benchmark, with what they were measured with, as JSON holds it.

    Args:
        model: evaluated on its backend as it was opened; fp32 is the form to compare by.
        benchmarks: in the order to run.
        data: the folder of their files. All are checked before the first is run.
        version: of this package.
        stride: of windows over texts beyond the context; half the context by default.
        limit: at most so many examples of each.
        choices: by benchmark and choice, where not the default.
        cache: the folder that keeps answers; None keeps none.
        progress: called after each step.

    Raises:
        DataError: a file is missing or not the one meant, a choice is not known, or the vocabulary has no
            end-of-text token.
    """
    eot = model.tokenizer.eot
    if eot is None:
        raise DataError("The model cannot be evaluated: its vocabulary has no end-of-text token to begin a text with.")
    n_positions = model.config.n_positions
    stride = max(1, n_positions // 2) if stride is None else stride
    if not 1 <= stride <= n_positions:
        raise DataError(f"stride must lie between 1 and the context of {n_positions:,} tokens: got {stride}.")
    plans: list[tuple[Benchmark, Mapping[str, str], Plan]] = []
    texts = {benchmark.name: read_files(data, benchmark.files) for benchmark in benchmarks}
    for benchmark in benchmarks:
        chosen = _chosen(benchmark, (choices or {}).get(benchmark.name, {}))
        setting = Setting(
            encode=model.tokenizer.encode, eot=eot, n_positions=n_positions, stride=stride, limit=limit, choices=chosen
        )
        plans.append((benchmark, chosen, benchmark.plan(texts[benchmark.name], setting)))
    model_hash = hash_of_model(model.checkpoint.path)
    name = f"{model_hash[:16]}-{model.backend.weights}-{model.backend.name}-{version}.jsonl"
    answers = Answers(None if cache is None else cache / name)
    try:
        results = {
            benchmark.name: _run(model, benchmark, chosen, plan, answers, progress) for benchmark, chosen, plan in plans
        }
    finally:
        answers.close()
    return {
        "model": {
            "name": model.name,
            "sha256": model_hash,
            "weights": model.backend.weights,
            "backend": model.backend.name,
            "n_layer": model.config.n_layer,
            "n_embd": model.config.n_embd,
            "n_positions": n_positions,
        },
        "settings": {"stride": stride, "limit": limit},
        "versions": {"gpt2": version, "python": platform.python_version(), "numpy": np.__version__},
        "benchmarks": results,
    }


def hash_of_model(path: Path) -> str:
    """One SHA-256 for a model: of its file, or of the names and hashes of its folder's files but the card."""
    if path.is_file():
        return sha256_file(path)
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix in (".safetensors", ".json", ".txt", ".bpe", ".bin"):
            whole.update(f"{file.name} {sha256_file(file)}\n".encode())
    return whole.hexdigest()


def _chosen(benchmark: Benchmark, asked: Mapping[str, str]) -> dict[str, str]:
    for name, value in asked.items():
        if name not in benchmark.choices:
            known = ", ".join(benchmark.choices) or "none"
            raise DataError(f"{benchmark.name} has no choice {name!r}. Its choices: {known}.")
        if value not in benchmark.choices[name].values:
            allowed = ", ".join(benchmark.choices[name].values)
            raise DataError(f"{benchmark.name}.{name} cannot be {value!r}. It can be: {allowed}.")
    return {name: asked.get(name, choice.values[0]) for name, choice in benchmark.choices.items()}


def _run(
    model: LanguageModel,
    benchmark: Benchmark,
    chosen: Mapping[str, str],
    plan: Plan,
    answers: Answers,
    progress: Progress,
) -> dict[str, Any]:
    found = [answers.get(request) for request in plan.requests]
    missing = [i for i, answer in enumerate(found) if answer is None]
    begin, n_tokens, done = time.perf_counter(), 0, len(found) - len(missing)
    for group in _groups(plan.requests, missing):
        requests = [plan.requests[i] for i in group]
        computed, n = answers_of(model, requests)
        for i, request, answer in zip(group, requests, computed, strict=True):
            found[i] = answer
            answers.put(request, answer)
        n_tokens += n
        done += len(group)
        progress(benchmark.name, done, len(found))
    seconds = time.perf_counter() - begin
    return {
        "figures": plan.measure(found),
        "paper": dict(benchmark.paper),
        "examples": plan.n_examples,
        "requests": len(found),
        "from_cache": len(found) - len(missing),
        "tokens_computed": n_tokens,
        "seconds": seconds,
        "choices": dict(chosen),
        "protocol": benchmark.protocol,
        "notes": plan.notes,
        "files": {file.path: file.sha256 for file in benchmark.files},
    }


def answers_of(model: LanguageModel, requests: Sequence[Request]) -> tuple[Sequence[Answer], int]:
    """The answers, and how many tokens were computed for them."""
    targets = [request for request in requests if isinstance(request, Target)]
    if targets:
        return score_targets(model.backend, targets), sum(map(_size, targets))
    prompts = [request for request in requests if isinstance(request, Asked)]
    sampling = replace(prompts[0].sampling, logprobs=0, seed=0)
    continued: list[Continued] = []
    n_tokens = 0
    for completion in model.generate([asked.prompt for asked in prompts], sampling):
        logprobs = [each.logprob or 0.0 for each in completion.samples[0].logprobs or ()]
        continued.append(Continued(text=completion.text, logprob=math.fsum(logprobs)))
        n_tokens += len(model.tokenizer.encode(str(completion.prompt))) + len(logprobs)
    return continued, n_tokens


def _groups(requests: Sequence[Request], wanted: Sequence[int]) -> Iterator[list[int]]:
    """Requests that are computed together: neighbours, up to `_STEP_TOKENS` tokens, or prompts of the same settings."""
    group: list[int] = []
    n_tokens = 0
    for i in wanted:
        size = _size(requests[i])
        alike = not group or _settings(requests[group[0]]) == _settings(requests[i])
        if group and (n_tokens + size > _STEP_TOKENS or not alike):
            yield group
            group, n_tokens = [], 0
        group.append(i)
        n_tokens += size
    if group:
        yield group


def _size(request: Request) -> int:
    if isinstance(request, Target):
        return len(request.context) + len(request.targets) - 1
    return _STEP_TOKENS // _PROMPTS_AT_ONCE


def _settings(request: Request) -> Sampling | None:
    return None if isinstance(request, Target) else request.sampling
