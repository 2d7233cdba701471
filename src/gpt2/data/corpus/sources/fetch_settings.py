"""How pages are fetched: delays, limits, who asks and where answers are remembered."""

from dataclasses import dataclass

from gpt2.errors import SettingError
from gpt2.files import is_utf8

AGENT = "gpt2kit-corpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    """What a fetch may take. None of it is part of what a corpus is known by: a build may go on with others.

    Attributes:
        delay_seconds: between two requests to a host; its robots.txt may ask for more.
        most_delay_seconds: a host that asks for more is left alone.
        connect_seconds: for connecting and for each read.
        total_seconds: for a page, from the connection to the last byte.
        max_bytes: of a body, as sent and decompressed.
        redirects: how many are followed.
        tries: of a request that failed in a way that may mend; waits double.
        hosts: how many are asked at the same time.
        agent: the name given to servers and looked for in robots.txt; an address to write to may follow it.
        cache: the folder that remembers answers; empty means the user's cache folder.

    Raises:
        SettingError: a value that cannot be.
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
