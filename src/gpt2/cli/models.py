"""`gpt2 models`: what is on this machine."""

import dataclasses
import logging
import sys

import click

from gpt2.cli import output
from gpt2.cli.options import Sectioned, output_options
from gpt2.config import PUBLISHED

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@output_options
def models(*, as_json: bool) -> None:
    """List the models on this machine: name, parameters, size and place.

    Each is used by its name, as in `gpt2 generate --model NAME`.
    """
    from gpt2 import hub

    found = hub.local_models()
    if as_json:
        output.write_json([{**dataclasses.asdict(model), "path": str(model.path)} for model in found], indent=2)
        return
    if found:
        heading = ("NAME", "PARAMETERS", "MB", "FROM", "PATH")
        rows = [
            (
                model.name,
                "?" if model.parameters is None else f"{model.parameters:,}",
                f"{model.bytes / 1e6:,.1f}",
                model.origin,
                str(model.path),
            )
            for model in found
        ]
        sys.stdout.write(output.table([heading, *rows], right=(1, 2)) + "\n")
    absent = [name for name in PUBLISHED if not {name, f"{hub.PUBLISHER}/{name}"} & {model.name for model in found}]
    if absent:
        log.info("published, and not here: %s", ", ".join(absent))
