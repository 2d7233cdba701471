"""`gpt2 convert`: a model in another format or precision."""

import logging
from pathlib import Path

import click

from gpt2.cli import output
from gpt2.cli.options import Option, Place, Sectioned, output_options, wrong_usage
from gpt2.cli.stopping import resumable
from gpt2.errors import CheckpointError

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST", type=Place())
@click.option(
    "--to",
    "format",
    type=click.Choice(["hf", "openai", "nanogpt", "llmc", "gguf", "onnx"]),
    required=True,
    help="Format: Hugging Face's, OpenAI's of 2019 (TensorFlow), nanoGPT's, llm.c's, llama.cpp's, or ONNX.",
)
@click.option(
    "--weights",
    cls=Option,
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "int4", "q8_0", "q4_0"]),
    help="Precision of the weights. int8 and int4 are this package's own compact forms, q8_0 and q4_0 are GGUF's.  "
    "[default: as in SRC if the format has it, else fp32]",
)
@click.option("--overwrite", is_flag=True, help="Replace the model at DST.")
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read SRC even if it is a torch.save file (nanoGPT, minGPT, Megatron, pytorch_model.bin). Nothing in it is "
    "run.",
)
@click.option(
    "--tanh-gelu",
    is_flag=True,
    help="Treat SRC as a GPT-2 even if its own code computes exact GELU (nanoGPT); its logits differ a little here.",
)
@output_options
def convert(
    *,
    source: str,
    destination: Path,
    format: str,
    weights: str | None,
    overwrite: bool,
    allow_pickle: bool,
    tanh_gelu: bool,
    as_json: bool,
) -> None:
    """Convert the model SRC (a name, folder or file) to DST, and say what changed.

    DST is a folder; for gguf, a file. It appears only when complete. If interrupted, the same command resumes.
    """
    from gpt2 import checkpoint, hub
    from gpt2.checkpoint.changes import describe_changes
    from gpt2.checkpoint.unfinished import journal_of
    from gpt2.checkpoint.writing import check_form

    if weights is not None:
        with wrong_usage(CheckpointError):
            check_form(format, weights)
    path = hub.locate(source)
    folder = path if path.is_dir() else path.parent
    if destination.exists() and destination.resolve() in (folder.resolve(), path.resolve()):
        raise CheckpointError(f"{source} cannot be converted onto itself: {destination} is where it lies.")
    found = checkpoint.read(path, allow_pickle=allow_pickle, tanh_gelu=tanh_gelu)
    before = found.weights.form
    is_ours = format == "hf" and before in checkpoint.COMPACT  # only we read it, so it must be asked for
    after = weights or (before if before in checkpoint.FORMS_OF[format] and not is_ours else "fp32")
    sign = journal_of(destination)
    with resumable(f"What is written is kept in {sign.parent.name}", sign=sign):
        checkpoint.write(
            destination,
            found.weights,
            found.tokenizer(),
            format=format,
            form=after,
            card=found.card(),
            overwrite=overwrite,
            sources=found.sources,
            resumed=lambda count: log.info("resuming: %.1f MB are already written", count / 1e6),
        )
    changes = describe_changes(found, format=format, form=after)
    files = [destination] if destination.is_file() else destination.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    for change in changes:
        log.info("changed: %s", change)
    log.info("wrote %s: %s parameters, %s, %.1f MB", destination, f"{found.config.parameters:,}", after, size / 1e6)
    if format == "hf" and after in checkpoint.COMPACT:
        log.info("only this package reads the %s form; `gpt2 convert --to hf --weights fp16` converts it back", after)
    if as_json:
        facts = {"destination": str(destination), "format": format, "weights": after}
        output.write_json({**facts, "parameters": found.config.parameters, "bytes": size, "changes": changes})
