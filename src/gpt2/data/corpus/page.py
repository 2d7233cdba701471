"""A document on its way into the corpus, and the record of its being dropped.

Every step is a pure function `Page -> Page | Dropped`: its result depends on the page and the configuration, never on
earlier pages.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

Value = str | int | float


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A document.

    Attributes:
        where: file and place in it, for messages; with the source's name it makes the document's number.
        text: its text; empty until `html` is decoded.
        html: the bytes of a page that is not yet extracted; None for a text.
        charset: of `html`, as the server declared; may be empty or wrong.
        source: the name of its source.
        licence: of the text.
        address: its URL, if it has one.
        is_web: whether it came from the web, so that rules for web pages and masking apply.
        measures: what the steps measured, by name.
    """

    where: str
    text: str = ""
    html: bytes | None = None
    charset: str = ""
    source: str = ""
    licence: str = ""
    address: str = ""
    is_web: bool = False
    measures: Mapping[str, Value] = field(default_factory=dict[str, Value])

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same on every machine for the same place in the same source."""
        return hashlib.blake2b(f"{self.source}\n{self.where}".encode("utf-8", "replace"), digest_size=8).hexdigest()

    @property
    def host(self) -> str:
        """The host of the address, in lower case; empty if there is none."""
        try:
            return (urlsplit(self.address).hostname or "").lower()
        except ValueError:
            return ""

    def measured(self, **measures: Value) -> "Page":
        """A copy of the page with more measures."""
        return replace(self, measures={**self.measures, **measures})


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A page that a step dropped.

    Attributes:
        page: as the step saw it.
        reason: the rule, such as "language" or "gopher.max_duplicate_lines".
        detail: what was seen, such as "0.42 > 0.30".
    """

    page: Page
    reason: str
    detail: str = ""


Step = Callable[[Page], Page | Dropped]


def through(steps: "list[tuple[str, Step]]", page: Page) -> tuple[Page | Dropped, int]:
    """Take a page through the steps until one drops it; return the result and how many it passed."""
    for passed, (_, step) in enumerate(steps):
        result = step(page)
        if isinstance(result, Dropped):
            return result, passed
        page = result
    return page, len(steps)
