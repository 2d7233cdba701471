"""Draws the page of `gpt2 serve`, light and dark: `python docs/pictures/page.py http://127.0.0.1:8000/`.

Needs a server that runs, playwright (of the extra dev) and Chromium (`make browser`).
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

FOLDER = Path(__file__).parent
expect.set_options(timeout=60_000)  # of a busy machine
HUMAN = """When I wrote the following pages, or rather the bulk of them, I lived alone, in the woods, a mile from any \
neighbor, in a house which I had built myself, on the shore of Walden Pond, in Concord, Massachusetts, and earned my \
living by the labor of my hands only. I lived there two years and two months. At present I am a sojourner in civilized \
life again.

I should not obtrude my affairs so much on the notice of my readers if very particular inquiries had not been made by \
my townsmen concerning my mode of life, which some would call impertinent, though they do not appear to me at all \
impertinent, but, considering the circumstances, very natural and pertinent. Some have asked what I got to eat; if I \
did not feel lonesome; if I was not afraid; and the like.

"""  # Thoreau, Walden, 1854
TEXT = "Once upon a time, there was a little girl named Lily. She loved her"


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1360, "height": 860}, color_scheme=scheme, base_url=url)
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
            keep(page, f"page-{scheme}.png")
            if scheme == "light":
                page.locator("#tab-detect").click()
                page.locator("#detect-text").fill(HUMAN + written(page))
                page.locator("#detect-run").click()
                expect(page.locator("#detect-said .answer")).not_to_be_empty()
                page.wait_for_timeout(300)
                keep(page, "detect-light.png")
            context.close()
        browser.close()


def written(page: Page) -> str:
    """What the model itself writes, its prompt included, by its default settings of the page."""
    body = {"prompt": "Once upon a time", "max_tokens": 330, "temperature": 0.8, "top_k": 40, "seed": 3}
    return f"{body['prompt']}{page.request.post('v1/completions', data=body).json()['choices'][0]['text']}"


def keep(page: Page, name: str) -> None:
    """A screenshot of few colours, small things' own among them."""
    picture = FOLDER / name
    page.screenshot(path=picture)
    few = Image.open(picture).convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
