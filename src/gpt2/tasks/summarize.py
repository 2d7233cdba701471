"""Summaries (section 3.6): the article, then "TL;DR:".

"To induce summarization behavior we add the text TL;DR: after the article and generate 100 tokens with Top-k
random sampling (Fan et al., 2018) with k = 2 [...]. We use the first 3 generated sentences in these 100
tokens as the summary."
"""

from gpt2.errors import GenerationError
from gpt2.generation import Sampling
from gpt2.generation.prompts import check_text
from gpt2.tasks.asked import Asked, Room, Write, fit_text
from gpt2.tasks.prompts import Prompts, SummarizePrompts
from gpt2.tasks.sentences import first_sentences


def summarize(text: str, *, prompts: Prompts | None, room: Room, write: Write) -> str:
    """Ask for a summary and return the one from `write`. Raises as `ask` does, and if `text` is not text."""
    check_text(text, "summarized")
    chosen = Prompts.given(prompts).summarize
    return read(ask(text, prompts=chosen, room=room).continued(write), sentences=chosen.sentences)


def prompt(text: str, *, form: str, hint: str) -> str:
    """The article and the hint."""
    before, _, after = form.partition("{text}")
    return f"{before.replace('{hint}', hint)}{text}{after.replace('{hint}', hint)}"


def ask(text: str, *, prompts: SummarizePrompts, room: Room) -> Asked:
    """Make the prompt for a summary of `text`. If the article does not fit, its beginning is kept.

    Raises:
        GenerationError: there is no text.
        ContextError: not even the hint and one word fit the context.
    """
    text = text.strip()
    if not text:
        raise GenerationError("There is nothing to summarize: the text is empty. Give an article.")
    asked, kept, of = fit_text(
        lambda part: prompt(part, form=prompts.form, hint=prompts.hint),
        text,
        room.prompt_tokens(prompts.max_tokens),
        room,
    )
    left_out = f"only the first {kept:,} of the article's {of:,} words fit the context; the rest is left out"
    return Asked(
        prompt=asked,
        sampling=Sampling(top_k=prompts.top_k, max_tokens=prompts.max_tokens),
        left_out=left_out if kept < of else "",
    )


def read(continuation: str, *, sentences: int = 3) -> str:
    """The summary: the first sentences, three in the paper."""
    return first_sentences(continuation, sentences)
