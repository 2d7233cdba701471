"""Draws what a notebook shows of looks inside gpt2-mini: `python docs/pictures/looks.py`.

Needs playwright (of the extra dev) and Chromium (`make browser`).
"""

import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import gpt2

PICTURE = Path(__file__).parent / "looks.png"
TEXT, SOURCE = "The boy was sad because", "The girl was sad because"


def main() -> None:
    model = gpt2.load("gpt2-mini")
    shown = {
        f'model.logit_lens("{TEXT}", best=1)': model.logit_lens(TEXT, best=1),
        f'model.ablate("{TEXT}", answer=" he", source="{SOURCE}")': model.ablate(TEXT, answer=" he", source=SOURCE),
        f'model.attention("{TEXT}", layer=3, head=1)': model.attention(TEXT, layer=3, head=1),
    }
    cells = "".join(f"<p><code>{call}</code></p>{look.html()}" for call, look in shown.items())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 860, "height": 100}, device_scale_factor=1.5)
        page.set_content(f'<meta charset=utf-8><body style="font:14px sans-serif;margin:8px 16px">{cells}')
        page.screenshot(path=PICTURE, full_page=True)
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
