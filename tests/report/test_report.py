"""Pages hold everything they need and nothing that runs; charts lose no spike and change with the theme."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from gpt2.report import (
    BarChart,
    Block,
    Facts,
    Line,
    LineChart,
    Marked,
    Piece,
    Points,
    Sample,
    ScatterChart,
    Section,
    Table,
    page,
)
from gpt2.report.charts import _extremes
from gpt2.report.markup import escape
from gpt2.report.numbers import readable

VOID = {"meta", "br", "img", "hr", "input", "link"}
LINES = LineChart(
    title="Loss & more",
    x_label="tokens",
    y_label="nats",
    lines=[
        Line(name="each <step>", x=range(5000), y=[math.sin(i) for i in range(5000)], faint=True, color=1),
        Line(name="mean, $5 of it", x=[0, 1e6, 2e6], y=[1.0, None, 0.5], low=[0.9, None, 0.4], high=[1.1, None, 0.6]),
    ],
    levels={"target": 0.2},
)
BARS = BarChart(title="Speed", y_label="tokens/s", names=["ours", "日本"], series={"a": [1.0, None], "b": [2, 3]})
SCATTER = ScatterChart(
    title="Both",
    x_label="x",
    y_label="y",
    points=[Points(name="p", x=[1, 20], y=[3, 40], labels=["q", "r"])],
    log_x=True,
)
TEXTS: list[str | Block] = [
    "a `code` & <more>",
    Facts(values={"Loss": 3.14159, "Tokens": 1234567, "MFU": None}),
    Table(columns=["task", "score"], rows=[["<b>", 1.5], ["x", None]], caption="c", strong_rows=[0]),
    Sample(text="</blockquote><script>alert(1)</script>\x1b[31m", prompt="Once", caption='"step" 1'),
    Marked(pieces=[Piece(text="a"), Piece(text="b", level=4, note='rank "9"')], legend=["low", "high"]),
]


def whole_page() -> str:
    charts: list[Block] = [LINES, LINES, BARS, SCATTER]
    return page(
        "A <title>",
        [
            Section(title="Charts", blocks=charts),
            Section(title="Texts", blocks=TEXTS),
            Section(title="None", blocks=[]),
        ],
        lead="lead",
        footer="foot",
    )


class Reader(HTMLParser):
    """Checks that every element is closed, and collects elements and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_well_formed_and_loads_and_runs_nothing() -> None:
    html = whole_page()
    reader = Reader()
    reader.feed(html)
    assert not reader.open
    names = {tag for tag, _ in reader.seen}
    assert not names & {"script", "link", "iframe", "img", "object", "form"}
    for _, attributes in reader.seen:
        assert not [key for key in attributes if key.startswith("on") or key == "src"]
        assert (attributes.get("href") or "#").startswith("#")
    assert "://" not in html
    assert "@import" not in html
    ids = [attributes["id"] for _, attributes in reader.seen if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for used in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", html):
        assert "".join(used) in ids


def test_texts_cannot_become_markup() -> None:
    html = whole_page()
    assert "<script>" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_text_cannot_turn_the_direction_of_what_follows() -> None:
    assert escape("a\u202eb\u061c\u2066c") == "a\ufffdb\ufffd\ufffdc"


def test_every_chart_has_a_name_and_its_numbers() -> None:
    html = whole_page()
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 4 == html.count("<summary>The numbers</summary>")
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert 'role="img"' in drawing and "aria-label=" in drawing
    assert "Loss &amp; more" in html


def test_no_colour_is_fixed() -> None:
    drawing = LINES.html("a")
    assert re.findall(r"#[0-9a-f]{6}\b", drawing) == []
    assert "var(--s1)" in drawing and "var(--ink)" in drawing


def test_a_page_is_the_same_each_time() -> None:
    assert whole_page() == whole_page()


def test_a_dollar_sign_in_a_name_is_one() -> None:
    assert "mean, $5 of it" in LINES.html("a")


def test_no_spike_is_lost_in_a_long_line() -> None:
    values: list[float | None] = [1.0] * 100_000
    values[77_777], values[3], values[50_000] = 9.0, None, math.nan
    kept = _extremes(values)
    assert 77_777 in kept and kept[0] == 0 and kept[-1] == 99_999
    assert len(kept) <= 1000


@pytest.mark.parametrize("chart", [LineChart, ScatterChart])
def test_a_chart_of_nothing_is_drawn(chart: type[LineChart] | type[ScatterChart]) -> None:
    empty = {"lines": []} if chart is LineChart else {"points": []}
    assert "<svg" in chart(title="t", x_label="x", y_label="y", **empty).html("a")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (-3, "−3"),
        (3.14159265, "3.142"),
        (0.00012345, "0.0001234"),
        (12345.678, "12,346"),
        (100.0, "100"),
        (0.0, "0"),
        (1e-9, "1e−09"),
        (float("nan"), "nan"),
        ("text", "text"),
    ],
)
def test_numbers_are_written_for_reading(value: object, text: str) -> None:
    assert readable(value) == text


@pytest.mark.long
def test_paper_is_filled_from_the_first_page_and_no_chart_is_cut(browser) -> None:
    section = Section(title="In short", blocks=[LINES])
    opened = browser.new_page()
    opened.set_content(page("A run", [section]))
    opened.emulate_media(media="print")
    breaks = "(e) => { const s = getComputedStyle(e); return [s.breakInside, s.breakAfter]; }"
    assert opened.locator("section").evaluate(breaks) == ["auto", "auto"]
    assert opened.locator("figure.chart").evaluate(breaks)[0] == "avoid"
    assert opened.locator("h2").evaluate(breaks)[1] == "avoid"
    opened.close()


def test_an_axis_of_parameters_counts_in_billions_as_the_sizes_beside_it_do() -> None:
    sizes = Points(name="paper", x=[124e6, 1.5e9], y=[35.0, 8.6], labels=["124M", "1.5B"])
    chart = ScatterChart(title="t", x_label="parameters", y_label="y", points=[sizes], log_x=True)
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", chart.html("c"))
    assert drawn.index("1B") < drawn.index("parameters") and "1G" not in drawn


def test_a_logarithmic_axis_has_numbers_enough_to_read_it_by() -> None:
    points = Points(name="p", x=[60e6, 1.5e9], y=[626.0, 35.8])
    chart = ScatterChart(title="t", x_label="x", y_label="y", points=[points], log_x=True, log_y=True)
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", chart.html("c"))
    assert {"100M", "200M", "500M", "1B", "50", "100", "200", "500"} <= set(drawn)


def test_a_legend_stands_above_the_drawing_where_a_narrow_page_shows_it() -> None:
    x = [0.0, 1.0]
    chart = LineChart(title="t", x_label="x", y_label="y", lines=[Line(name=n, x=x, y=x) for n in ("first", "other")])
    drawn = chart.html("c")
    top = min(float(y) for y in re.findall(r'd="M [\d.]+ [\d.]+ \nL [\d.]+ ([\d.]+) \n" clip-path', drawn))
    places = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(first|other)</text>', drawn)
    assert len(places) == 2 and all(float(x) < 340 and float(y) < top for x, y, _ in places)


def test_a_legend_has_as_many_columns_as_fit() -> None:
    def columns(*names: str) -> int:
        chart = LineChart(title="t", x_label="x", y_label="y", lines=[Line(name=n, x=[0, 1], y=[0, 1]) for n in names])
        return len(set(re.findall(rf'<text[^>]* x="([\d.]+)"[^>]*>(?:{"|".join(names)})</text>', chart.html("c"))))

    short, long = [f"own, setting {n}" for n in range(6)], [f"temperature 0.8, top-k {n}" for n in range(40, 44)]
    assert [columns(*short), columns(*long), columns("a" * 61, "b")] == [3, 2, 1]


def test_bars_of_counts_stand_over_whole_numbers() -> None:
    def drawn(*values: float) -> list[str]:
        chart = BarChart(title="t", y_label="y", names=["a", "b"], series={"s": values})
        return re.findall(r"<text[^>]*>([^<]*)</text>", chart.html("c"))

    assert {"0", "1", "2"} <= set(drawn(1, 2)) and not [each for each in drawn(1, 2) if "." in each]
    assert "0.5" in drawn(1.0, 2.0) or "0.50" in drawn(1.0, 2.0)
