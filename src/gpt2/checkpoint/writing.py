"""Writing a model in any format that can be written.

Such a format's module has `FORMS`, the precisions it can hold, and `fill`, which puts its files into a folder, or
`write`, if it is one file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.checkpoint import gguf, llmc, nanogpt, openai
from gpt2.checkpoint.card import CARD
from gpt2.checkpoint.folder import check_goal, write_folder
from gpt2.checkpoint.forms import FORMS
from gpt2.checkpoint.weights import Weights
from gpt2.errors import CheckpointError
from gpt2.files import atomic_file, atomic_folder, write_text

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

# What each format can be written in; where the precision of the source is not among them, the first is taken.
FORMS_OF = {
    "hf": FORMS,
    "openai": openai.FORMS,
    "nanogpt": nanogpt.FORMS,
    "llmc": llmc.FORMS,
    "gguf": gguf.FORMS,
}
_FOLDERS = {"openai": openai, "nanogpt": nanogpt, "llmc": llmc}


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
        format: hf, openai, nanogpt, llmc or gguf.
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
            _FOLDERS[format].fill(partial, weights, tokenizer, form=form)
            if card is not None:
                write_text(partial / CARD, card)
    except OSError as error:
        raise CheckpointError(
            f"{goal} cannot be written: {error.strerror or error}. What was there before is as it was."
        ) from error


def _check_file(goal: Path, *, overwrite: bool) -> None:
    if goal.is_dir():
        raise CheckpointError(f"{goal} is a folder, and GGUF is one file: name the file, as in {goal / 'model.gguf'}.")
    if goal.exists() and not overwrite:
        raise CheckpointError(
            f"{goal} is there already. Choose another name, or overwrite it (--overwrite, overwrite=True)."
        )
    if goal.exists() and not gguf.matches(goal):
        raise CheckpointError(f"{goal} is not overwritten: it is no GGUF file. Choose another name.")
