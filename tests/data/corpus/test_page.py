"""A corpus's page in a browser: on a desk and on a phone, light and dark, without a fault that axe-core knows."""

from pathlib import Path
from typing import Any

import pytest
from tests.data.corpus.test_build import FAST, write_source

from gpt2.data.corpus import build, write_page

axe: Any = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

pytestmark = pytest.mark.long


def test_the_page_can_be_read_anywhere(browser: Any, tmp_path: Path) -> None:
    stats = build([write_source(tmp_path / "a-source-with-a-name-that-is-rather-long")], tmp_path / "out", config=FAST)
    stats["account"]["samples"]["duplicate.near"][0]["address"] = "https://a.example/" + "x" * 300
    address = write_page(tmp_path / "out", stats).as_uri()
    for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [each["id"] for each in axe.Axe().run(page).response["violations"]] == []
        assert asked == [address]
        context.close()
