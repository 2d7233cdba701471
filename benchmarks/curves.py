"""Charts of the report as SVG files for the documents, light and dark by the reader's browser."""

import re
from pathlib import Path

from gpt2.report import LineChart

_LIGHT = [
    "#1c1c20",
    "#5f5d65",
    "#dddad3",
    "#0f5f6b",
    "#b3471b",
    "#6b3fb0",
    "#8a6a00",
    "#2f7d4f",
    "#a3261c",
    "#555555",
    "#0b3d91",
]
_DARK = [
    "#e9e7e2",
    "#a9a7a3",
    "#3a3d44",
    "#7ccbd4",
    "#f0936a",
    "#bda4f2",
    "#d9b84a",
    "#74c795",
    "#f0968c",
    "#bbbbbb",
    "#8fb4ff",
]
_NAMES = ("--ink", "--soft", "--rule", *(f"--s{i}" for i in range(1, 9)))


def write_svg(chart: LineChart, path: Path) -> None:
    """Draw a chart as a file of its own, with the colours that a page would have given it."""
    found = re.search(r"<svg.*?</svg>", chart.html("c"), re.DOTALL)
    assert found is not None
    light, dark = (
        "".join(f"{name}:{value};" for name, value in zip(_NAMES, each, strict=True)) for each in (_LIGHT, _DARK)
    )
    style = (
        f"<style>svg{{font-family:system-ui,sans-serif;--paper:transparent;{light}}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    )
    opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="800" '
    text = found[0].replace("<svg ", opening, 1)
    end = text.index(">") + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text[:end] + style + text[end:] + "\n", encoding="utf-8")
