"""Reading a finished corpus: its account, its page, and the samples kept for each reason."""

from pathlib import Path
from typing import Any

from gpt2.errors import DataError, did_you_mean
from gpt2.files import read_json, write_text

STATS_NAME = "stats.json"


def read_stats(out: Path) -> dict[str, Any]:
    """The statistics of a finished corpus.

    Raises:
        DataError: it is not one.
    """
    if not (out / STATS_NAME).is_file():
        raise DataError(f"{out} holds no finished corpus: there is no {STATS_NAME}. Build it, or finish building it.")
    return read_json(out / STATS_NAME, limit_bytes=256 << 20)


def write_page(out: Path, stats: dict[str, Any]) -> Path:
    """Write the corpus's page, `report.html`, and return its path; without matplotlib it has no charts.

    Raises:
        OSError: the folder cannot be written.
    """
    from gpt2.data.corpus.overview import html_page

    place = out / "report.html"
    write_text(place, html_page(stats, f"The corpus {out.resolve().name}"))
    return place


def read_samples(out: Path, reason: str) -> list[dict[str, Any]]:
    """The samples kept for one reason.

    Raises:
        DataError: nothing was dropped for it; the nearest reason is named.
    """
    samples = read_stats(out)["account"]["samples"]
    if reason not in samples:
        there = f"There are {', '.join(map(repr, samples)) or 'none'}."
        advice = did_you_mean(reason, *samples, otherwise=there, cutoff=0.4)
        raise DataError(f"Nothing was dropped or kept under {reason!r}. {advice}")
    return samples[reason]
