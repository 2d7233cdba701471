from typing import Any

from gpt2.evaluate import compare


def result(word: float, filtered: float, scores: list[float]) -> dict[str, Any]:
    lambada = {
        "title": "LAMBADA",
        "headline": "accuracy_last_word_filtered",
        "figures": {"accuracy_last_word": word, "accuracy_last_word_filtered": filtered},
        "scored": "accuracy_last_word",
        "mean_score": sum(scores) / len(scores),
        "scores": scores,
        "choices": {},
        "files": {},
        "examples": len(scores),
    }
    return {"model": {}, "settings": {}, "versions": {}, "benchmarks": {"lambada": lambada}}


def test_only_the_figure_of_the_scores_has_their_error() -> None:
    before, after = result(50.0, 50.0, [1.0, 0.0, 1.0, 0.0]), result(75.0, 50.0, [1.0, 1.0, 1.0, 0.0])
    [word, filtered], _ = compare(before, after)
    assert word.standard_error == 25.0
    assert filtered.standard_error is None, "both figures are 50 in the first, and the scores are those of one"


def test_examples_that_are_not_the_same_have_no_error_of_their_difference() -> None:
    before = result(50.0, 50.0, [1.0, 0.0, 1.0, 0.0])
    fewer, others = result(50.0, 50.0, [1.0, 0.0]), result(50.0, 50.0, [1.0, 0.0, 0.0, 1.0])
    others["benchmarks"]["lambada"]["files"] = {"another.jsonl": "0"}
    for after in (fewer, others):
        assert [each.standard_error for each in compare(before, after)[0]] == [None, None]
