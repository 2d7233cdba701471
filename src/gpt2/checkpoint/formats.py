"""Opening a model in whichever format it is, and writing it in another.

A format is a module with `matches(path) -> bool`, which only looks, and `read(path) -> Checkpoint`. To add one, write
the module and name it in `FORMATS`; the first that matches reads. One that can be written has `FORMS`, the precisions
it can hold, and `fill`, which puts its files into a folder, or `write`, if it is one file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.checkpoint import gguf, huggingface, llmc, openai
from gpt2.checkpoint.checkpoint import Checkpoint
from gpt2.checkpoint.folder import check_goal, write_folder
from gpt2.checkpoint.forms import FORMS
from gpt2.checkpoint.weights import Weights
from gpt2.errors import CheckpointError, FormatError
from gpt2.files import atomic_file, atomic_folder, write_text

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

FORMATS = (huggingface, openai, llmc, gguf)

# What each format can be written in; where the precision of the source is not among them, the first is taken.
FORMS_OF = {"hf": FORMS, "openai": openai.FORMS, "llmc": llmc.FORMS, "gguf": gguf.FORMS}

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read(path: str | Path) -> Checkpoint:
    """Open the model in a folder or file; its arrays stay in the file until they are used.

    Raises:
        FormatError: no format that is read here, or a damaged, truncated or hostile file of one.
        MismatchError: sound files that are not a GPT-2.
        CheckpointError: the files cannot be opened.
    """
    path = Path(path)
    try:
        for format in FORMATS:
            if format.matches(path):
                return format.read(path)
        raise _no_format(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def write(
    goal: Path,
    weights: Weights,
    tokenizer: "Tokenizer | None",
    *,
    format: str,
    form: str,
    card: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model in a format: a folder, or for GGUF a file, that takes its name only when complete.

    Args:
        goal: the folder or file; parents are made.
        weights: its arrays and configuration.
        tokenizer: its vocabulary; None writes none, which fits a model of the published vocabulary.
        format: hf, openai, llmc or gguf.
        form: one of the format's `FORMS_OF`.
        card: the text of its model card, README.md; a file has none.
        overwrite: replace a model that is there; nothing else is ever replaced.

    Raises:
        CheckpointError: there is no such format or form, the goal is there already, or it cannot be written; what was
            there before stays.
        MismatchError: the model does not fit the format or form.
    """
    if form not in FORMS_OF.get(format, ()):
        known = "; ".join(f"{name} in {', '.join(forms)}" for name, forms in FORMS_OF.items())
        raise CheckpointError(f"A model cannot be written as {format!r} in {form!r}. Known: {known}.")
    if format == "hf":
        write_folder(goal, weights, weights.config, tokenizer, form=form, card=card, overwrite=overwrite)
        return
    try:
        if format == "gguf":
            _check_file(goal, overwrite=overwrite)
            with atomic_file(goal) as file:
                gguf.write(file, weights, tokenizer, form=form)
            return
        check_goal(goal, overwrite=overwrite)
        with atomic_folder(goal) as partial:
            (openai if format == "openai" else llmc).fill(partial, weights, tokenizer, form=form)
            if card is not None:
                write_text(partial / "README.md", card)
    except OSError as error:
        raise CheckpointError(
            f"{goal} cannot be written: {error.strerror or error}. What was there before is as it was."
        ) from error


def _check_file(goal: Path, *, overwrite: bool) -> None:
    if goal.is_dir():
        raise CheckpointError(f"{goal} is a folder, and GGUF is one file: name the file, as in {goal / 'model.gguf'}.")
    if goal.exists() and not overwrite:
        raise CheckpointError(f"{goal} is there already. Choose another name, or ask to overwrite it.")
    if goal.exists() and not gguf.matches(goal):
        raise CheckpointError(f"{goal} is not overwritten: it is no GGUF file. Choose another name.")


def _no_format(path: Path) -> CheckpointError:
    if not path.exists():
        return CheckpointError(f"{path} cannot be read: there is nothing there.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if pickles := [file.name for file in files if file.suffix in _PICKLES]:
        return FormatError(
            f"{path} cannot be read: {pickles[0]} is a pickle, and opening a pickle can run any program hidden in it. "
            f"Take the same model as safetensors, or write it so where you trust it: "
            f"transformers' save_pretrained does."
        )
    return FormatError(
        f"{path} cannot be read: it is no model in a format known here. Known are a Hugging Face folder (config.json "
        f"with model.safetensors), OpenAI's (hparams.json with checkpoint), llm.c's .bin and .gguf files."
    )
