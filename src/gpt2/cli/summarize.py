"""`gpt2 summarize`: a few sentences on an article, as the paper asked for them."""

from pathlib import Path

import click

from gpt2.cli import asking, reading
from gpt2.cli.options import ModelChoice, Sectioned, draft_option, model_options, option, output_options, seed_option


@click.command(cls=Sectioned)
@click.argument("text", required=False)
@option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The article is in this file.")
@seed_option
@asking.prompt_options
@reading.errors_option
@draft_option
@model_options
@output_options
def summarize(
    *,
    text: str | None,
    file: Path | None,
    seed: int | None,
    prompts: Path | None,
    show_prompt: bool,
    errors: str,
    draft: str,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Summarize TEXT, an article; without it, or with -, standard input.

    The model is given the article and `TL;DR:`, and writes 100 tokens with top-k 2, of which the first three
    sentences are kept. Of an article beyond the context the beginning is read, and a warning says so.
    """
    if text is not None and file is not None:
        raise click.UsageError("TEXT and --file exclude each other: give one.")
    reading.tell_of_file(text, "--file {} summarizes it")
    from gpt2.tasks import summarize

    given = reading.read_text(text, errors=errors) if file is None else reading.read_file(file, errors=errors)
    chosen = asking.chosen_prompts(prompts).summarize
    asking.put(
        choice,
        lambda model: summarize.ask(given or "", prompts=chosen, room=model.room),
        lambda continuation: summarize.read(continuation, sentences=chosen.sentences),
        show_prompt=show_prompt,
        as_json=as_json,
        draft=draft,
        seed=seed,
    )
