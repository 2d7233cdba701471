"""Running benchmarks on a model, and recording all that is needed to compare the figures."""

import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.errors import ContextError, DataError
from gpt2.evaluate import uncertainty
from gpt2.evaluate.answering import answer_all
from gpt2.evaluate.benchmark import Benchmark, Figures, Judged, Plan, Setting
from gpt2.evaluate.cache import Answers
from gpt2.evaluate.files_of_data import check_files, how_to_get, missing_files, read_files, read_made_up
from gpt2.generation.scoring import default_stride
from gpt2.language_model import LanguageModel

Progress = Callable[[str, int, int], None]  # benchmark, requests answered, of how many

_SHOWN = 5  # examples right, and as many wrong
_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A benchmark whose files are read.

    Attributes:
        name: of the benchmark.
        choices: with which it runs.
        files: path -> SHA-256 of what was read.
        plan: what to ask the model.
    """

    name: str
    choices: Mapping[str, str]
    files: Mapping[str, str]
    plan: Plan


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
    """The figures of each benchmark and how they were measured, in JSON's types.

    Args:
        model: evaluated on its backend as opened; fp32 is the form for comparisons.
        benchmarks: in the order to run.
        data: the folder of their files, all checked before the first runs; None for the made-up examples.
        version: of this package.
        stride: of windows over texts longer than the context; half the context by default.
        limit: at most so many examples of each.
        limits: by benchmark, instead of `limit`.
        choices: by benchmark and choice, if not the default.
        cache: the folder of cached answers; None: no cache.
        skip_missing: if a benchmark's files are missing, use another of its sets that is there, or else report it as
            skipped, instead of refusing; also if the context is too short for one of its examples.
        progress: called after each step.

    Raises:
        ContextError: the model's context is too short for an example.
        DataError: a file is missing or not the intended one, or all are missing; a choice is unknown; or the vocabulary
            has no end-of-text token.
    """
    setting = _setting(model, stride)
    limits = limits or {}
    chosen, absent = _asked(benchmarks, data, choices or {}, skip_missing=skip_missing)
    ready: dict[str, _Ready] = {}
    for benchmark in benchmarks:
        if benchmark.name in absent:
            continue
        its = replace(setting, limit=limits.get(benchmark.name, limit), choices=chosen[benchmark.name])
        try:
            ready[benchmark.name] = _made_ready(benchmark, data, its)
        except ContextError as error:
            if not skip_missing:
                raise
            absent[benchmark.name] = str(error)
    model_hash = model.checkpoint.files_sha256()
    name = f"{model_hash[:16]}-{model.backend.weights}-{model.backend.name}-{version}.jsonl"
    results: dict[str, Any] = {}
    with closing(Answers(None if cache is None else cache / name)) as kept:
        for benchmark in benchmarks:
            facts = _facts(benchmark)
            if benchmark.name in absent:
                results[benchmark.name] = {**facts, "missing": absent[benchmark.name]}
                continue
            facts["title"] = _title(benchmark, chosen[benchmark.name], limits.get(benchmark.name, limit))
            results[benchmark.name] = {**facts, **_run(model, ready[benchmark.name], kept, progress)}
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


def check_data(
    benchmarks: Sequence[Benchmark],
    data: Path | None,
    *,
    choices: Mapping[str, Mapping[str, str]] | None = None,
    skip_missing: bool = False,
) -> None:
    """Refuse missing files as `evaluate` would, before a model is opened.

    Raises:
        DataError: a file is missing, or all are; a choice is unknown, or has no made-up examples.
    """
    chosen, absent = _asked(benchmarks, data, choices or {}, skip_missing=skip_missing)
    for benchmark in benchmarks:
        if data is None:
            read_made_up(benchmark, chosen[benchmark.name])
        elif benchmark.name not in absent:
            check_files(data, benchmark, chosen[benchmark.name])


def _asked(
    benchmarks: Sequence[Benchmark],
    data: Path | None,
    choices: Mapping[str, Mapping[str, str]],
    *,
    skip_missing: bool,
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The choices with which each benchmark runs, and why others do not run."""
    chosen = {each.name: each.chosen(choices.get(each.name, {})) for each in benchmarks}
    if data is None or not skip_missing:
        return chosen, {}
    chosen = {each.name: _with_files(each, chosen[each.name], data) for each in benchmarks}
    return chosen, _absent(benchmarks, chosen, data)


def stride_of(asked: int | None, n_positions: int) -> int:
    """The stride of windows over a text: as asked for, or half the context.

    Raises:
        DataError: it is not between 1 and the context.
    """
    stride = default_stride(n_positions) if asked is None else asked
    if not 1 <= stride <= n_positions:
        raise DataError(f"stride must lie between 1 and the context of {n_positions:,} tokens: got {stride}.")
    return stride


def _setting(model: LanguageModel, stride: int | None) -> Setting:
    """The part of the setting that all benchmarks share."""
    eot = model.tokenizer.eot
    if eot is None:
        raise DataError("The model cannot be evaluated: its vocabulary has no end-of-text token to begin a text with.")
    n_positions = model.config.n_positions
    return Setting(
        encode=model.tokenizer.encode,
        decode=model.tokenizer.decode,
        eot=eot,
        n_positions=n_positions,
        stride=stride_of(stride, n_positions),
        limit=None,
        choices={},
    )


def _with_files(benchmark: Benchmark, chosen: dict[str, str], data: Path) -> dict[str, str]:
    """These choices, or those of a part of the set if only the part is here."""
    for value in benchmark.choices["set"].values if "set" in benchmark.choices else ():
        if not missing_files(data, benchmark.files_for(chosen)):
            break
        chosen = {**chosen, "set": value}
    return chosen


def _absent(benchmarks: Sequence[Benchmark], chosen: Mapping[str, Mapping[str, str]], data: Path) -> dict[str, str]:
    """By benchmark, the missing file and how to get it; it is an error if all are missing."""
    absent: dict[str, str] = {}
    for benchmark in benchmarks:
        missing = missing_files(data, benchmark.files_for(chosen[benchmark.name]))
        if missing:
            absent[benchmark.name] = f"{missing[0].path} is not here. {how_to_get(missing[0], benchmark, data)}"
    if benchmarks and len(absent) == len(benchmarks):
        raise DataError(
            f"Nothing can be evaluated: of the files of {len(benchmarks)} benchmarks none is in {data}. "
            "`gpt2 evaluate --list` names them, `gpt2 download-data` fetches those it may; or give another --data."
        )
    return absent


def _made_ready(benchmark: Benchmark, data: Path | None, setting: Setting) -> _Ready:
    if data is None:
        texts, hashes = read_made_up(benchmark, setting.choices)
    else:
        texts, hashes = read_files(data, benchmark, setting.choices)
    return _Ready(name=benchmark.name, choices=setting.choices, files=hashes, plan=benchmark.plan(texts, setting))


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
    """Versions of packages that only some benchmarks need, if they were used."""
    return {name: sys.modules[name].__version__ for name in ("sacrebleu", "nltk") if name in sys.modules}


def _run(model: LanguageModel, ready: _Ready, kept: Answers, progress: Progress) -> dict[str, Any]:
    plan = ready.plan
    answered = answer_all(model, plan.requests, kept, lambda done, total: progress(ready.name, done, total))
    figures = plan.measure(answered.answers)
    judged = plan.judge(answered.answers) if plan.judge else ()
    return {
        "figures": figures,
        "standard_errors": _standard_errors(plan, answered.answers, figures, [each.score for each in judged]),
        "scored": plan.scored,
        "examples": plan.n_examples,
        "requests": len(plan.requests),
        "from_cache": answered.from_cache,
        "tokens_computed": answered.tokens_computed,
        "seconds": answered.seconds,
        "notes": plan.notes,
        **(_judged(judged) if judged else {}),
        "choices": ready.choices,
        "files": ready.files,
    }


def _standard_errors(plan: Plan, answers: Sequence[Any], figures: Figures, scores: Sequence[float]) -> Figures:
    """Standard errors: of shares of right examples, of the mean of the scores, and those that the plan computes."""
    errors: Figures = {}
    for figure, value in figures.items():
        if figure.startswith(("accuracy", "exact_match")):
            errors[figure] = uncertainty.of_percent(value, plan.n_examples)
        elif figure == plan.scored:
            errors[figure] = 100 * uncertainty.of_mean(scores)
    return errors | (plan.errors(answers) if plan.errors else {})


def _judged(judged: Sequence[Judged]) -> dict[str, Any]:
    """Every example's score and confidence, and a few to show: those the model was surest of, or the first."""
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
