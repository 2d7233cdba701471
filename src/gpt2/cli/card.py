"""`gpt2 card`: a model's card, from what is known of it."""

import dataclasses
import logging
from pathlib import Path

import click

from gpt2 import files
from gpt2.cli import output
from gpt2.cli.options import Name, Place, Sectioned, option, output_options
from gpt2.errors import CheckpointError, DataError

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

log = logging.getLogger("gpt2")


@click.command(cls=Sectioned)
@click.argument("model", metavar="MODEL")
@option("--run", type=_FOLDER, multiple=True,
        help="Run of `gpt2 train` or `finetune` that made MODEL. Repeatable, earliest first.  "
        "[default: MODEL/run, if it exists]")  # fmt: skip
@option("--corpus", type=_FOLDER, help="Its training data: a folder of `gpt2 corpus build` or `prepare`.")
@option("--evaluation", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.json",
        help="Its results from `gpt2 evaluate --out`.")  # fmt: skip
@option("--training", type=click.Path(exists=True, path_type=Path), multiple=True, metavar="PATH",
        help="Its training text, to report sources, what it repeats, groups of people. Repeatable.")  # fmt: skip
@option("--repeat-samples", type=click.IntRange(20), default=1000, show_default=True, metavar="N",
        help="Samples to look up in --training.")  # fmt: skip
@option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N",
        help="Processes that read --training.")  # fmt: skip
@option("--notes", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.md",
        help="Section in your own words, first in the card.")  # fmt: skip
@option("--licence", type=Name(), metavar="ID", help="Licence of the weights, such as mit.")
@option("--language", type=Name(), metavar="CODE", help="Language of its text, such as en.")
@option("--samples", type=click.IntRange(0, 8), default=3, show_default=True, metavar="N",
        help="Continue the first N of the card's fixed prompts.")  # fmt: skip
@option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads for the samples.")
@option("--out", type=Place(dir_okay=False), metavar="FILE", help="Write the card to this file.")
@option("--write", is_flag=True, help="Write it to the model's folder, as README.md.")
@option("--overwrite", is_flag=True, help="Replace an existing card or file.")
@output_options
def card(
    *,
    model: str,
    run: tuple[Path, ...],
    corpus: Path | None,
    evaluation: Path | None,
    training: tuple[Path, ...],
    repeat_samples: int,
    workers: int,
    notes: Path | None,
    licence: str | None,
    language: str | None,
    samples: int,
    threads: int | None,
    out: Path | None,
    write: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write MODEL's card, a Hugging Face README.md, from recorded facts alone.

    \b
        gpt2 card my-model --run my-model/run --evaluation results.json --write --overwrite
    """
    from gpt2 import checkpoint, hub
    from gpt2.cli import card_facts as known
    from gpt2.report.card import card as card_of

    if out is not None and write:
        raise click.UsageError("--out and --write exclude each other: give one.")
    found = checkpoint.read(hub.locate(model))
    goal = found.folder / "README.md" if write else out
    overwrite = overwrite or (goal is not None and files.is_stream(goal))  # writing to a device replaces nothing
    if goal is not None and (goal.exists() or goal.is_symlink()) and not overwrite:
        raise _is_there(goal)
    if goal is not None:
        files.check_goal(goal)
    notes_of_maker = "" if notes is None else _read_notes(notes)
    if training:  # checked before drawing samples, which takes minutes
        from gpt2.data.documents import find_sources, read_documents

        sources = find_sources(training)
        if not any(document.text.strip() for source in sources for document in read_documents(source)):
            raise DataError(
                f"The card cannot tell of the training text: there is none in {', '.join(map(str, training))}."
            )
    described = known.described(model, found)
    beside = found.folder / "run"  # where `gpt2 finetune` leaves it
    if not run and (beside / "config.toml").is_file():
        try:
            described = known.with_records(described, found, runs=[beside], corpus=None, evaluation=None)
        except DataError as error:  # not this model's run; the user did not name it
            log.warning("%s is left out: %s", beside, error)
    described = known.with_records(described, found, runs=run, corpus=corpus, evaluation=evaluation)
    if samples:
        described = known.with_samples(described, model, samples, threads=threads)
    if training:
        from gpt2.cli.card_training import with_training

        described = with_training(described, model, training, samples=repeat_samples, workers=workers, threads=threads)
    described = dataclasses.replace(
        described,
        licence=licence,
        language=language,
        notes_of_maker=notes_of_maker,
    )
    text = card_of(described)
    if goal is not None:
        _write(goal, text, overwrite=overwrite)
        log.info("wrote %s", goal)
    if as_json:
        output.write_json({"card": text, "path": None if goal is None else str(goal)})
    elif goal is None:
        output.write(text)


def _write(goal: Path, text: str, *, overwrite: bool) -> None:
    if overwrite:
        files.write_text(goal, text)
        return
    files.make_folder(goal.parent)
    try:
        goal.touch(exist_ok=False)  # of two processes only one gets the name
    except FileExistsError:
        raise _is_there(goal) from None
    try:
        files.write_text(goal, text)
    except BaseException:
        goal.unlink(missing_ok=True)
        raise


def _is_there(goal: Path) -> CheckpointError:
    return CheckpointError(f"The card cannot be written: {goal} is there already. Give --overwrite to replace it.")


def _read_notes(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as UTF-8: byte 0x{data[error.start]:02x}. Save it as UTF-8.") from None
