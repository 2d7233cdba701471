"""Writing a model in any writable format.

Such a format's module has `FORMS`, the precisions it can hold, and `fill`, which puts its files into a folder, or
`write`, if it is one file.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.checkpoint import gguf, llmc, nanogpt, onnx, openai
from gpt2.checkpoint.card import CARD, plain_card
from gpt2.checkpoint.folder import check_goal, fill_folder
from gpt2.checkpoint.forms import FORMS
from gpt2.checkpoint.unfinished import Journal, array_file, journal_of, unfinished
from gpt2.checkpoint.weights import Weights
from gpt2.config import truth_of
from gpt2.errors import CheckpointError
from gpt2.files import atomic_folder, make_folder, path_of, true_place, write_text

if TYPE_CHECKING:
    from gpt2.tokenizer import Tokenizer

# The forms of each format; if the source's form is not among them, the first is taken.
FORMS_OF = {
    "hf": FORMS,
    "openai": openai.FORMS,
    "nanogpt": nanogpt.FORMS,
    "llmc": llmc.FORMS,
    "gguf": gguf.FORMS,
    "onnx": onnx.FORMS,
}
_FOLDERS = {"openai": openai, "nanogpt": nanogpt, "llmc": llmc, "onnx": onnx}
_LAYOUT = 1  # raise it whenever any format's bytes change: unfinished work of older versions then begins again


def write(
    goal: str | os.PathLike[str],
    weights: Weights,
    tokenizer: "Tokenizer | None",
    *,
    format: str,
    form: str,
    card: str | None = None,
    overwrite: bool = False,
    sources: Sequence[Path] = (),
    resumed: Callable[[int], None] = lambda count: None,
) -> None:
    """Write a model in a format: a folder, or for GGUF a file, which gets its name only when complete.

    Args:
        goal: the folder or file; parents are made.
        weights: its arrays and configuration.
        tokenizer: its vocabulary; None writes none, which fits a model of the published vocabulary.
        format: hf, openai, nanogpt, llmc, gguf or onnx.
        form: one of the format's `FORMS_OF`.
        card: the text of its model card, README.md; a file has none.
        overwrite: replace an existing model; nothing else is ever replaced.
        sources: every file that the arrays come from. If given, an interruption leaves its work in `.unfinished-GOAL`
            beside the goal, and the same call resumes it, unless a source has changed since.
        resumed: called with the number of bytes that an interrupted call had already written, if any.

    Raises:
        CheckpointError: there is no such format or form, the goal exists, or it cannot be written; what was there
            before stays.
        MismatchError: the model does not fit the format or form.
        FolderInUseError: another process is writing the same goal.
    """
    goal = path_of(goal, "What a model is written to", CheckpointError)
    overwrite = truth_of("overwrite", overwrite, CheckpointError)
    check_form(format, form)
    check = partial(_check_file if format == "gguf" else check_goal, goal, overwrite=overwrite)
    try:
        check()
        if sources:
            what = {
                "layout": _LAYOUT,
                "format": format,
                "form": form,
                "config": asdict(weights.config),
                "vocabulary": tokenizer.hash if tokenizer else None,
                "card": hashlib.sha256((card or "").encode()).hexdigest(),
                "sources": [_facts(file) for file in sources],
            }
            with unfinished(goal, what, is_file=format == "gguf") as journal:
                check()  # another process may have finished it meanwhile
                if journal.resumed_bytes:
                    resumed(journal.resumed_bytes)
                place = journal.folder / goal.name if format == "gguf" else journal.folder
                _fill(place, weights, tokenizer, format, form, card, journal)
        elif format == "gguf":
            make_folder(true_place(goal).parent)
            _fill(goal, weights, tokenizer, format, form, card, None)
        else:
            with atomic_folder(goal) as partial_folder:
                _fill(partial_folder, weights, tokenizer, format, form, card, None)
    except OSError as error:
        kept = ""
        if sources and (journal := journal_of(goal)).is_file():
            kept = f" What is written is kept in {journal.parent.name} beside it: the same command goes on."
        raise CheckpointError(
            f"{goal} cannot be written: {error.strerror or error}. What was there before is as it was.{kept}"
        ) from error


def check_form(format: str, form: str) -> None:
    """Refuse an unknown format or form.

    Raises:
        CheckpointError: there is no such format, or it has no such form.
    """
    if not (isinstance(format, str) and isinstance(form, str) and form in FORMS_OF.get(format, ())):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls
        known = "; ".join(f"{name} in {', '.join(forms)}" for name, forms in FORMS_OF.items())
        raise CheckpointError(f"A model cannot be written as {format!r} in {form!r}. Known: {known}.")


def _fill(
    place: Path,
    weights: Weights,
    tokenizer: "Tokenizer | None",
    format: str,
    form: str,
    card: str | None,
    journal: Journal | None,
) -> None:
    """Write the files of a model into an existing folder, or the one file."""
    if format == "gguf":
        with array_file(place, journal) as out:
            gguf.write(out, weights, tokenizer, form=form)
        return
    if format == "hf":
        fill_folder(place, weights, weights.config, tokenizer, form=form, journal=journal)
        card = plain_card(weights.config) if card is None else card
    else:
        _FOLDERS[format].fill(place, weights, tokenizer, form=form, journal=journal)
    if card is not None:
        write_text(place / CARD, card)


def _facts(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def _check_file(goal: Path, *, overwrite: bool) -> None:
    if goal.is_dir():
        raise CheckpointError(f"{goal} is a folder, and GGUF is one file: name the file, as in {goal / 'model.gguf'}.")
    if goal.exists() and not overwrite:
        raise CheckpointError(
            f"{goal} is there already. Choose another name, or overwrite it (--overwrite, overwrite=True)."
        )
    if goal.exists() and not gguf.matches(goal):
        raise CheckpointError(f"{goal} is not overwritten: it is no GGUF file. Choose another name.")
