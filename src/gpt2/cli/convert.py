"""`gpt2 convert`: a model in another format or precision."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import Option, Sectioned, output_options
from gpt2.errors import CheckpointError
from gpt2.files import read_bounded

if TYPE_CHECKING:
    from gpt2.checkpoint import Checkpoint

_CARD_LIMIT_BYTES = 4 << 20

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", "format", type=click.Choice(["hf"]), required=True, help="The format: hf is Hugging Face's.")
@click.option(
    "--weights",
    cls=Option,
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    help="Their precision. int8 is this package's own compact form.  [default: as in SRC; fp32 for int8]",
)
@click.option("--overwrite", is_flag=True, help="Replace the model folder that is at DST.")
@output_options
def convert(
    *, source: str, destination: Path, format: str, weights: str | None, overwrite: bool, as_json: bool
) -> None:
    """Rewrite the model SRC (a name, folder or file) as the folder DST, and say what changed."""
    from gpt2 import checkpoint, hub

    path = hub.locate(source)
    folder = path if path.is_dir() else path.parent
    if destination.exists() and destination.resolve() == folder.resolve():
        raise CheckpointError(f"{source} cannot be converted onto itself: {destination} is its own folder.")
    found = checkpoint.read(path)
    before = found.weights.form
    after = weights or ("fp32" if before == "int8" else before)
    checkpoint.write_folder(
        destination,
        found.weights,
        found.config,
        found.tokenizer(),
        form=after,
        card=_card(folder),
        overwrite=overwrite,
    )
    changes = [*found.notes, *_precision_change(found, after)]
    size = sum(file.stat().st_size for file in destination.iterdir())
    for change in changes:
        log.info("changed: %s", change)
    log.info("wrote %s: %s parameters, %s, %.1f MB", destination, f"{found.config.parameters:,}", after, size / 1e6)
    if after == "int8":
        log.info("only this package reads the int8 form; `gpt2 convert --to hf --weights fp16` makes it ordinary again")
    if as_json:
        facts = {"destination": str(destination), "format": format, "weights": after}
        output.write_json({**facts, "parameters": found.config.parameters, "bytes": size, "changes": changes})


def _precision_change(found: "Checkpoint", after: str) -> list[str]:
    before = found.weights.form
    if before == after:
        return []
    exact = after == "fp32" and before != "int8"
    kept = "no value changed" if exact else "every value rounded" if after != "fp32" else "the rounding of int8 stays"
    return [f"precision from {before} to {after}: {kept}"]


def _card(folder: Path) -> str | None:
    """The model's card goes with it."""
    card = folder / "README.md"
    return read_bounded(card, _CARD_LIMIT_BYTES).decode("utf-8", errors="replace") if card.is_file() else None
