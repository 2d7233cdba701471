"""`gpt2 bench`: how fast models run here, alone or beside other software on the same weights."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2.cli import output
from gpt2.cli.options import ModelChoice, Sectioned, Verb, model_options, option, output_options

if TYPE_CHECKING:
    from gpt2.bench import Figures, Workload

log = logging.getLogger("gpt2")


def _number(name: str, default: int, help_text: str, *, least: int = 1) -> Callable[[Verb], Verb]:
    kind = click.IntRange(min=least)
    return option(name, type=kind, metavar="N", default=default, show_default=True, help=help_text)


@click.command(cls=Sectioned)
@option(
    "--compare",
    "peers",
    multiple=True,
    metavar="ENGINE|all",
    help="Also measure this engine, if installed. Repeatable.",
)
@_number("--prompt-tokens", 128, "Length of the prompt before the decoded text.")
@_number("--decode-tokens", 64, "Tokens to decode and time.")
@_number("--prefill-tokens", 1000, "Length of the prompt to read and time.")
@_number("--batch", 16, "Texts decoded together.")
@_number("--rounds", 3, "Rounds; the median is reported.")
@_number("--starts", 3, "Cold starts to time; 0 is none.", least=0)
@model_options
@output_options
def bench(
    *,
    peers: tuple[str, ...],
    prompt_tokens: int,
    decode_tokens: int,
    prefill_tokens: int,
    batch: int,
    rounds: int,
    starts: int,
    choice: ModelChoice,
    as_json: bool,
) -> None:
    """Measure tokens per second (decoding one text, reading a prompt, decoding a batch) and the cold start.

    Engines run in turn, each in its own process, on the same weights.
    """
    from gpt2 import checkpoint, hub
    from gpt2.bench import PEERS, Workload, compare, facts

    if unknown := [name for name in peers if name not in (*PEERS, "all")]:
        raise click.BadParameter(
            f"there is no engine {unknown[0]!r} to compare with. Choose of {', '.join(PEERS)}, or all.",
            param_hint="--compare",
        )
    workload = Workload(
        prompt_tokens=prompt_tokens, decode_tokens=decode_tokens, prefill_tokens=prefill_tokens, batch=batch
    )
    choice.fetch()
    model = hub.locate(choice.model)
    workload = _fitting(workload, checkpoint.read(model).config.n_positions)
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(
            model,
            peers=peers,
            peers_folder=_copy(model, Path(scratch) / "model") if peers else None,
            backend=choice.backend,
            weights=choice.weights,
            device=choice.device,
            threads=choice.threads,
            workload=workload,
            rounds=rounds,
            starts=starts,
        )
    if as_json:
        result = {"model": choice.model, "workload": dataclasses.asdict(workload), **facts()}
        output.write_json(result | {"engines": [dataclasses.asdict(each) for each in found]}, indent=2)
    else:
        output.write(_as_table(found) + "\n")


def _fitting(workload: "Workload", n_positions: int) -> "Workload":
    """The workload within the context: refuses explicit sizes that do not fit, and cuts defaults."""
    fitting, context = workload.fitting(n_positions), click.get_current_context()
    for name in ("prompt_tokens", "decode_tokens", "prefill_tokens"):
        asked, cut = getattr(workload, name), getattr(fitting, name)
        if asked == cut:
            continue
        option = f"--{name.replace('_', '-')}"
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            beside = f" beside {fitting.decode_tokens:,} decoded" if name == "prompt_tokens" else ""
            raise click.UsageError(
                f"{option} {asked} cannot be: the model's context is {n_positions:,} tokens, which leaves "
                f"{cut:,}{beside}. Ask for less."
            )
        log.info("%s is %d, not %d: the model's context is %s tokens", option, cut, asked, f"{n_positions:,}")
    return fitting


def _copy(model: Path, folder: Path) -> Path:
    """A copy of the model that every engine can read, in a folder where their conversions disturb nobody."""
    from gpt2 import checkpoint

    found = checkpoint.read(model)
    checkpoint.write_folder(folder, found.weights, found.config, found.tokenizer())
    return folder


def _as_table(found: "Sequence[Figures]") -> str:
    heading = ("tokens/s", "decode", "prefill", "batch", "start, s", "peak MB")
    rows: list[tuple[str, ...]] = [heading]
    ours = found[0].tokens_per_second
    for each in found:
        speeds = {figure: each.tokens_per_second[figure] for figure in heading[1:4]}
        start = "" if each.start_seconds is None else f"{each.start_seconds:.2f}"
        peak = f"{each.peak_bytes / 1e6:,.0f}"
        rows.append((each.engine, *(f"{speed:,.0f}" for speed in speeds.values()), start, peak))
        if each.limits:
            shares = (f"{speed / each.limits[figure]:.0%}" for figure, speed in speeds.items())
            rows.append(("  share of the limit", *shares, "", ""))
        if each is not found[0]:
            rows.append(("  gpt2 does", *(f"{ours[figure] / speed:.2f}x" for figure, speed in speeds.items()), "", ""))
    return output.table(rows, right=(1, 2, 3, 4, 5))
