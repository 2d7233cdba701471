"""`gpt2 models`: what is on this machine."""

import contextlib
import dataclasses
import logging
import os
import sys
import time
from pathlib import Path

import click

from gpt2.cli import output
from gpt2.cli.options import Sectioned, option, output_options
from gpt2.config import PUBLISHED
from gpt2.errors import Gpt2Error

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@option("--remove", metavar="NAME", help="Delete this model and its unfinished downloads from the caches.")
@option("--yes", is_flag=True, help="Do not ask before deleting.")
@output_options
def models(*, remove: str | None, yes: bool, as_json: bool) -> None:
    """List the models on this machine: name, parameters, size, precision, last use and path.

    Use a model by its name: `gpt2 generate --model NAME`.
    """
    from gpt2 import hub

    if remove is not None:
        _remove(remove, yes=yes, as_json=as_json)
        return
    found = hub.local_models()
    if as_json:
        facts = ({**dataclasses.asdict(model), "path": str(model.path), "form": _form(model.path)} for model in found)
        output.write_json(list(facts), indent=2)
        return
    if found:
        heading = ("NAME", "PARAMETERS", "MB", "FORM", "LAST READ", "FROM", "PATH")
        rows = [
            (
                model.name,
                "?" if model.parameters is None else f"{model.parameters:,}",
                f"{model.bytes / 1e6:,.1f}",
                _form(model.path),
                time.strftime("%Y-%m-%d", time.localtime(model.used)),
                model.origin,
                str(model.path),
            )
            for model in found
        ]
        output.write(output.table([heading, *rows], right=(1, 2)) + "\n")
    absent = [name for name in PUBLISHED if not {name, f"{hub.PUBLISHER}/{name}"} & {model.name for model in found}]
    if absent:
        log.info("published, but not here: %s; `gpt2 download NAME` downloads one", ", ".join(absent))


def _form(path: Path) -> str:
    """The precision of a model's weights, found cheaply and without changing the files' access time."""
    from gpt2 import checkpoint

    if not (path / "config.json").is_file():
        return "fp32"  # OpenAI's; opening it would read all of it, for its checksums
    times = {file: file.stat() for file in path.iterdir() if file.is_file()}
    try:
        return checkpoint.read(path).weights.form
    except Gpt2Error as error:
        log.debug("%s", error)
        return "unreadable"
    finally:
        with contextlib.suppress(OSError):  # another user's file
            for file, before in times.items():
                os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _remove(name: str, *, yes: bool, as_json: bool) -> None:
    from gpt2 import hub
    from gpt2.backends import packed

    folders = hub.removable(name)
    if folders and not yes:
        if not output.is_terminal(sys.stdin):
            raise click.UsageError(f"nobody is there to be asked: give --yes to delete {', '.join(map(str, folders))}.")
        click.confirm(f"Delete {', '.join(map(str, folders))}?", abort=True, err=True)
    freed = hub.remove(name) + packed.drop_orphans()
    if as_json:
        output.write_json({"name": name, "removed": [str(folder) for folder in folders], "freed_bytes": freed})
    log.info("removed %s and freed %s MB", name, f"{freed / 1e6:,.1f}")
