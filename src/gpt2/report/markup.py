"""Text as HTML: escaped, so that nothing a model wrote can become markup."""

import html as escaping
import re

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODE = re.compile("`([^`]+)`")


def escape(text: str) -> str:
    """Text for HTML and its attributes; characters that are invalid or change the writing direction become U+FFFD."""
    return escaping.escape(_UNSEEN.sub("\ufffd", text))


def paragraph(text: str) -> str:
    """A paragraph; text in backticks is code."""
    inside = _CODE.sub(r"<code>\1</code>", escape(text))
    return f"<p>{inside}</p>"


def caption(text: str, element: str = "figcaption") -> str:
    """The caption of a block; empty for an empty text."""
    return f"<{element}>{escape(text)}</{element}>" if text else ""
