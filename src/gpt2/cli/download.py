"""`gpt2 download`: fetch a model, resumable and checked."""

import logging
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import Sectioned, option, output_options

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2.hub import Plan

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("model", metavar="NAME|ORG/NAME")
@option(
    "--from",
    "source",
    type=click.Choice(["huggingface", "openai"]),
    default="huggingface",
    show_default=True,
    help="The hub (or its mirror, HF_ENDPOINT), or OpenAI's own files of 2019.",
)
@option("--allow-pickle", is_flag=True, help="Use pytorch_model.bin if the repository has nothing better.")
@output_options
def download(*, model: str, source: str, allow_pickle: bool, as_json: bool) -> None:
    """Download gpt2, gpt2-medium, gpt2-large, gpt2-xl or any GPT-2 on Hugging Face's hub.

    An interrupted download resumes. The model can be used once the length and hash of every file are checked.
    """
    from gpt2 import hub

    plan = hub.plan(model, source=source, allow_pickle=allow_pickle)
    folder = fetch(plan)
    if as_json:
        files = {file.name: file.bytes for file in plan.files}
        output.write_json({"name": plan.name, "path": str(folder), "from": plan.server, "files": files})


def fetch(plan: "Plan") -> "Path":
    """Carry out a plan; report it before, the progress during, and what to do next after."""
    from gpt2 import checkpoint, hub
    from gpt2.cli.status_line import StatusLine

    log.info(
        "%s from %s: %s, %s of it already here; to %s, with %s free",
        plan.name,
        plan.server,
        _megabytes(plan.total_bytes),
        _megabytes(plan.present_bytes),
        plan.place,
        _megabytes(plan.free_bytes),
    )
    reached = 0
    with StatusLine() as line:

        def show(more: int) -> None:
            nonlocal reached
            reached += more
            share = reached / max(1, plan.total_bytes)
            line.show(lambda: f"{plan.name}: {_megabytes(reached)} of {_megabytes(plan.total_bytes)}, {share:.0%}")

        try:
            folder = hub.download(plan, progress=show)
        except KeyboardInterrupt:
            line.clear()
            log.info("what has arrived is kept: `gpt2 download %s` resumes from there", plan.name)
            raise
    if any(file.name == "pytorch_model.bin" for file in plan.files):
        log.info(
            "%s is here, as a pickle: `gpt2 convert %s DST --to hf --allow-pickle` converts it", plan.name, plan.name
        )
        return folder
    checkpoint.read(folder)
    log.info("%s is here; all lengths and hashes match: `gpt2 generate --model %s`", plan.name, plan.name)
    return folder


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
