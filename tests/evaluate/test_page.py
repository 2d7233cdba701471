"""The page of a result in Debian's Chromium: no violation of axe-core's rules, nothing wider than the screen."""

from pathlib import Path
from typing import Any

import pytest

from gpt2.evaluate import evaluate, find, page
from gpt2.language_model import LanguageModel

axe_package = pytest.importorskip("axe_playwright_python")

AXE = (Path(axe_package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def written(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of section, one of the benchmarks missing."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    benchmarks = [find(name) for name in ("lambada", "ptb", "wsc273", "1bw")]
    result = evaluate(model, benchmarks, None, version="1")
    lambada = result["benchmarks"]["lambada"]
    lambada["scores"], lambada["confidences"] = [0.0, 1.0] * 20, [i / 40 for i in range(40)]
    missing = {name: result["benchmarks"]["ptb"][name] for name in ("title", "protocol", "headline", "paper", "known")}
    result["benchmarks"]["ptb"] = missing | {"missing": "ptb.test.txt is not here."}
    file = tmp_path_factory.mktemp("report") / "page.html"
    file.write_text(page(result), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it(browser: Any, written: Path, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    shown = context.new_page()
    complaints: list[str] = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.goto(written.as_uri())
    assert shown.locator("h2").all_inner_texts() == [
        "In short",
        "Over model size",
        "What others measured",
        "Calibration",
        "Examples",
        "Every figure",
        "How it was measured",
        "Not here",
    ]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.evaluate(f"() => {{ {AXE} }}")
    found = shown.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == []
    assert complaints == []
    context.close()
