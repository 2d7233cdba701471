"""The page around the blocks: escaped HTML and its style, without scripts or external resources."""

from collections.abc import Iterator, Sequence
from importlib import resources

from gpt2.report.blocks import Section
from gpt2.report.markup import escape, paragraph

# Whatever a text in the page contains, it may load nothing and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(title: str, sections: Sequence[Section], *, lead: str = "", footer: str = "") -> str:
    """A whole HTML file.

    Args:
        title: of the page.
        sections: its parts; a page of three or more begins with a list of them.
        lead: a sentence or two below the title.
        footer: small print, such as the command and versions that made the page.
    """
    return "\n".join(_page(title, sections, lead, footer)) + "\n"


def _page(title: str, sections: Sequence[Section], lead: str, footer: str) -> Iterator[str]:
    style = (resources.files("gpt2.report") / "page.css").read_text(encoding="utf-8")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>"
    yield f"<header><h1>{escape(title)}</h1>"
    if lead:
        yield paragraph(lead)
    yield "</header>"
    if len(sections) > 2:
        links = "".join(f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections, 1))
        yield f'<nav aria-label="Contents"><ol>{links}</ol></nav>'
    for i, section in enumerate(sections, 1):
        yield f'<section id="s{i}" aria-labelledby="h{i}">\n<h2 id="h{i}">{escape(section.title)}</h2>'
        for j, block in enumerate(section.blocks, 1):
            yield paragraph(block) if isinstance(block, str) else block.html(f"s{i}b{j}")
        yield "</section>"
    if footer:
        yield f"<footer>{paragraph(footer)}</footer>"
    yield "</main>\n</body>\n</html>"
