"""Lists of addresses, and Reddit's submissions as such lists; their pages are fetched politely and cached.

WebText's rule for submissions: links with a score of at least 3, which people have thus recommended.
"""

import functools
import json
import tomllib
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt2.data.corpus.page import Page
from gpt2.data.corpus.sources.damage import Damage, OnDamage, OnRead
from gpt2.data.corpus.sources.fetch import Fetcher
from gpt2.data.corpus.sources.fetch_cache import Cache
from gpt2.data.corpus.sources.fetch_settings import FetchSettings
from gpt2.data.corpus.sources.stretches import Stretches
from gpt2.data.corpus.sources.web import charset_of
from gpt2.errors import DownloadError
from gpt2.files import cache_folder

LEAST_SCORE = 3
_BATCH = 256
_WINDOW_BYTES = 1 << 31  # the dumps' zstd window
_HTML = ("text/html", "application/xhtml+xml")


@functools.cache
def _not_text() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Endings of hosts and of paths that lead to no text."""
    lists = tomllib.loads(resources.files("gpt2.data.corpus.sources").joinpath("not_text.toml").read_text("utf-8"))
    return tuple(f".{host}" for host in lists["hosts"]), tuple(lists["endings"])


def read_addresses(path: Path, on_damage: OnDamage, on_read: OnRead, **fetching: Any) -> Iterator[Page]:
    """The pages of a list with one address a line; empty lines and lines that begin with # are skipped."""
    return _pages(_listed(path, on_damage, on_read), path, on_damage, fetching)


def _listed(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[str]:
    with Stretches(path, on_damage, on_read) as source:
        while source.next_stretch():
            while line := source.readline(1 << 16):
                address = line.decode("utf-8", "replace").strip()
                if address and not address.startswith("#"):
                    yield address


def read_reddit(path: Path, on_damage: OnDamage, on_read: OnRead, **fetching: Any) -> Iterator[Page]:
    """The pages that submissions of a dump link to, by WebText's rule."""
    return _pages(recommended(path, on_damage, on_read), path, on_damage, fetching)


def recommended(path: Path, on_damage: OnDamage, on_read: OnRead) -> Iterator[str]:
    """The addresses in a dump of submissions with a score of at least 3, not for adults only, that lead to text."""
    number = 0
    with Stretches(path, on_damage, on_read, window_bytes=_WINDOW_BYTES) as source:
        while source.next_stretch():
            while True:
                offset = source.offset
                line = source.readline(16 << 20)
                if not line:
                    break
                number += 1
                try:
                    value: Any = json.loads(line)
                    wanted = is_recommended(value)
                except (ValueError, RecursionError, TypeError, AttributeError) as error:
                    source.damage(offset, f"line {number:,} is no submission ({error})")
                    continue
                if wanted:
                    yield str(value["url"])


def is_recommended(submission: dict[str, Any]) -> bool:
    """Whether a submission's link belongs in the corpus."""
    if int(submission.get("score") or 0) < LEAST_SCORE or submission.get("over_18") or submission.get("is_self"):
        return False
    parts = urlsplit(str(submission.get("url") or ""))
    host = f".{(parts.hostname or '').lower()}"
    hosts, endings = _not_text()
    return parts.scheme in ("http", "https") and not host.endswith(hosts) and not parts.path.lower().endswith(endings)


def _pages(addresses: Iterable[str], path: Path, on_damage: OnDamage, fetching: dict[str, Any]) -> Iterator[Page]:
    settings: FetchSettings = fetching.get("settings") or FetchSettings()
    fetcher = Fetcher(Cache(Path(settings.cache) if settings.cache else cache_folder() / "pages"), **fetching)
    batch: list[str] = []
    number = 0
    for address in addresses:
        batch.append(address)
        if len(batch) == _BATCH:
            yield from _fetched(batch, number, fetcher, path, on_damage)
            number += len(batch)
            batch = []
    yield from _fetched(batch, number, fetcher, path, on_damage)


def _fetched(batch: list[str], number: int, fetcher: Fetcher, path: Path, on_damage: OnDamage) -> Iterator[Page]:
    """The pages of some addresses.

    Raises:
        DownloadError: there is no network; else a corpus without its pages would seem finished.
    """
    answers = fetcher.fetch_all(batch)
    if answers and not fetcher.was_online and all(got.offline for got in answers):
        raise DownloadError(
            f"The pages of {path} cannot be fetched: no host can be reached ({answers[0].problem}). If there is no "
            f"network, run the same command again when there is; if all hosts are gone, take the list out."
        )
    for place, (address, got) in enumerate(zip(batch, answers, strict=True), start=number + 1):
        kind = got.content_type.split(";")[0].strip().lower()
        if got.problem:
            on_damage(Damage(file=str(path), offset=0, why=f"address {place:,}, {address}: {got.problem}"))
        elif kind not in _HTML:
            on_damage(Damage(file=str(path), offset=0, why=f"address {place:,}, {address}: it is {kind or 'no page'}"))
        else:
            yield Page(
                where=f", address {place}",
                html=got.body,
                charset=charset_of(got.content_type),
                address=got.address,
                is_web=True,
            )
