"""Runs `gpt2 generate` and draws what the terminal shows as demo.svg, which the README shows.

python docs/pictures/demo.py
"""

import html
import subprocess
import sys
import textwrap
from pathlib import Path

COLUMNS = 72  # legible on a phone too
WIDTH = 656
LINE_HEIGHT = 21
PROMPT = "Once upon a time"
COMMAND = ["generate", PROMPT, "--max-tokens", "110", "--seed", "2"]


def main() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpt2", *COMMAND], capture_output=True, encoding="utf-8", check=True, timeout=120
    )
    told = done.stdout.rstrip("\n").removeprefix(PROMPT)
    story = [line for part in (PROMPT + told).split("\n") for line in textwrap.wrap(part, COLUMNS) or [""]]
    lines = [("prompt", '$ make demo PROMPT="Once upon a time"'), *(("text", line) for line in story)]
    lines += [("said", line) for said in done.stderr.splitlines() for line in textwrap.wrap(said, COLUMNS)]
    Path(__file__).with_name("demo.svg").write_text(svg(lines), encoding="utf-8")


def svg(lines: list[tuple[str, str]]) -> str:
    height = 64 + LINE_HEIGHT * len(lines)
    rows = "\n".join(
        f'<text class="{kind}" x="24" y="{64 + LINE_HEIGHT * row}">{html.escape(line)}</text>'
        for row, (kind, line) in enumerate(lines)
    )
    size = f'width="{WIDTH}" viewBox="0 0 {WIDTH} {height}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="A terminal">
<style>
text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; fill: #e6e6e6 }}
.prompt {{ fill: #7ee787 }}
.said {{ fill: #8b949e }}
</style>
<rect width="{WIDTH}" height="{height}" rx="10" fill="#161b22"/>
<circle cx="26" cy="22" r="6" fill="#ff5f57"/>
<circle cx="46" cy="22" r="6" fill="#febc2e"/>
<circle cx="66" cy="22" r="6" fill="#28c840"/>
{rows}
</svg>
"""


if __name__ == "__main__":
    main()
