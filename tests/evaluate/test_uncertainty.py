"""Standard errors, against their definitions and against drawing again."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gpt2.evaluate import Plan, Setting, evaluate, find, lambada, ptb, uncertainty
from gpt2.evaluate.benchmark import Judged
from gpt2.generation.targets import TargetScore
from gpt2.language_model import LanguageModel


def test_of_a_mean() -> None:
    assert uncertainty.of_mean([1.0, 2.0, 4.0]) == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))
    assert uncertainty.of_mean([3.0]) == 0


def test_of_a_share() -> None:
    assert uncertainty.of_percent(40, 10_000) == pytest.approx(100 * math.sqrt(0.4 * 0.6 / 10_000), rel=1e-3)
    assert 0 < uncertainty.of_percent(0, 10) < uncertainty.of_percent(50, 10)
    for none_or_all in (0, 100):  # two right and two wrong more: 2 or 6 of 8
        assert uncertainty.of_percent(none_or_all, 4) == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 8))


def test_of_a_total_is_what_drawing_parts_again_gives() -> None:
    """A sum over parts, as its rate times the tokens there are: the bootstrap of the rate."""
    draw = random.Random(0)
    sizes = [draw.randrange(10, 60) for _ in range(50)]
    losses = [size * draw.gauss(4, 1) for size in sizes]
    rates: list[float] = []
    for _ in range(2000):
        again = draw.choices(range(50), k=50)
        rates.append(sum(losses[i] for i in again) / sum(sizes[i] for i in again))
    assert uncertainty.of_total(losses, sizes) / sum(sizes) == pytest.approx(float(np.std(rates)), rel=0.1)


def test_of_perplexities(setting: Callable[..., Setting]) -> None:
    text = "".join(f'{{"text": "a b c {word}"}}\n' for word in ("cat", "dog", "boat"))
    plan = lambada.plan([text], setting(choices={"text": "openai", "start": "nothing"}))
    answers = [TargetScore(logprobs=(-loss,), ranks=(0,), best=(1,), best_logprob=-loss) for loss in (1.0, 2.0, 4.0)]
    assert plan.errors and plan.errors(answers) == pytest.approx(
        {"perplexity": math.exp(7 / 3) * np.std([1, 2, 4], ddof=1) / math.sqrt(3)}
    )
    plan = ptb.plan(["the cat sat on the mat\n" * 30], setting(choices={"detokenize": "yes", "newlines": "counted"}))
    answers = [
        TargetScore(logprobs=(-1.0 - i,) * len(each.targets), ranks=(0,) * len(each.targets))
        for i, each in enumerate(plan.requests)
    ]
    figures, errors = plan.measure(answers), plan.errors(answers) if plan.errors else {}
    in_bits = errors["bits_per_byte"] / figures["bits_per_byte"] * math.log(figures["perplexity_per_word"])
    assert errors["perplexity_per_word"] / figures["perplexity_per_word"] == pytest.approx(in_bits)
    assert plan.errors and plan.errors(answers[:1]) == {}  # of one window nothing is known


def test_of_a_mean_of_scores_is_in_percent_as_the_figure_is(model: LanguageModel) -> None:
    coqa, scores = find("coqa"), (0.0, 0.5, 1.0)

    def plan(texts: Sequence[str], setting: Setting) -> Plan:
        judged = [Judged(given="", expected="", answered="", score=score) for score in scores]
        return replace(coqa.plan(texts, setting), judge=lambda results: judged)

    [found] = evaluate(model, [replace(coqa, plan=plan)], None, version="1")["benchmarks"].values()
    assert found["standard_errors"] == pytest.approx({"f1": 100 * 0.5 / math.sqrt(3)})


def test_of_every_benchmark(model: LanguageModel) -> None:
    benchmarks = [find(name) for name in ("lambada", "cbt-cn", "coqa", "nq")]
    found = evaluate(model, benchmarks, None, version="1")["benchmarks"]
    for name, figures in {
        "lambada": {"perplexity", "accuracy_last_word", "accuracy_last_word_filtered", "accuracy_last_token"},
        "cbt-cn": {"accuracy"},
        "coqa": {"f1"},
        "nq": {"exact_match", "exact_match_of_the_surest_1_percent"},
    }.items():
        assert set(found[name]["standard_errors"]) == figures
        assert all(error >= 0 for error in found[name]["standard_errors"].values())
