"""Reports: self-contained HTML pages, with charts, from plain data.

`page(title, sections)` returns the text of one file that opens anywhere: no script, no network, light and dark, every
chart with its numbers in a table below it. Charts need matplotlib (the extra `report`).
"""

from gpt2.report.blocks import Block, Facts, Marked, Piece, Sample, Section, Table
from gpt2.report.charts import BarChart, Line, LineChart, Points, ScatterChart
from gpt2.report.drawing import check_charts
from gpt2.report.html import page

__all__ = [
    "BarChart",
    "Block",
    "Facts",
    "Line",
    "LineChart",
    "Marked",
    "Piece",
    "Points",
    "Sample",
    "ScatterChart",
    "Section",
    "Table",
    "check_charts",
    "page",
]
