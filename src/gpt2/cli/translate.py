"""`gpt2 translate`: a sentence in another language, as the paper asked for it."""

from pathlib import Path

import click

from gpt2.cli import asking, reading
from gpt2.cli.options import ModelChoice, Sectioned, draft_option, model_options, option, output_options, wrong_usage
from gpt2.errors import GenerationError


@click.command(cls=Sectioned)
@click.argument("text", required=False)
@option("--from", "source", default="french", show_default=True, metavar="LANGUAGE", help="Language of TEXT.")
@option("--to", "target", default="english", show_default=True, metavar="LANGUAGE", help="Language to translate to.")
@asking.prompt_options
@reading.errors_option
@draft_option
@model_options
@output_options
def translate(
    *,
    text: str | None,
    source: str,
    target: str,
    prompts: Path | None,
    show_prompt: bool,
    errors: str,
    draft: str,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Translate a sentence: TEXT, or standard input without TEXT or with -.

    The prompt is a few sentences in both languages, then yours. The model continues it greedily, and its first
    sentence is the translation. Expect little of a small model: the paper's largest reached 11.5 BLEU from French.
    """
    from gpt2.tasks import translate

    reading.tell_of_file(text, "gpt2 translate - < {} translates it")
    given = reading.read_text(text, errors=errors) or ""
    chosen = asking.chosen_prompts(prompts).translate
    with wrong_usage(GenerationError):
        translate.check_languages(source, target, chosen)
    asking.put(
        choice,
        lambda model: translate.ask(given, source=source, target=target, prompts=chosen, room=model.room),
        translate.read,
        show_prompt=show_prompt,
        as_json=as_json,
        draft=draft,
    )
