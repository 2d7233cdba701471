"""The account of a corpus: how much went into each step, what each dropped and why, and a few samples.

Every task keeps its own account. Accounts add up to the same total in any order: counts are sums, and the samples are
the documents with the smallest keyed hashes, which is random but reproducible.
"""

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gpt2.data.corpus.page import Dropped, Page

HANDFUL = 6
KEPT = "kept: "  # before a step's name: samples of what it kept, not of what a reason dropped
_SHOWN_CHARACTERS = 1200
_TOLD_DAMAGE = 10


@dataclass(kw_only=True, slots=True)
class Account:
    """What happened to documents.

    Attributes:
        entered: documents and bytes of text into each step, by its name; for pages, bytes of HTML until extraction.
        dropped: documents and bytes by reason.
        samples: a few by reason, and, under `KEPT` and a step's name, of what the step kept.
        damage: the first things that could not be read; `damaged` counts all.
        left: documents and bytes that passed every step.
    """

    entered: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    dropped: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    damage: list[str] = field(default_factory=list[str])
    damaged: int = 0
    left: list[int] = field(default_factory=lambda: [0, 0])

    def enter(self, step: str, page: Page) -> None:
        """Count a page that enters a step."""
        _add(self.entered, step, _size(page))

    def keep(self, step: str, page: Page) -> None:
        """Count a page that a step kept."""
        self._sample(f"{KEPT}{step}", page, "")

    def drop(self, dropped: Dropped) -> None:
        """Count a page that a step dropped."""
        _add(self.dropped, dropped.reason, _size(dropped.page))
        self._sample(dropped.reason, dropped.page, dropped.detail)

    def finish(self, page: Page) -> None:
        """Count a page that passed every step."""
        self.left[0] += 1
        self.left[1] += _size(page)

    def tell_damage(self, what: object) -> None:
        """Note something that could not be read."""
        self.damaged += 1
        if len(self.damage) < _TOLD_DAMAGE:
            self.damage.append(str(what))

    def _sample(self, label: str, page: Page, detail: str) -> None:
        key = hashlib.blake2b(f"{label}\n{page.id}".encode(), digest_size=8).hexdigest()
        handful = self.samples.setdefault(label, [])
        if len(handful) == HANDFUL and key >= handful[-1]["key"]:
            return
        text = page.text if page.html is None or page.text else page.html[:_SHOWN_CHARACTERS].decode("utf-8", "replace")
        handful.append(
            {
                "key": key,
                "where": page.where,
                "source": page.source,
                "address": page.address,
                "detail": detail,
                "characters": len(page.text),
                "text": text[:_SHOWN_CHARACTERS],
            }
        )
        handful.sort(key=lambda one: one["key"])
        del handful[HANDFUL:]

    def add(self, other: "Account") -> None:
        """Add another account to this one; the order only decides which damage is listed."""
        for mine, theirs in ((self.entered, other.entered), (self.dropped, other.dropped)):
            for name, (documents, size) in theirs.items():
                _add(mine, name, size, documents)
        for label, handful in other.samples.items():
            both = [*self.samples.get(label, []), *handful]
            self.samples[label] = heapq.nsmallest(HANDFUL, both, key=lambda one: one["key"])
        self.damage = [*self.damage, *other.damage][: 5 * _TOLD_DAMAGE]
        self.damaged += other.damaged
        self.left = [self.left[0] + other.left[0], self.left[1] + other.left[1]]


def _add(table: dict[str, list[int]], name: str, size: int, documents: int = 1) -> None:
    line = table.setdefault(name, [0, 0])
    line[0] += documents
    line[1] += size


def _size(page: Page) -> int:
    return len(page.html) if page.html is not None else len(page.text.encode("utf-8", "replace"))


@dataclass(kw_only=True, slots=True)
class Contents:
    """What is in a finished corpus.

    Attributes:
        documents: in it; bytes: of their text; tokens: GPT-2's, counted on one document in sixteen of a large shard.
        sources, licences, languages, hosts: documents and bytes by name.
        lengths: documents by the power of two below their number of characters.
    """

    documents: int = 0
    bytes: int = 0
    counted_bytes: int = 0
    counted_tokens: int = 0
    sources: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    licences: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    languages: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    hosts: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    lengths: dict[str, int] = field(default_factory=dict[str, int])

    def see(self, record: dict[str, Any], host: str) -> int:
        """Count one document of the corpus; returns its bytes."""
        size = len(record["text"].encode("utf-8"))
        self.documents += 1
        self.bytes += size
        _add(self.sources, record["source"], size)
        _add(self.licences, record["licence"], size)
        _add(self.languages, str(record.get("language", "")), size)
        if host:
            _add(self.hosts, host, size)
        power = str(max(0, len(record["text"]).bit_length() - 1))
        self.lengths[power] = self.lengths.get(power, 0) + 1
        return size

    def add(self, other: "Contents") -> None:
        """Add another's counts to these."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.counted_bytes += other.counted_bytes
        self.counted_tokens += other.counted_tokens
        for name in ("sources", "licences", "languages", "hosts"):
            mine = getattr(self, name)
            for key, (documents, size) in getattr(other, name).items():
                _add(mine, key, size, documents)
        self.lengths = dict(Counter(self.lengths) + Counter(other.lengths))

    @property
    def tokens(self) -> int:
        """The estimated number of tokens."""
        return round(self.bytes * self.counted_tokens / self.counted_bytes) if self.counted_bytes else 0
