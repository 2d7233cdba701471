"""How to fetch pages: delays, limits, the agent's name and the cache."""

from dataclasses import dataclass

from gpt2.errors import SettingError
from gpt2.files import is_utf8

AGENT = "gpt2kit-corpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    """Settings of fetching. None is part of a corpus's identity, so a build may resume with others.

    Attributes:
        delay_seconds: between two requests to a host; its robots.txt may ask for more.
        most_delay_seconds: a host that asks for more is skipped.
        connect_seconds: for connecting and for each read.
        total_seconds: for a page, from the connection to the last byte.
        max_bytes: of a body, as sent and decompressed.
        redirects: how many to follow.
        tries: of a request after temporary failures; waits double.
        hosts: how many to ask at the same time.
        agent: the name sent to servers and looked for in robots.txt; a contact address may follow it.
        cache: the folder of cached answers; empty: the user's cache folder.

    Raises:
        SettingError: a value is invalid.
    """

    delay_seconds: float = 1.0
    most_delay_seconds: float = 30.0
    connect_seconds: float = 10.0
    total_seconds: float = 60.0
    max_bytes: int = 8 << 20
    redirects: int = 5
    tries: int = 3
    hosts: int = 16
    agent: str = AGENT
    cache: str = ""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("delay_seconds", 0, 3600),
            ("most_delay_seconds", 0, 3600),
            ("connect_seconds", 0.001, 3600),
            ("total_seconds", 0.001, 86_400),
            ("max_bytes", 1, 64 << 20),
            ("redirects", 0, 50),
            ("tries", 1, 20),
            ("hosts", 1, 256),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise SettingError(f"{name} of fetching must lie between {least:g} and {most:,}: got {value:,}.")
        if not self.agent.strip() or not self.agent.isascii() or not self.agent.isprintable():
            raise SettingError(f"agent of fetching must be printable ASCII: got {self.agent!r}.")
        if not is_utf8(self.cache):
            raise SettingError(f"cache of fetching cannot be {self.cache!r}: that is not UTF-8. Name another folder.")
