"""The sections of a model's card that come from records: a run, the text it read, an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt2.config import PUBLISHED
from gpt2.errors import DataError
from gpt2.report.markdown import facts, line, table
from gpt2.report.numbers import readable

_MOST_ROWS = 200
_SIZES = ("124M", "355M", "774M", "1.5B")

Record = Mapping[str, Any]


def training(runs: Sequence[tuple[Record, Sequence[Record]]], *, model: Record) -> str:
    """How a model was trained.

    Args:
        runs: for each run, in order, its settings (`config.toml`) and the objects of its `metrics.jsonl`.
        model: the shape of the card's model, by the names of `[model]`, with its `parameters`.

    Raises:
        DataError: they are not the record of a run, or are of a model of another shape.
    """
    told = [_section("the run", lambda run=run: _training(*run, model)) for run in runs]
    if len(told) > 1:
        told = [f"### Run {number} of {len(told)}\n\n{text}" for number, text in enumerate(told, start=1)]
    last = "Losses are in nats a token. Which step's weights these are, and the machine it ran on, are not recorded."
    return "\n\n".join([*told, last])


def evaluation(result: Record, *, model: Record, files_sha256: str) -> str:
    """The result of `gpt2 evaluate --out`, beside the paper's four sizes.

    Args:
        result: of `evaluate`.
        model: the shape of the card's model, with its `parameters`.
        files_sha256: of its files, as `evaluate` computes it.

    Raises:
        DataError: it is not such a result, or is of a model of another shape.
    """
    return _section("the evaluation", lambda: _evaluation(result, model, files_sha256))


def detection(made_from: Record, rows: Sequence[Sequence[object]]) -> str:
    """The calibration that detects the model's text, and how much of it is detected.

    Args:
        made_from: the calibration's description of its texts.
        rows: by length, how much of the model's own text is detected; the first row has the names of the columns.
    """
    return "\n\n".join(
        [
            f"A calibration is with the weights, made from {line(made_from.get('human_texts'))} human texts "
            f"({line(made_from.get('human'))}) and {line(made_from.get('generated_texts'))} of the model. Of these it "
            "tells, where 1 % of such human texts may be called generated:",
            table([str(name) for name in rows[0]], rows[1:], right=0),
        ]
    )


def corpus(stats: Record) -> str:
    """The sources and licences of a corpus, from the `stats.json` of `gpt2 corpus build`.

    Raises:
        DataError: it is not such a file.
    """
    return _section("the corpus", lambda: _corpus(stats["contents"]))


def shards(manifest: Record, *, tokenizer: str | None) -> str:
    """What is known of token shards, from the `manifest.json` of `gpt2 prepare`.

    Raises:
        DataError: it is not such a file, or is of another vocabulary than the model's.
    """
    return _section("the corpus", lambda: _shards(manifest, tokenizer))


def _section(what: str, write: Callable[[], str]) -> str:
    try:
        return write()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"The card cannot tell of {what}: it is not what this package writes ({error!r}). Give the one it wrote."
        ) from None


def _same_shape(what: str, theirs: Record, model: Record) -> None:
    for name, value in theirs.items():
        if name in model and value != model[name]:
            raise DataError(
                f"The card cannot tell of {what}: it is of another model, whose {name} is {value} and not "
                f"{model[name]}. Give the one of this model."
            )


def _training(config: Record, steps: Sequence[Record], model: Record) -> str:
    _same_shape("the run", config["model"], model)
    taken = [step for step in steps if "loss" in step]
    optim, schedule = config["optim"], config["schedule"]
    base, lora = config.get("start", {}).get("model"), config.get("lora", {})
    known: dict[str, object] = {
        "Began from": _name(base) if base else "random weights",
        "Trained": f"adapters of rank {lora['rank']}, alpha {lora['alpha']:g}" if lora.get("rank") else "all weights",
        "Optimizer": optimizer(optim),
        "Schedule": f"{schedule['shape']}, planned for {schedule['tokens']:,} tokens, "
        f"{schedule['batch_tokens']:,} a step",
        "Sequence in tokens": schedule["sequence"][-1][1],
        "Rounding on the way": config["rounding"]["form"],
        "Seed": config["run"]["seed"],
    }
    if not taken:
        return f"{facts(known)}\n\nNot known: no step of the run is recorded."
    last = taken[-1]
    held_out = [step for step in steps if step.get("validation_loss") is not None and step["step"]]
    known |= {
        "Steps taken": last["step"],
        "Tokens seen": last["tokens"],
        "Operations, 6 a parameter and token": f"{6 * model['parameters'] * last['tokens']:.2g}",
        "Seconds in the run": last["seconds"],
        "Loss at the first recorded step": taken[0]["loss"],
        "Loss at the last": last["loss"],
    }
    if held_out:
        best = min(held_out, key=lambda step: step["validation_loss"])
        known["Best held-out loss"] = f"{best['validation_loss']:.4f} at step {best['step']:,}"
    parts = [facts(known)]
    if held_out:
        rows = [(step["step"], step["tokens"], step["validation_loss"]) for step in _spread(held_out, 10)]
        parts.append(table(["step", "tokens", "held-out loss"], rows, right=0))
    else:
        parts.append("Nothing was held out, or not measured: how well it learned is not known.")
    return "\n\n".join(parts)


def optimizer(optim: Record) -> str:
    """The optimizers and their peak rates, from the settings of `[optim]`."""
    first, second = optim["betas"]
    adamw = (
        f"AdamW, peak learning rate {optim['lr']:g}, betas {first:g} and {second:g}, weight decay "
        f"{optim['weight_decay']:g}"
    )
    if optim["matrices"] != "muon":
        return adamw
    return (
        f"Muon for the matrices, peak learning rate {optim['muon_lr']:g}, weight decay "
        f"{optim['muon_weight_decay']:g}; {adamw} for the rest"
    )


def _spread(rows: Sequence[Record], most: int) -> list[Record]:
    """At most `most` rows, evenly spread, including the first and the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(at * (len(rows) - 1) / (most - 1))] for at in range(most)]


def _evaluation(result: Record, model: Record, files_sha256: str) -> str:
    measured, settings = result["model"], result["settings"]
    shape = {name: measured[name] for name in ("parameters", "n_layer", "n_embd")}
    _same_shape("the evaluation", shape, model)
    rows: list[Sequence[object]] = []
    missing: list[str] = []
    for found in result["benchmarks"].values():
        if "missing" in found:
            missing.append(found["title"])
            continue
        errors = found.get("standard_errors", {})
        for figure, value in found["figures"].items():
            paper = found["paper"].get(figure)
            if paper or figure == found.get("headline"):  # the rest is in the result itself
                here = _interval(value, errors[figure]) if errors.get(figure) else value
                rows.append((found["title"], figure.replace("_", " "), here, *(paper or (None,) * len(_SIZES))))
    limit = f", the first {settings['limit']:,} examples of each only" if settings["limit"] else ""
    parts = [
        f"By `gpt2 evaluate`, weights in {line(measured['weights'])}, data: {line(settings['data'])}{limit}. Beside it "
        f"the paper's figures for its four sizes ({', '.join(PUBLISHED)}), where it prints them; ± is a 95 % interval.",
        table(["benchmark", "figure", "here", *_SIZES], rows, right=2),
        "Measured on the very files that this card is of."
        if measured["sha256"] == files_sha256
        else f"Measured on other files than those this card is of: their SHA-256 is {line(measured['sha256'])}.",
    ]
    if missing:
        parts.append(f"Not measured, for want of data: {line(', '.join(missing))}.")
    return "\n\n".join(parts)


def _interval(value: float, standard_error: float) -> str:
    return f"{readable(value)} ± {readable(float(f'{1.96 * standard_error:.2g}'))}"


_GIVEN = "As given for this card; that the model read this and nothing else is not checked."


def _corpus(contents: Record) -> str:
    return "\n\n".join(
        [
            facts(
                {
                    "Documents": contents["documents"],
                    "Bytes of text": contents["bytes"],
                    "Tokens of GPT-2, estimated": contents["tokens"],
                }
            ),
            _counted("source", contents["sources"]),
            _counted("licence", contents["licences"]),
            _GIVEN,
        ]
    )


def _counted(what: str, counts: Record) -> str:
    rows = [(name or "not stated", int(pair[0]), int(pair[1])) for name, pair in counts.items()]
    rows.sort(key=lambda row: -row[2])
    shown = table([what, "documents", "bytes"], rows[:_MOST_ROWS])
    left = len(rows) - _MOST_ROWS
    return f"{shown}\n\nAnd {left:,} smaller ones." if left > 0 else shown


def _shards(manifest: Record, tokenizer: str | None) -> str:
    if tokenizer is not None and manifest["tokenizer_hash"] != tokenizer:
        raise DataError(
            "The card cannot tell of the corpus: its tokens are of another vocabulary than the model's, so the model "
            "never read them. Give the shards it was trained on."
        )
    sources = manifest["settings"]["sources"]
    names = [(_name(source["name"]), source["bytes"]) for source in sources]
    known = {
        "Documents": manifest["documents"],
        "Tokens": manifest["tokens"],
        "Bytes of text": manifest["text_bytes"],
    }
    known |= {f"Tokens of the part {part}": totals["tokens"] for part, totals in manifest["splits"].items()}
    left = f"\n\nAnd {len(names) - _MOST_ROWS:,} more." if len(names) > _MOST_ROWS else ""
    return "\n\n".join(
        [
            facts({line(name): value for name, value in known.items()}),
            table(["file", "bytes"], names[:_MOST_ROWS]) + left,
            f"Token shards do not record licences: those of this text are not known. {_GIVEN}",
        ]
    )


def _name(path: str) -> str:
    """A path without its folders, which are private."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
