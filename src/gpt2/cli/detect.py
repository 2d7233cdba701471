"""`gpt2 detect`: was this generated?"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gpt2.cli import output, reading
from gpt2.cli.options import ModelChoice, Sectioned, model_options, option, output_options

if TYPE_CHECKING:
    from gpt2.detect import Verdict

log = logging.getLogger("gpt2")

_A_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Sectioned)
@click.argument("text", metavar="[TEXT|FILE|FOLDER]", required=False)
@option("--rate", type=click.FloatRange(0, 0.5, min_open=True, max_open=True), default=0.01, show_default=True,
        metavar="X", help="How often human text may be called generated.")  # fmt: skip
@option("--window", type=click.IntRange(25), default=200, show_default=True, metavar="N",
        help="Tokens of a part of a long text.")  # fmt: skip
@option("--calibration", type=_A_FILE, help="What to compare with.  [default: calibration.json beside the model]")
@option("--calibrate", type=click.Path(exists=True, path_type=Path), metavar="FOLDER",
        help="Make a calibration from human texts, instead of judging.")  # fmt: skip
@option("--train", type=click.Path(exists=True, path_type=Path), metavar="FOLDER",
        help="Train a detector on such texts and the model's own: words beside the statistics.")  # fmt: skip
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where --calibrate and --train write.")
@option(
    "--limit", type=click.IntRange(99), default=1000, show_default=True, metavar="N", help="Of its texts, the first N."
)
@option("--samples", type=click.IntRange(16), default=200, show_default=True, metavar="N",
        help="Texts that the model writes for --calibrate.")  # fmt: skip
@option("--watermark", type=_A_FILE, metavar="KEYFILE",
        help="Read the mark of this key instead: from the model's vocabulary alone, without weights.")  # fmt: skip
@option("--new-key", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="Write a new watermark key, instead of judging.")  # fmt: skip
@option("--green", type=click.Choice(["lefthash", "selfhash"]),
        help="Make --new-key a green list, which transformers' WatermarkDetector reads.")  # fmt: skip
@reading.errors_option
@model_options
@output_options
def detect(
    *,
    text: str | None,
    rate: float,
    window: int,
    calibration: Path | None,
    calibrate: Path | None,
    train: Path | None,
    out: Path | None,
    limit: int,
    samples: int,
    watermark: Path | None,
    new_key: Path | None,
    green: Literal["lefthash", "selfhash"] | None,
    errors: str,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Say whether TEXT was generated: generated, human or inconclusive, with the error rate that was asked for.

    Without TEXT, or with -, standard input is judged. A verdict is about text of the kind that the calibration was
    made from, and about this model. It is no proof, and no ground to accuse anyone.

    \b
        gpt2 detect essay.txt
        gpt2 detect --calibrate essays-by-people --out calibration.json
        gpt2 detect essay.txt --calibration calibration.json --rate 0.001
        gpt2 detect --new-key mine.key
        gpt2 generate "Once upon a time" --watermark mine.key | gpt2 detect --watermark mine.key
    """
    if sum(given is not None for given in (calibrate, train, watermark, new_key)) > 1 or (new_key and text):
        raise click.UsageError(
            "--calibrate, --train, --watermark and --new-key are different tasks, and --new-key takes no TEXT."
        )
    if calibration is not None and watermark is not None:
        raise click.UsageError("--watermark needs no --calibration: its p-value is exact.")
    if green is not None and new_key is None:
        raise click.UsageError("--green says what --new-key makes: give both. A key file knows its own form.")
    if new_key is not None:
        from gpt2.detect import write_new_key

        write_new_key(new_key, green=green)
        log.info(
            "%s: a new key for --watermark of generate, serve and detect. Keep it secret, and keep a copy", new_key
        )
        return
    human = calibrate or train
    if (human is None) != (out is None):
        raise click.UsageError("--calibrate or --train FOLDER and --out FILE belong together: give both.")
    if human is not None and out is not None:
        from gpt2.cli.calibrating import make

        with choice.load(auto_weights="fp32") as model:
            make(model, human, out, limit=limit, samples=None if train else samples)
        return
    texts = list(_texts(text, errors=errors))
    if watermark is not None:
        from gpt2.cli.marks import write_marks
        from gpt2.cli.tokenize import tokenizer_of, vocab_size_of
        from gpt2.detect import read_key

        choice.fetch()
        tokenizer = tokenizer_of(choice.model)
        size = vocab_size_of(choice.model, tokenizer)
        write_marks(texts, read_key(watermark), tokenizer, vocab_size=size, rate=rate, window=window, as_json=as_json)
        return
    from gpt2.detect import Calibration

    given = Calibration.read(calibration) if calibration else None
    with choice.load(auto_weights="fp32") as model:
        for where, each in texts:
            found = model.detect(each, calibration=given, false_positive_rate=rate, window=window)
            if as_json:
                output.write_json({"file": where, "model": model.name} | dataclasses.asdict(found))
            else:
                output.write(_shown(found, f"{where}: " if where else "") + "\n")


def _texts(text: str | None, *, errors: str) -> Iterator[tuple[str | None, str]]:
    """Name and text of each: a file, the text files of a folder, standard input, or the text itself."""
    path = Path(text) if text and text != "-" and len(text) < 256 and "\n" not in text else None
    if path is not None and path.exists():
        files = [path] if path.is_file() else sorted(path.rglob("*.txt")) + sorted(path.rglob("*.md"))
        if not files:
            raise click.UsageError(f"{path} holds no .txt or .md file: there is nothing to judge.")
        yield from ((str(file), reading.read_file(file, errors=errors)) for file in files)
        return
    given = reading.read_text(text, errors=errors)
    if given is None:
        raise click.UsageError("there is nothing to judge. Give TEXT, FILE, FOLDER, or standard input.")
    yield None, given


def _shown(found: "Verdict", where: str) -> str:
    p_value = "" if found.p_value is None else f" (p = {found.p_value:.3g})"
    lines = [f"{where}{found.verdict}{p_value}: {found.reason}."]
    if found.n_normalised:
        lines.append(f"{found.n_normalised:,} look-alike or invisible characters were put back before reading.")
    for part in found.parts:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in part.statistics.items())
        counts = "/".join(map(str, part.histogram))
        p_value = "" if part.p_human is None else f" p {part.p_human:.3g};"
        lines.append(
            f"  characters {part.start:,}-{part.end:,}: {part.verdict};{p_value} {numbers}; "
            f"top 10/100/1000/rest {counts}"
        )
    return "\n".join(lines)
