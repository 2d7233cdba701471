"""`gpt2 detect --calibrate` and `--train`: human texts in, what to compare with out."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2.cli import output
from gpt2.cli.status_line import StatusLine

if TYPE_CHECKING:
    from gpt2.detect import Calibration
    from gpt2.language_model import LanguageModel


def make(model: "LanguageModel", folder: Path, out: Path, *, limit: int, samples: int | None) -> None:
    """Make a calibration of the texts of a folder and write it; a table says what it can tell.

    Args:
        model: that reads, and writes its own texts.
        folder: or a file of human texts.
        out: the file to write.
        limit: of the texts, the first so many.
        samples: texts that the model writes for comparison; None trains a detector, with one for each human text.
    """
    from gpt2.detect import passages
    from gpt2.detect.training import train_detector

    texts = _texts(folder, limit)
    with StatusLine() as line:

        def tell(done: int, of: str) -> None:
            line.show(lambda: f"{done:,} {of}")

        if samples is not None:
            made = model.calibrate(texts, source=folder.name, samples=samples, progress=tell)
        else:
            made = train_detector(
                passages(texts, model.tokenizer, seed=0),
                backend=model.exact_backend(),
                tokenizer=model.tokenizer,
                write=lambda prompts, **settings: [each.text for each in model.generate(prompts, **settings)],
                name=model.name,
                fingerprint=model.fingerprint(),
                source=folder.name,
                progress=tell,
            )
    made.write(out)
    output.write(output.table(table_of(made), right=range(2 + len(made.generated))) + "\n")


def table_of(made: "Calibration") -> list[tuple[str, ...]]:
    """By length, how many human texts there are and which share of the model's own is told at 1 %, by setting."""
    rows: list[tuple[str, ...]] = [("tokens", "human texts", *(f"told: {setting}" for setting in made.generated))]
    for n, human in made.human.items():
        rows.append((f"{n}", f"{len(human):,}", *(f"{made.power(each, n, 0.01):.0%}" for each in made.generated)))
    return rows


def _texts(folder: Path, limit: int) -> Iterator[str]:
    from gpt2.data import find_sources, read_documents

    documents = (document for source in find_sources([folder]) for document in read_documents(source))
    for _, document in zip(range(limit), documents, strict=False):
        yield document.text
