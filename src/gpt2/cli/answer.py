"""`gpt2 answer`: a question, with or without a passage, as the paper asked it."""

from pathlib import Path

import click

from gpt2.cli import asking, reading
from gpt2.cli.options import ModelChoice, Sectioned, draft_option, model_options, option, output_options


@click.command(cls=Sectioned)
@click.argument("question", required=False)
@option("--context", metavar="TEXT", help="Passage that the question is about.")
@option(
    "--context-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the passage from this file.",
)
@asking.prompt_options
@reading.errors_option
@draft_option
@model_options
@output_options
def answer(
    *,
    question: str | None,
    context: str | None,
    context_file: Path | None,
    prompts: Path | None,
    show_prompt: bool,
    errors: str,
    draft: str,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Answer QUESTION, or standard input without QUESTION or with -.

    The prompt begins with the passage or, without one, a few answered questions. The model continues it greedily to
    the end of the line. Expect wrong answers: the paper's largest model answered 4.1 % of the questions people ask a
    search engine.
    """
    if context is not None and context_file is not None:
        raise click.UsageError("--context and --context-file exclude each other: give one.")
    from gpt2.tasks import answer

    given = reading.read_text(question, errors=errors) or ""
    passage = context if context_file is None else reading.read_file(context_file, errors=errors)
    chosen = asking.chosen_prompts(prompts).answer
    asking.put(
        choice,
        lambda model: answer.ask(given, prompts=chosen, room=model.room, context=passage),
        answer.read,
        show_prompt=show_prompt,
        as_json=as_json,
        draft=draft,
    )
