"""A result as one page: our figures beside the paper's and others' over model size, calibration, and examples."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from gpt2.config import PUBLISHED
from gpt2.evaluate import uncertainty
from gpt2.evaluate.benchmark import COUNTS
from gpt2.report import Block, Facts, Points, Sample, ScatterChart, Section, Table
from gpt2.report import page as report_page

SIZES = ("124M", "355M", "774M", "1.5B")
_PARAMETERS = dict(zip(SIZES, (config.parameters for config in PUBLISHED.values()), strict=True))
_BINS = 10


def page(result: Mapping[str, Any]) -> str:
    """The HTML of what `evaluate` returned.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    model, settings = result["model"], result["settings"]
    done = {name: found for name, found in result["benchmarks"].items() if "missing" not in found}
    missing = {name: found for name, found in result["benchmarks"].items() if "missing" in found}
    sections = [
        Section(title="In short", blocks=[Facts(values=_facts(result, done)), _paper_table(done, headlines=True)]),
        Section(
            title="Over model size", blocks=list(_charts(done, model)) or ["No figure the paper has for all sizes."]
        ),
        Section(title="What others measured", blocks=[_known_table(done)]),
    ]
    calibrated = [chart for found in done.values() for chart in _calibration(found)]
    if calibrated:
        lead = (
            "How often answers are right, by the probability the model gave them; on the line it knows what it knows."
        )
        sections.append(Section(title="Calibration", blocks=[lead, *calibrated]))
    shown = [block for found in done.values() if found.get("shown") for block in _examples(found)]
    if shown:
        lead = (
            "Those that the model was surest of, or the first: some right, some wrong. In bold what was given, then "
            "the model's answer; of a Winograd schema the choice is in bold too, and then comes what it was chosen by."
        )
        sections.append(Section(title="Examples", blocks=[lead, *shown]))
    sections.append(Section(title="Every figure", blocks=[_paper_table(done, headlines=False)]))
    sections.append(Section(title="How it was measured", blocks=[_settings_table(done), *_protocols(done)]))
    if missing:
        rows = [(found["title"], found["missing"]) for found in missing.values()]
        sections.append(Section(title="Not here", blocks=[Table(columns=["benchmark", "what is missing"], rows=rows)]))
    lead = "The benchmarks of the GPT-2 paper (Radford et al. 2019)."
    if settings["data"] != "files":
        lead = f"{lead} On {settings['data']}: not to be compared."
    elif settings["limit"]:
        lead = f"{lead} Only the first {settings['limit']:,} examples of each: not to be compared."
    return report_page(
        f"Zero-shot evaluation of {model['name']}",
        sections,
        lead=lead,
        footer=f"Model sha256 {model['sha256']}. "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    )


def _facts(result: Mapping[str, Any], done: Mapping[str, Any]) -> dict[str, object]:
    model = result["model"]
    return {
        "Parameters": model["parameters"],
        "Weights": f"{model['weights']}, {model['backend']}",
        "Benchmarks": f"{len(done)} of {len(result['benchmarks'])}",
        "Stride": result["settings"]["stride"],
    }


def _paper_table(done: Mapping[str, Any], *, headlines: bool) -> Table:
    """Our figures beside the paper's: one of each benchmark, or all."""
    rows: list[tuple[object, ...]] = []
    for found in done.values():
        for figure, value in found["figures"].items():
            if figure in COUNTS or (headlines and figure != found["headline"]):
                continue
            paper = found["paper"].get(figure, (None,) * 4)
            error = found.get("standard_errors", {}).get(figure)
            within = None if error is None else uncertainty.Z_95 * error
            rows.append((found["title"], _named(figure), value, within, *paper, _from_the_nearest(value, paper)))
    return Table(
        columns=["benchmark", "figure", "here", "± 95 %", *SIZES, "to the nearest"],
        rows=rows,
        caption="Figures of this model, how far 95 of 100 other samples of examples would be from them, and the "
        "paper's four sizes where it prints them.",
        decimals=2,
    )


def _named(figure: str) -> str:
    """A figure's name, with its unit where it is a share of the examples."""
    unit = ", %" if figure.startswith(("accuracy", "exact_match")) else ""
    return figure.replace("_", " ") + unit


def _from_the_nearest(value: float | None, paper: Sequence[float | None]) -> str | None:
    """The distance to the nearest of the paper's sizes, and which size that is."""
    printed = [(each, size) for each, size in zip(paper, SIZES, strict=True) if each is not None]
    if value is None or not printed:
        return None
    nearest, size = min(printed, key=lambda each: abs(each[0] - value))
    return f"{value - nearest:+,.2f} ({size})".replace("-", "−")


def _charts(done: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[Block]:
    for found in done.values():
        figure = found["headline"]
        paper, value = found["paper"].get(figure, (None,)), found["figures"].get(figure)
        if None in paper or value is None:
            continue
        others = [known for known in found["known"] if known["figure"] == figure]
        points = [
            Points(name="paper", x=list(_PARAMETERS.values()), y=paper, labels=SIZES),
            Points(name=model["name"], x=[model["parameters"]], y=[value]),
        ]
        if others:
            points.append(
                Points(
                    name="others, published weights",
                    x=[_PARAMETERS[known["size"]] for known in others],
                    y=[known["value"] for known in others],
                )
            )
        yield ScatterChart(
            title=f"{found['title']}: {_named(figure)} ({found['better']} is better)",
            x_label="parameters",
            y_label=_named(figure),
            points=points,
            log_x=True,
            log_y=found["better"] == "lower" and "perplexity" in figure,
        )


def _known_table(done: Mapping[str, Any]) -> Table:
    rows = [
        (
            found["title"],
            known["size"],
            _named(known["figure"]),
            known["value"],
            known["setting"],
            known["source"],
        )
        for found in done.values()
        for known in found["known"]
    ]
    return Table(
        columns=["benchmark", "size", "figure", "value", "setting", "source"],
        rows=rows or [("none", None, None, None, None, None)],
        caption="Published weights, measured by others; mind the settings.",
        decimals=2,
    )


def _calibration(found: Mapping[str, Any]) -> Iterator[Block]:
    pairs = sorted(
        (confidence, score)
        for confidence, score in zip(found.get("confidences", ()), found.get("scores", ()), strict=True)
        if confidence is not None
    )
    if len(pairs) < 2 * _BINS:
        return
    bounds = [round(i * len(pairs) / _BINS) for i in range(_BINS + 1)]
    bins = [pairs[first:last] for first, last in pairwise(bounds)]
    yield ScatterChart(
        title=f"{found['title']}: tenths of the examples, by confidence",
        x_label="mean probability of the answer",
        y_label="share that is right",
        points=[
            Points(
                name="tenths",
                x=[fmean(confidence for confidence, _ in each) for each in bins],
                y=[fmean(score for _, score in each) for each in bins],
            )
        ],
        diagonal=True,
    )


def _examples(found: Mapping[str, Any]) -> Iterator[Block]:
    for each in found["shown"]:
        sure = "" if each["confidence"] is None else f"; the model gave its answer {100 * each['confidence']:.1f} %"
        how = "right" if each["score"] == 1 else "wrong" if each["score"] == 0 else f"score {each['score']:.2f}"
        given, answered, then = f"{each['given']} ", each["answered"], each["then"]
        yield Sample(
            prompt=given + answered if then else given,
            text=then or answered,
            caption=f"{found['title']}, {how}; expected: {each['expected']}{sure}",
        )


def _settings_table(done: Mapping[str, Any]) -> Table:
    rows = [
        (
            found["title"],
            found["examples"],
            round(found["tokens_computed"] / found["seconds"]) if found["tokens_computed"] else None,
            ", ".join(f"{name}={value}" for name, value in found["choices"].items()),
            "; ".join(f"{path} {sha256[:12]}…" for path, sha256 in found["files"].items()),
            " ".join(found["notes"]),
        )
        for found in done.values()
    ]
    return Table(
        columns=["benchmark", "examples", "tokens/s", "choices", "files and their sha256", "notes"],
        rows=rows,
        caption="What was run. Tokens a second are of what was not answered in an earlier run.",
    )


def _protocols(done: Mapping[str, Any]) -> Iterator[str]:
    titles: dict[str, list[str]] = {}
    for found in done.values():
        titles.setdefault(found["protocol"], []).append(found["title"])
    for protocol, of in titles.items():
        yield f"{'; '.join(of)}. {protocol}"
