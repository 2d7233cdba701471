"""`gpt2 summarize`: a few sentences on an article, as the paper asked for them."""

from pathlib import Path

import click

from gpt2.cli import asking, reading
from gpt2.cli.options import ModelChoice, Sectioned, draft_option, model_options, option, output_options, seed_option


@click.command(cls=Sectioned)
@click.argument("text", required=False)
@option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read the article from this file.")
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
    """Summarize an article: TEXT, or standard input without TEXT or with -.

    The model reads the article and `TL;DR:` and writes 100 tokens with top-k 2; the first three sentences are the
    summary. It reads only the beginning of an article longer than the context, and warns you.
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
