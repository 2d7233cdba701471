"""`gpt2 detect --calibrate` and `--train`: make a calibration from human texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.cli import output
from gpt2.cli.status_line import StatusLine
from gpt2.files import check_goal

if TYPE_CHECKING:
    from gpt2.detect import Calibration
    from gpt2.language_model import LanguageModel


def make(model: "LanguageModel", folder: Path, out: Path, *, limit: int, samples: int, trained: bool) -> None:
    """Make and write a calibration from the texts of a folder; a table shows what it can detect.

    Args:
        model: reads them, and writes its own texts.
        folder: a folder or file of human texts.
        out: the file to write.
        limit: use the first so many texts.
        samples: texts that the model writes for comparison.
        trained: train a detector; then the model writes one text for each human one.
    """
    check_goal(out)
    texts = _texts(folder, limit)
    with StatusLine() as line:
        made = model.calibrate(
            texts,
            source=folder.name,
            samples=samples,
            trained=trained,
            progress=lambda done, of: line.show(lambda: f"{done:,} {of}"),
        )
    made.write(out)
    output.write(output.table(table_of(made), right=range(2 + len(made.generated))) + "\n")


def table_of(made: "Calibration") -> list[tuple[str, ...]]:
    """By length, how many human texts there are and which share of the model's own is told at 1 %, by setting."""
    rows: list[tuple[str, ...]] = [("tokens", "human texts", *(f"detected: {setting}" for setting in made.generated))]
    for n, human in made.human.items():
        rows.append((f"{n}", f"{len(human):,}", *(f"{made.power(each, n, 0.01):.0%}" for each in made.generated)))
    return rows


def _texts(folder: Path, limit: int) -> Iterator[str]:
    from gpt2.data import find_sources, read_documents

    documents = (document for source in find_sources([folder]) for document in read_documents(source))
    for _, document in zip(range(limit), documents, strict=False):
        yield document.text
