"""CoQA: a conversation about a passage."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.errors import DataError
from gpt2.evaluate.benchmark import Benchmark, Choice, Continued, DataFile, Figures, Judged, Plan, Setting
from gpt2.evaluate.squad import f1_among
from gpt2.tasks import Prompts, answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Attributes:
    story: the passage.
    before: earlier questions, with the first person's answers.
    question: the present one.
    answers: of one person or several.
    """

    story: str
    before: tuple[tuple[str, str], ...]
    question: str
    answers: tuple[str, ...]


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """One prompt a question: the passage, the conversation so far, the question."""
    turns = _turns(texts[0])[: setting.limit]
    prompts = Prompts.ours().answer
    requests = [
        answer.ask(each.question, prompts=prompts, room=setting.room, context=each.story, history=each.before)
        for each in turns
    ]
    n_cut = sum(bool(request.left_out) for request in requests)

    def scores(results: Sequence[Continued]) -> list[float]:
        return [f1_among(answer.read(result.text), turn.answers) for turn, result in zip(turns, results, strict=True)]

    def measure(results: Sequence[Continued]) -> Figures:
        return {"f1": 100 * sum(scores(results)) / len(turns)}

    def judge(results: Sequence[Continued]) -> list[Judged]:
        return [
            Judged(
                given=f"{turn.story}\n{turn.question}",
                expected=" / ".join(dict.fromkeys(turn.answers)),
                answered=answer.read(result.text),
                score=score,
            )
            for turn, result, score in zip(turns, results, scores(results), strict=True)
        ]

    notes = (f"{n_cut:,} of {len(turns):,} prompts did not fit the context and were shortened",) if n_cut else ()
    return Plan(requests=requests, measure=measure, n_examples=len(turns), judge=judge, scored="f1", notes=notes)


def _turns(text: str) -> list[Turn]:
    turns: list[Turn] = []
    try:
        for story in json.loads(text)["data"]:
            people = [story["answers"], *story.get("additional_answers", {}).values()]
            answers = [[str(each["input_text"]) for each in person] for person in people]
            questions = [str(each["input_text"]) for each in story["questions"]]
            for i, question in enumerate(questions):
                turns.append(
                    Turn(
                        story=str(story["story"]),
                        before=tuple(zip(questions[:i], answers[0][:i], strict=True)),
                        question=question,
                        answers=tuple(person[i] for person in answers),
                    )
                )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"CoQA's file is not stories with questions and answers: {error!r}.") from None
    return turns


BENCHMARK = Benchmark(
    name="coqa",
    title="CoQA",
    protocol=(
        'Section 3.5: "greedy decoding [...] when conditioned on a document, the history of the associated '
        'conversation, and a final token A:"; 55 F1 on the development set for the largest model. '
        "Open: whose answers stand in the history (here people's, not the model's own), and where an answer ends "
        "(here at the end of the line)."
    ),
    files=(
        DataFile(
            path="coqa/coqa-dev-v1.0.json",
            sha256="dfa367a9733ce53222918d0231d9b3bedc2b8ee831a2845f62dfc70701f2540a",
            origin="the development set of CoQA (Reddy et al. 2019; several licences by source), coqa-dev-v1.0.json, "
            "500 stories",
            url="https://nlp.stanford.edu/data/coqa/coqa-dev-v1.0.json",
            when=("set", "dev"),
        ),
        DataFile(
            path="coqa/coqa-dev-one-story.json",
            sha256="7cbf7ef02da990de8ed4f2e074d173d9279e435998cca73484dabe6b916f4ccb",
            origin="one story of that set with its 12 questions",
            when=("set", "one-story"),
        ),
    ),
    choices={"set": Choice(values=("dev", "one-story"), help="the whole development set, or one story of it")},
    plan=plan,
    paper={"f1": (None, None, None, 55.0)},
    made_up=("coqa.json",),
    headline="f1",
    better="higher",
)
