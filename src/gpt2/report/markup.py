"""Text as HTML: escaped, so that nothing a model wrote can become part of the page."""

import html as escaping
import re

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODE = re.compile("`([^`]+)`")


def escape(text: str) -> str:
    """Text for HTML, attributes included; what cannot be shown, or turns the direction of writing, becomes U+FFFD."""
    return escaping.escape(_UNSEEN.sub("\ufffd", text))


def paragraph(text: str) -> str:
    """A paragraph; what stands in backticks is code."""
    inside = _CODE.sub(r"<code>\1</code>", escape(text))
    return f"<p>{inside}</p>"


def caption(text: str, element: str = "figcaption") -> str:
    """What is said above a block; nothing, if nothing is."""
    return f"<{element}>{escape(text)}</{element}>" if text else ""
