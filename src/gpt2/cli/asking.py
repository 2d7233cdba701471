"""What the verbs of the zero-shot tasks share: the prompts file, showing a prompt, and writing the answer."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import ModelChoice, Verb, option

if TYPE_CHECKING:
    from gpt2.language_model import LanguageModel
    from gpt2.tasks import Asked, Prompts

log = logging.getLogger("gpt2")


def prompt_options(verb: Verb) -> Verb:
    """Add --prompts (as `prompts: Path | None`) and --show-prompt (as `show_prompt`)."""
    prompts = option(
        "--prompts",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TOML file of prompts that override the package's.",
    )
    show = option("--show-prompt", is_flag=True, help="Print the prompt and exit, without running the model.")
    return prompts(show(verb))


def chosen_prompts(file: Path | None) -> "Prompts":
    """The prompts of a file, or the package's."""
    from gpt2.tasks import Prompts

    return Prompts.ours() if file is None else Prompts.read(file)


def put(
    choice: ModelChoice,
    ask: "Callable[[LanguageModel], Asked]",
    read: Callable[[str], str],
    *,
    show_prompt: bool,
    as_json: bool,
    draft: str,
    seed: int | None = None,
) -> None:
    """Make the prompt for the chosen model; write the prompt, or the model's answer to it."""
    with choice.load() as model:
        asked = ask(model)
        if asked.left_out:
            log.warning("%s", asked.left_out)
        if show_prompt:
            if as_json:
                output.write_json({"prompt": asked.prompt, "left_out": asked.left_out})
            else:
                output.write(asked.prompt, end="\n")
            return
        completion = model.generate(asked.prompt, dataclasses.replace(asked.sampling, seed=seed), draft=draft)
    answer = read(completion.text)
    if not answer:
        log.warning("the model wrote nothing that could be an answer")
    if as_json:
        output.write_json(
            {
                "answer": answer,
                "prompt": asked.prompt,
                "left_out": asked.left_out,
                "continuation": completion.text,
                "seed": None if asked.sampling.is_greedy else completion.seed,
            }
        )
        return
    output.write(answer, end="\n")
    if seed is None and not asked.sampling.is_greedy:
        log.info("seed %d", completion.seed)
