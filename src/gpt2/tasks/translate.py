"""Translation (section 3.7): pairs of sentences as examples, then the sentence and an equals sign.

"we condition the language model on a context of example pairs of the format `english sentence = french
sentence` and then after a final prompt of `english sentence =` we sample from the model with greedy decoding
and use the first generated sentence as the translation."
"""

from collections.abc import Mapping, Sequence

from gpt2.errors import GenerationError
from gpt2.generation import Sampling
from gpt2.generation.prompts import check_text
from gpt2.tasks.asked import Asked, Room, Write, fit_examples, the_first
from gpt2.tasks.prompts import Prompts, TranslatePrompts
from gpt2.tasks.sentences import first_sentences


def translate(text: str, *, source: str, target: str, prompts: Prompts | None, room: Room, write: Write) -> str:
    """Ask for a translation and return the one from `write`. Raises as `ask` does, and if `text` is not text."""
    check_text(text, "translated")
    asked = ask(text, source=source, target=target, prompts=Prompts.given(prompts).translate, room=room)
    return read(asked.continued(write))


def prompt(text: str, *, source: str, target: str, form: str, examples: Sequence[Mapping[str, str]]) -> str:
    """The examples, one per line, and the text with nothing after the equals sign."""
    pairs = [form.replace("{source}", each[source]).replace("{target}", each[target]) for each in examples]
    last = form.partition("{target}")[0].replace("{source}", text).rstrip()
    return "\n".join([*pairs, last])


def ask(text: str, *, source: str, target: str, prompts: TranslatePrompts, room: Room) -> Asked:
    """Make the prompt for translating `text`; a line break in it becomes a space, since a pair is one line.

    Raises:
        GenerationError: there is no text, or a language that the examples do not have.
        ContextError: the text alone does not fit the context.
    """
    text = " ".join(text.split())
    if not text:
        raise GenerationError("There is nothing to translate: the text is empty. Give a sentence.")
    check_languages(source, target, prompts)
    asked, dropped = fit_examples(
        lambda examples: prompt(text, source=source, target=target, form=prompts.form, examples=examples),
        prompts.examples,
        room.prompt_tokens(prompts.max_tokens),
        room,
    )
    left_out = f"{the_first(dropped, 'example')} left out: the context is too short for all" if dropped else ""
    return Asked(
        prompt=asked, sampling=Sampling(temperature=0, max_tokens=prompts.max_tokens, stop=("\n",)), left_out=left_out
    )


def check_languages(source: str, target: str, prompts: TranslatePrompts) -> None:
    """Refuse languages that the examples lack.

    Raises:
        GenerationError: a language that they lack, or the same language twice.
    """
    for language in (source, target):
        if not isinstance(language, str) or language not in prompts.languages:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GenerationError(
                f"The examples have no {language!r:.60}: their languages are {', '.join(prompts.languages)}. "
                f"Choose two of them, or give your own examples."
            )
    if source == target:
        raise GenerationError(f"A text cannot be translated from {source} to {target}. Choose two languages.")


def read(continuation: str) -> str:
    """The translation: the first sentence of the first line."""
    line = continuation.strip().partition("\n")[0]
    return first_sentences(line, 1)
