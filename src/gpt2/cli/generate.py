"""`gpt2 generate`: continue a text, a file of texts, or whatever is typed."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gpt2.cli import output, reading
from gpt2.cli.beams import Search, beam_options, write_likeliest
from gpt2.cli.continuations import Writer
from gpt2.cli.options import (
    ModelChoice,
    Sectioned,
    draft_option,
    model_options,
    output_options,
    sampling_options,
    watermark_option,
    wrong_usage,
)
from gpt2.errors import GenerationError

if TYPE_CHECKING:
    from gpt2.generation import Noise
    from gpt2.generation.settings import Sampling

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("prompt", required=False)
@click.option("--interactive", is_flag=True, help="Continue what you type, line by line; type :help for more.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Continue each line of a file, or each {"prompt": …} of a .jsonl file, in order.',
)
@watermark_option
@reading.errors_option
@sampling_options(temperature=0.8, top_k=40)
@beam_options
@draft_option
@model_options
@output_options
def generate(
    *,
    prompt: str | None,
    interactive: bool,
    file: Path | None,
    watermark: "Noise | None",
    errors: Literal["strict", "replace"],
    sampling: "Sampling",
    search: Search | None,
    draft: str,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Continue PROMPT.

    Without PROMPT, or with -, continue standard input. The continuation goes to standard output, everything else to
    standard error. Several continuations are separated by a line of ---.

    \b
        gpt2 generate "Once upon a time" --seed 1
        gpt2 generate --interactive --temperature 0.7
        gpt2 generate --file prompts.jsonl --json > continuations.jsonl
    """
    from gpt2.generation.prompts import check_logprobs

    if (prompt is not None) + interactive + (file is not None) > 1:
        raise click.UsageError("PROMPT, --file and --interactive exclude each other: give one.")
    if sampling.prompt_logprobs is not None and not as_json:
        raise click.UsageError("--prompt-logprobs needs --json. `gpt2 score` shows them as a table.")
    if watermark is not None and not watermark.tilts and (sampling.is_greedy or sampling.top_k == 1):
        raise click.UsageError("--watermark marks what is drawn, and greedy text is not: give a --temperature above 0.")
    if slashed := [stop for stop in sampling.stop if r"\n" in stop]:
        log.warning(r"--stop '%s' looks for a backslash; a line end is $'\n' in most shells", slashed[0])
    repeatable = sampling.seed is not None or sampling.is_greedy or interactive
    was_piped = prompt in (None, "-") and file is None and not interactive
    sampling = sampling.changed()  # draws a seed, to report at the end
    if file is None and not interactive:
        reading.tell_of_file(prompt, "gpt2 generate - < {} continues it, and --file each of its lines")
        prompt = reading.read_text(prompt, errors=errors)
        if not prompt:
            log.info("no prompt: starting from the end-of-text token")
    with choice.load() as model:
        with wrong_usage(GenerationError):
            check_logprobs(sampling, model.config)
        if prompt and not as_json and output.is_terminal(sys.stdout):
            output.echo_prompt(prompt)
        if search is not None:
            prompts = [prompt or ""] if file is None else reading.read_prompts(file, errors=errors)
            write_likeliest(model, prompts, sampling, search, as_json=as_json, numbered=file is not None)
            return
        if watermark is not None:
            model.noise = watermark
        writer = Writer(model, as_json=as_json, draft=draft)
        try:
            if interactive:
                from gpt2.cli.interactive import converse

                converse(writer, sampling, errors=errors)
            elif file is not None:
                writer.many(reading.read_prompts(file, errors=errors), sampling)
            else:
                writer.one(prompt or "", sampling)
        finally:
            writer.summarise(seed=None if repeatable else sampling.seed, was_piped=was_piped and bool(prompt))
