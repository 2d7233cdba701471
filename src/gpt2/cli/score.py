"""`gpt2 score`: how likely a text is, token by token."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output, reading
from gpt2.cli.options import ModelChoice, Sectioned, model_options, option, output_options
from gpt2.cli.status_line import StatusLine

if TYPE_CHECKING:
    from gpt2.generation import Score

_MOST_IN_FULL = 1e12  # write larger numbers as powers of ten


@click.command(cls=Sectioned)
@click.argument("text", required=False)
@option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Score this whole file.")
@option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="N",
    help="Beyond the context, slide a window by N tokens; fewer give each token more context.  [default: half of it]",
)
@option("--totals", is_flag=True, help="Leave out the table of tokens.")
@reading.errors_option
@model_options
@output_options
def score(
    *,
    text: str | None,
    file: Path | None,
    stride: int | None,
    totals: bool,
    errors: str,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Show how likely TEXT is: the log-probability, rank and entropy of each token, and the perplexity.

    Without TEXT, or with -, score all of standard input. Weights are fp32 unless --weights says otherwise.
    Logarithms are natural; rank 0 is the model's first guess.
    """
    if text is not None and file is not None:
        raise click.UsageError("TEXT and --file exclude each other: give one.")
    reading.tell_of_file(text, "--file {} scores it")
    given = reading.read_text(text, errors=errors) if file is None else reading.read_file(file, errors=errors)
    if given is None:
        raise click.UsageError("there is nothing to score. Give TEXT, --file, or standard input.")
    from gpt2.tokenizer.labels import labels

    with choice.load(auto_weights="fp32") as model:
        if stride is not None and stride > model.config.n_positions:
            raise click.UsageError(
                f"--stride can be at most the context of {model.config.n_positions:,}: got {stride:,}."
            )
        with StatusLine() as line:
            found = model.score(given, stride=stride, progress=lambda *done: line.show(lambda: _told(*done)))
        pieces = labels(model.tokenizer, found.ids)
    if as_json:
        finite = {name: value if math.isfinite(value) else None for name, value in _totals(found).items()}
        output.write_json(finite | ({} if totals else {"tokens": _tokens(found)}))
        return
    if not totals:
        output.write(_table(found, pieces) + "\n\n")
    rows = [(name.replace("_", " "), _shown(value)) for name, value in _totals(found).items()]
    output.write(output.table(rows, right=[1]) + "\n")


def _told(done: int, of: int) -> str:
    return f"{done:,} of {of:,} tokens"


def _totals(found: "Score") -> dict[str, float | int]:
    return {
        "tokens_scored": found.n_scored,
        "logprob": found.logprob,
        "perplexity": found.perplexity,
        "perplexity_per_word": found.perplexity_per_word,
        "bits_per_byte": found.bits_per_byte,
    }


def _shown(value: float | int) -> str:
    if math.isnan(value):  # per word, for a text without words
        return "-"
    if math.isinf(value):  # the perplexity of one long unlikely word is beyond any float
        return "beyond measure"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}" if abs(value) < _MOST_IN_FULL else f"{value:.3g}"


def _tokens(found: "Score") -> list[dict[str, object]]:
    columns = zip(found.ids, found.pieces, found.logprobs, found.ranks, found.entropies, strict=True)
    names = ("token", "piece", "logprob", "rank", "entropy")
    return [dict(zip(names, row, strict=True)) for row in columns]


def _table(found: "Score", pieces: Sequence[str]) -> str:
    columns = zip(pieces, found.logprobs, found.ranks, found.entropies, strict=True)
    rows = [(piece, f"{logprob:.3f}", f"{rank:,}", f"{entropy:.3f}") for piece, logprob, rank, entropy in columns]
    return output.table([("piece", "logprob", "rank", "entropy"), *rows], right=(1, 2, 3))
