"""`gpt2 detect`: was this generated?"""

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from gpt2.cli import output, reading
from gpt2.cli.options import FiniteRange, ModelChoice, Place, Sectioned, model_options, option, output_options
from gpt2.cli.status_line import StatusLine
from gpt2.cli.verdicts import shown, texts_of, told, told_size

log = logging.getLogger("gpt2")


_A_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Sectioned)
@click.argument("text", metavar="[TEXT|FILE|FOLDER]", required=False)
@option("--rate", type=FiniteRange(0, 0.5, min_open=True, max_open=True), default=0.01, show_default=True,
        metavar="X", help="How often human text may be called generated.")  # fmt: skip
@option("--window", type=click.IntRange(25), default=200, show_default=True, metavar="N",
        help="Length of each part of a long text, in tokens.")  # fmt: skip
@option("--calibration", type=_A_FILE, help="Calibration to use.  [default: calibration.json beside the model]")
@option("--calibrate", type=click.Path(exists=True, path_type=Path), metavar="FOLDER",
        help="Make a calibration from human texts instead of judging.")  # fmt: skip
@option("--train", type=click.Path(exists=True, path_type=Path), metavar="FOLDER",
        help="Train a detector on human texts and the model's own; it uses words beside the statistics.")  # fmt: skip
@option("--out", type=Place(dir_okay=False), help="File that --calibrate or --train writes.")
@option(
    "--limit",
    type=click.IntRange(99),
    default=1000,
    show_default=True,
    metavar="N",
    help="Read at most N texts from FOLDER.",
)
@option("--samples", type=click.IntRange(16), default=300, show_default=True, metavar="N",
        help="Texts the model writes for --calibrate.")  # fmt: skip
@option("--watermark", type=_A_FILE, metavar="KEYFILE",
        help="Look for this key's watermark instead; needs the model's vocabulary, not its weights.")  # fmt: skip
@option("--new-key", type=Place(dir_okay=False), metavar="FILE",
        help="Write a new watermark key instead of judging.")  # fmt: skip
@option("--green", type=click.Choice(["lefthash", "selfhash"]),
        help="Make --new-key a green list, for transformers' WatermarkDetector.")  # fmt: skip
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
    """Judge whether TEXT was generated: generated, human or inconclusive, at a given error rate.

    Without TEXT, or with -, judge standard input. A verdict holds for this model, and for text of the kind that the
    calibration was made from. It is no proof, and no ground to accuse anyone.

    \b
        gpt2 detect essay.txt
        gpt2 detect --calibrate essays-by-people --out calibration.json
        gpt2 detect essay.txt --calibration calibration.json --rate 0.001
        gpt2 detect --new-key mine.key
        gpt2 generate "Once upon a time" --watermark mine.key | gpt2 detect --watermark mine.key
    """
    human = calibrate or train
    _refuse_mixtures(text, calibration, calibrate=calibrate, train=train, watermark=watermark, new_key=new_key)
    if new_key is not None:
        from gpt2.detect import write_new_key

        write_new_key(new_key, green=green)
        log.info(
            "%s: a new key for --watermark of generate, serve and detect. Keep it secret, and keep a copy", new_key
        )
        return
    if (human is None) != (out is None):
        raise click.UsageError("--calibrate or --train FOLDER and --out FILE belong together: give both.")
    if human is not None and out is not None:
        from gpt2.cli.calibrating import make

        with choice.load(auto_weights="fp32") as model:
            make(model, human, out, limit=limit, samples=samples, trained=train is not None)
    elif watermark is not None:
        from gpt2.cli.marks import least_tokens, write_marks
        from gpt2.cli.tokenize import tokenizer_of, vocab_size_of
        from gpt2.detect import read_key

        noise = read_key(watermark)
        texts = list(texts_of(text, errors=errors, least_tokens=least_tokens(noise)))
        choice.fetch()
        tokenizer = tokenizer_of(choice.model)
        size = vocab_size_of(choice.model, tokenizer)
        write_marks(texts, noise, tokenizer, vocab_size=size, rate=rate, window=window, as_json=as_json)
    else:
        texts = list(texts_of(text, errors=errors))
        _judge(texts, choice, calibration, rate=rate, window=window, as_json=as_json)


def _refuse_mixtures(text: str | None, calibration: Path | None, **tasks: Path | None) -> None:
    """Refuse options of different tasks, and a TEXT or a setting that the task ignores."""
    human = tasks["calibrate"] or tasks["train"]
    if sum(given is not None for given in tasks.values()) > 1 or ((human or tasks["new_key"]) and text):
        raise click.UsageError(
            "--calibrate, --train, --watermark and --new-key are different tasks, and only --watermark takes a TEXT."
        )
    if calibration is not None and tasks["watermark"] is not None:
        raise click.UsageError("--watermark needs no --calibration: its p-value is exact.")
    for name, task, where in (
        ("limit", human, "belongs to --calibrate or --train"),
        ("samples", tasks["calibrate"], "belongs to --calibrate: with --train the model writes one for each text"),
        ("green", tasks["new_key"], "says what --new-key makes: a key file knows its own form"),
    ):
        source = click.get_current_context().get_parameter_source(name)
        if task is None and source is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} {where}.")


def _judge(
    texts: list[tuple[str | None, str]],
    choice: ModelChoice,
    calibration: Path | None,
    *,
    rate: float,
    window: int,
    as_json: bool,
) -> None:
    from gpt2.detect import Calibration

    given = Calibration.read(calibration) if calibration else None
    with choice.load(auto_weights="fp32") as model, StatusLine() as line:
        given = given or model.calibration()
        made_from = None if given is None else given.made_from
        for where, each in texts:
            line.show(partial(told_size, where, each))
            found = model.detect(
                each,
                calibration=given,
                false_positive_rate=rate,
                window=window,
                progress=lambda done, of, where=where: line.show(lambda: told(where, done, of)),
            )
            line.clear()
            if as_json:
                facts = {"file": where, "model": model.name, "calibration": made_from and dict(made_from)}
                output.write_json(facts | found.facts())
            else:
                output.write(shown(found, f"{where}: " if where else "") + "\n")
        if made_from and not as_json:
            log.info("compared with %s human texts: %s", made_from.get("human_texts"), made_from.get("human"))
