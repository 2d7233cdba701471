"""Question answering: about a passage (section 3.5), or from the model's knowledge (section 3.8).

"Greedy decoding from GPT-2 when conditioned on a document, the history of the associated conversation, and a
final token A:" (3.5). "[T]he context of the language model is seeded with example question answer pairs which
helps the model infer the short answer style of the dataset" (3.8).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from gpt2.errors import GenerationError
from gpt2.generation import Sampling
from gpt2.generation.prompts import check_text
from gpt2.tasks.asked import Asked, Room, Write, fit_examples, fit_text, the_first
from gpt2.tasks.prompts import AnswerPrompts, Prompts

QuestionAnswer = tuple[str, str]


def answer(
    question: str,
    *,
    context: str | None,
    history: Sequence[QuestionAnswer],
    prompts: Prompts | None,
    room: Room,
    write: Write,
) -> str:
    """Ask a question and return the answer from `write`. Raises as `ask` does, and if an argument is not text."""
    check_text(question, "answered")
    if context is not None:
        check_text(context, "the passage of a question")
    before = _pairs(history)
    asked = ask(question, prompts=Prompts.given(prompts).answer, room=room, context=context, history=before)
    return read(asked.continued(write))


def prompt(
    question: str, *, before: Sequence[QuestionAnswer], prompts: AnswerPrompts, context: str | None = None
) -> str:
    """The passage if there is one, earlier questions with answers, the question, and the answer mark."""
    lines = [] if context is None else [context, ""]
    for asked, answered in before:
        lines += [f"{prompts.question}{asked}", f"{prompts.answer} {answered}"]
    return "\n".join([*lines, f"{prompts.question}{question}", prompts.answer])


def ask(
    question: str,
    *,
    prompts: AnswerPrompts,
    room: Room,
    context: str | None = None,
    history: Sequence[QuestionAnswer] = (),
) -> Asked:
    """Make the prompt for an answer.

    Args:
        question: one line; a line break in it becomes a space.
        prompts: the marks, and the examples put before a question without a passage.
        room: how long the prompt may be.
        context: the passage that the question is about. If it does not fit, its beginning is kept.
        history: earlier questions about the passage, with their answers. The oldest are left out first.

    Raises:
        GenerationError: no question, a passage without a word, or earlier questions without a passage.
        ContextError: the question does not fit the context, alone or with one word of the passage.
    """
    question = " ".join(question.split())
    if not question:
        raise GenerationError("There is nothing to answer: the question is empty. Give a question.")
    context = None if context is None else context.strip()
    if context == "":
        raise GenerationError("The question cannot be answered from its passage: the passage is empty. Leave it out.")
    if history and context is None:
        raise GenerationError(
            "Earlier questions cannot be taken up: they are questions about a passage, and there is none. Give the "
            "passage as context, or leave the history out."
        )
    limit, left_out = room.prompt_tokens(prompts.max_tokens), ""
    before = prompts.examples if context is None else tuple(history)
    if context is not None:
        passage, kept, of = fit_text(
            lambda part: prompt(question, before=(), prompts=prompts, context=part), context, limit, room
        )
        if kept < of:
            left_out = f"only the first {kept:,} of the passage's {of:,} words fit the context; the rest is left out"
            if before:
                left_out += ", and so are the earlier questions"
            return Asked(prompt=passage, sampling=_sampling(prompts), left_out=left_out)
    asked, dropped = fit_examples(
        lambda some: prompt(question, before=some, prompts=prompts, context=context), before, limit, room
    )
    if dropped:
        noun = "example" if context is None else "earlier question"
        left_out = f"{the_first(dropped, noun)} left out: the context is too short for all"
    return Asked(prompt=asked, sampling=_sampling(prompts), left_out=left_out)


def read(continuation: str) -> str:
    """The answer: the first line."""
    return continuation.strip().partition("\n")[0].strip()


def _pairs(history: object) -> list[QuestionAnswer]:
    pairs: list[Any] = list(history) if isinstance(history, Iterable) else [history]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or [type(text) for text in pair] != [str, str]:
            raise GenerationError(
                f"Earlier questions stand in a list with their answers, as [('Who?', 'Ann.')]: got {pair!r:.60}."
            )
    return [(asked, answered) for asked, answered in pairs]


def _sampling(prompts: AnswerPrompts) -> Sampling:
    return Sampling(temperature=0, max_tokens=prompts.max_tokens, stop=("\n",))
