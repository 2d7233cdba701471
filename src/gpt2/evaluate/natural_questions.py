"""Natural Questions: people's questions to a search engine, answered from the model's knowledge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2.evaluate import uncertainty
from gpt2.evaluate.benchmark import Benchmark, Choice, Continued, DataFile, Figures, Judged, Plan, Setting
from gpt2.evaluate.files_of_data import read_examples
from gpt2.evaluate.squad import normalised
from gpt2.tasks import Prompts, answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Attributes:
    question: as it was typed, in lower case.
    answers: any of which is right.
    """

    question: str
    answers: tuple[str, ...]


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """One prompt a question: our examples of questions and answers, then the question."""
    questions = read_examples(texts[0], _question, "Natural Questions is not a question")[: setting.limit]
    prompts = Prompts.ours().answer
    prompts = replace(prompts, examples=prompts.examples[: int(setting.choices["examples"])])
    written = setting.choices["question"] == "written"
    requests = [
        answer.ask(_written(each.question) if written else each.question, prompts=prompts, room=setting.room)
        for each in questions
    ]

    def is_right(question: Question, result: Continued) -> bool:
        return normalised(answer.read(result.text)) in {normalised(text) for text in question.answers}

    def measure(results: Sequence[Continued]) -> Figures:
        right = [is_right(question, result) for question, result in zip(questions, results, strict=True)]
        surest = sorted(range(len(results)), key=lambda i: -results[i].logprob)[: max(1, len(results) // 100)]
        return {
            "exact_match": 100 * sum(right) / len(right),
            "exact_match_of_the_surest_1_percent": 100 * sum(right[i] for i in surest) / len(surest),
        }

    def judge(results: Sequence[Continued]) -> list[Judged]:
        return [
            Judged(
                given=question.question,
                expected=" / ".join(question.answers),
                answered=answer.read(result.text),
                score=float(is_right(question, result)),
                confidence=math.exp(result.logprob),
            )
            for question, result in zip(questions, results, strict=True)
        ]

    def errors(results: Sequence[Continued]) -> Figures:
        surest = "exact_match_of_the_surest_1_percent"
        return {surest: uncertainty.of_percent(measure(results)[surest], max(1, len(questions) // 100))}

    return Plan(
        requests=requests, measure=measure, n_examples=len(questions), judge=judge, scored="exact_match", errors=errors
    )


def _written(question: str) -> str:
    return f"{question[:1].upper()}{question[1:]}{'' if question.endswith('?') else '?'}"


def _question(found: Mapping[str, Any]) -> Question:
    return Question(question=str(found["question"]), answers=tuple(map(str, found["answer"])))


BENCHMARK = Benchmark(
    name="nq",
    title="Natural Questions",
    protocol=(
        "Section 3.8: the context is seeded with example question answer pairs; the exact match of SQuAD; the largest "
        "model answers 4.1 % and the smallest at most 1.0 %, and of the 1 % of questions it is surest of 63.1 %. Open: "
        "the examples, and how sure is measured. Here the first line of a greedy continuation is the answer, and its "
        "probability, to the end of the line, says how sure the model is. The file is the later open edition of the "
        "development set, so the paper's figures are of other questions."
    ),
    files=(
        DataFile(
            path="nq_open/NQ-open.dev.jsonl",
            sha256="f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
            origin="the development set of NQ-open (Google; CC BY-SA 3.0), NQ-open.dev.jsonl, 3,610 lines",
            url="https://raw.githubusercontent.com/google-research-datasets/natural-questions/"
            "fb26a3073b1fe636c97302890a27b491d6530130/nq_open/NQ-open.dev.jsonl",
        ),
    ),
    choices={
        "question": Choice(
            values=("written", "typed"), help="with a capital and a question mark, or in lower case as it was typed"
        ),
        "examples": Choice(values=("5", "3", "1", "0"), help="how many of our example questions stand before"),
    },
    plan=plan,
    paper={"exact_match": (None, None, None, 4.1), "exact_match_of_the_surest_1_percent": (None, None, None, 63.1)},
    made_up=("nq.jsonl",),
    headline="exact_match",
    better="higher",
)
