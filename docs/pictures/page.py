"""Draws the page of `gpt2 serve`, light and dark: `python docs/pictures/page.py http://127.0.0.1:8000/`.

Needs a server that runs, playwright (of the extra dev) and Chromium (`make browser`).
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

FOLDER = Path(__file__).parent
TEXT = "Once upon a time, there was a little girl named Lily. She loved her"


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1360, "height": 860}, color_scheme=scheme)
            page = context.new_page()
            page.goto(url)
            expect(page.locator("#state")).to_have_attribute("data-state", "ready")
            page.locator("details.more").evaluate("(details) => { details.open = true; }")
            page.locator("#set-seed").fill("11")
            page.locator("details.more").evaluate("(details) => { details.open = false; }")
            page.locator("#set-max_tokens").fill("90")
            page.locator("#text").fill(TEXT)
            page.keyboard.press("Control+Enter")
            expect(page.locator("#progress")).to_contain_text("a second")
            page.locator("#text").evaluate("(area) => area.setSelectionRange(30, 30)")
            expect(page.locator("#inspector .bar.after").first).to_be_visible()
            page.wait_for_timeout(1000)
            picture = FOLDER / f"page-{scheme}.png"
            page.screenshot(path=picture)
            Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
