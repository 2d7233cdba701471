"""Running benchmarks on a model, and everything that must be known to compare the figures."""

import hashlib
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.errors import ContextError, DataError
from gpt2.evaluate import uncertainty
from gpt2.evaluate.benchmark import Answer, Benchmark, Continued, Figures, Judged, Plan, Request, Setting
from gpt2.evaluate.cache import Answers
from gpt2.evaluate.files_of_data import how_to_get, missing_files, read_files, read_made_up
from gpt2.files import sha256_file
from gpt2.generation import Sampling
from gpt2.generation.targets import Target, computed_tokens, score_targets, shared_tokens
from gpt2.language_model import LanguageModel
from gpt2.tasks import Asked

Progress = Callable[[str, int, int], None]  # benchmark, requests answered, of how many

_STEP_TOKENS = 512  # of short requests together: enough to keep the matrix products busy
_PROMPTS_AT_ONCE = 32
_SHOWN = 5  # examples right, and as many wrong
_SHOWN_CHARACTERS = 400


def evaluate(
    model: LanguageModel,
    benchmarks: Sequence[Benchmark],
    data: Path | None,
    *,
    version: str,
    stride: int | None = None,
    limit: int | None = None,
    limits: Mapping[str, int] | None = None,
    choices: Mapping[str, Mapping[str, str]] | None = None,
    cache: Path | None = None,
    skip_missing: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Figures of each benchmark, with what they were measured with, as JSON holds it.

    Args:
        model: evaluated on its backend as it was opened; fp32 is the form to compare by.
        benchmarks: in the order to run.
        data: the folder of their files, all checked before the first is run; None for the made-up examples.
        version: of this package.
        stride: of windows over texts beyond the context; half the context by default.
        limit: at most so many examples of each.
        limits: by benchmark, instead of `limit`.
        choices: by benchmark and choice, where not the default.
        cache: the folder that keeps answers; None keeps none.
        skip_missing: where files of a benchmark are not there, take another of its sets that is, or else say so in
            its place, instead of refusing; the same where the context is too short for one of its examples.
        progress: called after each step.

    Raises:
        ContextError: the model's context is too short for an example.
        DataError: a file is missing or not the one meant, or all are; a choice is not known; or the vocabulary has
            no end-of-text token.
    """
    setting = _setting(model, stride)
    limits, choices = limits or {}, choices or {}
    results: dict[str, Any] = {}
    plans: list[tuple[Benchmark, dict[str, str], dict[str, str], Plan]] = []
    not_here = 0
    for benchmark in benchmarks:
        chosen = _chosen(benchmark, choices.get(benchmark.name, {}))
        if skip_missing and data is not None:
            chosen = _with_files(benchmark, chosen, data)
            missing = missing_files(data, benchmark.files_for(chosen))
            if missing:
                not_here += 1
                results[benchmark.name] = _absent(benchmark, f"{missing[0].path} is not here. {how_to_get(missing[0])}")
                continue
        if data is None:
            texts, hashes = read_made_up(benchmark, chosen)
        else:
            texts, hashes = read_files(data, benchmark.files_for(chosen))
        its_setting = replace(setting, limit=limits.get(benchmark.name, limit), choices=chosen)
        results[benchmark.name] = None  # so that the order stays
        try:
            plans.append((benchmark, chosen, hashes, benchmark.plan(texts, its_setting)))
        except ContextError as error:
            if not skip_missing:
                raise
            results[benchmark.name] = _absent(benchmark, str(error))
    if benchmarks and not_here == len(benchmarks):
        raise DataError(
            f"Nothing can be evaluated: of the files of {len(benchmarks)} benchmarks none is in {data}. "
            "`gpt2 evaluate --list` names them, `gpt2 download-data` fetches those it may; or give another --data."
        )
    model_hash = hash_of_model(model.checkpoint.path)
    name = f"{model_hash[:16]}-{model.backend.weights}-{model.backend.name}-{version}.jsonl"
    answers = Answers(None if cache is None else cache / name)
    try:
        for benchmark, chosen, hashes, plan in plans:
            found = _run(model, benchmark.name, plan, answers, progress)
            title = _title(benchmark, chosen, limits.get(benchmark.name))
            facts = {**_facts(benchmark), "title": title}
            results[benchmark.name] = {**facts, **found, "choices": chosen, "files": hashes}
    finally:
        answers.close()
    return {
        "model": _about(model, model_hash),
        "settings": {
            "stride": setting.stride,
            "limit": limit,
            "limits": dict(limits),
            "data": "made-up examples" if data is None else "files",
        },
        "versions": {"gpt2": version, "python": platform.python_version(), "numpy": np.__version__, **_used()},
        "benchmarks": results,
    }


def hash_of_model(path: Path) -> str:
    """One SHA-256 for a model: of its file, or of the names and hashes of its folder's files but the card.

    Nor does what `gpt2 detect` compares with change what the model answers.
    """
    if path.is_file():
        return sha256_file(path)
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()):
        of_model = file.suffix in (".safetensors", ".json", ".txt", ".bpe", ".bin") and file.name != "calibration.json"
        if file.is_file() and of_model:
            whole.update(f"{file.name} {sha256_file(file)}\n".encode())
    return whole.hexdigest()


def _setting(model: LanguageModel, stride: int | None) -> Setting:
    """What is the same for every benchmark."""
    eot = model.tokenizer.eot
    if eot is None:
        raise DataError("The model cannot be evaluated: its vocabulary has no end-of-text token to begin a text with.")
    n_positions = model.config.n_positions
    stride = max(1, n_positions // 2) if stride is None else stride
    if not 1 <= stride <= n_positions:
        raise DataError(f"stride must lie between 1 and the context of {n_positions:,} tokens: got {stride}.")
    return Setting(
        encode=model.tokenizer.encode,
        decode=model.tokenizer.decode,
        eot=eot,
        n_positions=n_positions,
        stride=stride,
        limit=None,
        choices={},
    )


def _chosen(benchmark: Benchmark, asked: Mapping[str, str]) -> dict[str, str]:
    for name, value in asked.items():
        if name not in benchmark.choices:
            known = ", ".join(benchmark.choices) or "none"
            raise DataError(f"{benchmark.name} has no choice {name!r}. Its choices: {known}.")
        if value not in benchmark.choices[name].values:
            allowed = ", ".join(benchmark.choices[name].values)
            raise DataError(f"{benchmark.name}.{name} cannot be {value!r}. It can be: {allowed}.")
    return {name: asked.get(name, choice.values[0]) for name, choice in benchmark.choices.items()}


def _with_files(benchmark: Benchmark, chosen: dict[str, str], data: Path) -> dict[str, str]:
    """These choices, or those of a part of the set, where only the part is here."""
    for value in benchmark.choices["set"].values if "set" in benchmark.choices else ():
        if not missing_files(data, benchmark.files_for(chosen)):
            break
        chosen = {**chosen, "set": value}
    return chosen


def _absent(benchmark: Benchmark, why: str) -> dict[str, Any]:
    return {**_facts(benchmark), "missing": why}


def _title(benchmark: Benchmark, chosen: Mapping[str, str], part: int | None) -> str:
    title = benchmark.title
    if chosen.get("set") != benchmark.defaults().get("set"):
        title += f" ({chosen['set']})"
    return title if part is None else f"{title} (the first {part:,})"


def _about(model: LanguageModel, model_hash: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "sha256": model_hash,
        "weights": model.backend.weights,
        "backend": model.backend.name,
        "parameters": model.config.parameters,
        "n_layer": model.config.n_layer,
        "n_embd": model.config.n_embd,
        "n_positions": model.config.n_positions,
    }


def _facts(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "title": benchmark.title,
        "protocol": benchmark.protocol,
        "headline": benchmark.headline,
        "better": benchmark.better,
        "paper": dict(benchmark.paper),
        "known": [asdict(known) for known in benchmark.known],
    }


def _used() -> dict[str, str]:
    """Versions of what some benchmarks need, where they did."""
    return {name: sys.modules[name].__version__ for name in ("sacrebleu", "nltk") if name in sys.modules}


def _run(model: LanguageModel, name: str, plan: Plan, answers: Answers, progress: Progress) -> dict[str, Any]:
    found = [answers.get(request) for request in plan.requests]
    missing = [i for i, answer in enumerate(found) if answer is None]
    begin, n_tokens, done = time.perf_counter(), 0, len(found) - len(missing)
    progress(name, done, len(found))
    for group in groups(plan.requests, missing):
        requests = [plan.requests[i] for i in group]
        computed, n = answers_of(model, requests)
        for i, request, answer in zip(group, requests, computed, strict=True):
            found[i] = answer
            answers.put(request, answer)
        n_tokens += n
        done += len(group)
        progress(name, done, len(found))
    seconds = time.perf_counter() - begin
    figures = plan.measure(found)
    judged = plan.judge(found) if plan.judge else ()
    return {
        "figures": figures,
        "standard_errors": _standard_errors(plan, found, figures, [each.score for each in judged]),
        "examples": plan.n_examples,
        "requests": len(found),
        "from_cache": len(found) - len(missing),
        "tokens_computed": n_tokens,
        "seconds": seconds,
        "notes": plan.notes,
        **(_judged(judged) if judged else {}),
    }


def _standard_errors(plan: Plan, found: Sequence[Any], figures: Figures, scores: Sequence[float]) -> Figures:
    """Of shares that are right, of the figure that is the mean of the scores, and those that the plan brings."""
    errors: Figures = {}
    for figure, value in figures.items():
        if figure.startswith(("accuracy", "exact_match")):
            errors[figure] = uncertainty.of_percent(value, plan.n_examples)
        elif scores and math.isclose(100 * math.fsum(scores) / len(scores), value, abs_tol=1e-6):
            errors[figure] = 100 * uncertainty.of_mean(scores)
    return errors | (plan.errors(found) if plan.errors else {})


def _judged(judged: Sequence[Judged]) -> dict[str, Any]:
    """Every example's score and confidence, and a few to look at: those the model was surest of, or the first."""
    scores = [round(each.score, 4) for each in judged]
    order = sorted(judged, key=lambda each: -(each.confidence or 0.0))
    right, wrong = ([each for each in order if (each.score >= 0.5) is which][:_SHOWN] for which in (True, False))
    return {
        "mean_score": math.fsum(scores) / len(scores),
        "scores": scores,
        "confidences": [None if each.confidence is None else round(each.confidence, 4) for each in judged],
        "shown": [asdict(replace(each, given=_end_of(each.given))) for each in (*right, *wrong)],
    }


def _end_of(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"… {text[-_SHOWN_CHARACTERS:]}"


def answers_of(model: LanguageModel, requests: Sequence[Request]) -> tuple[Sequence[Answer], int]:
    """The answers, and how many tokens were computed for them."""
    targets = [request for request in requests if isinstance(request, Target)]
    if targets:
        return score_targets(model.backend, targets), computed_tokens(targets)
    prompts = [request for request in requests if isinstance(request, Asked)]
    sampling = replace(prompts[0].sampling, logprobs=0, seed=0)
    continued: list[Continued] = []
    n_tokens = 0
    for completion in model.generate([asked.prompt for asked in prompts], sampling):
        logprobs = [each.logprob or 0.0 for each in completion.samples[0].logprobs or ()]
        continued.append(Continued(text=completion.text, logprob=math.fsum(logprobs)))
        n_tokens += len(model.tokenizer.encode(str(completion.prompt))) + len(logprobs)
    return continued, n_tokens


def groups(requests: Sequence[Request], wanted: Sequence[int]) -> Iterator[list[int]]:
    """Requests that are computed together: of about the same length, up to `_STEP_TOKENS` tokens, or so many prompts.

    Neighbours that begin alike stay together, and what they share counts once.
    """
    group: list[int] = []
    n_tokens = 0
    for family in sorted(_families(requests, wanted), key=lambda family: -_size(requests[family[0]])):
        size = _size_of_family([requests[i] for i in family])
        alike = not group or _settings(requests[group[0]]) == _settings(requests[family[0]])
        if group and (n_tokens + size > _STEP_TOKENS or not alike):
            yield group
            group, n_tokens = [], 0
        group += family
        n_tokens += size
    if group:
        yield group


def _families(requests: Sequence[Request], wanted: Sequence[int]) -> Iterator[list[int]]:
    """Runs of neighbours that have at least half their tokens in common with the first of them."""
    family: list[int] = []
    for i in wanted:
        if family and not _alike(requests[family[0]], requests[i]):
            yield family
            family = []
        family.append(i)
    if family:
        yield family


def _alike(one: Request, other: Request) -> bool:
    if isinstance(one, Target) and isinstance(other, Target):
        return 2 * shared_tokens(one, other) >= max(one.n_tokens, other.n_tokens)
    return False


def _size_of_family(requests: Sequence[Request]) -> int:
    targets = [request for request in requests if isinstance(request, Target)]
    return computed_tokens(targets) if targets else sum(map(_size, requests))


def _size(request: Request) -> int:
    return request.n_tokens if isinstance(request, Target) else _STEP_TOKENS // _PROMPTS_AT_ONCE


def _settings(request: Request) -> Sampling | None:
    return None if isinstance(request, Target) else request.sampling
