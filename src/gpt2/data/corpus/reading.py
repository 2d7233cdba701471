"""The first round: read each input, take it through the steps, and write it with what finding duplicates needs.

A task's output is a folder that appears atomically:

    part-000.jsonl.zst …   the documents that passed, about 64 MB of text each, so that no later task needs more
    facts.npy, bands.npy, rows.npy   what finding duplicates needs: see runs.py
    account.json           what went in, what was dropped and why
"""

import hashlib
import json
import re
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from gpt2.data.corpus import confined
from gpt2.data.corpus.account import Account
from gpt2.data.corpus.config import CorpusConfig
from gpt2.data.corpus.page import Dropped, Page, Step
from gpt2.data.corpus.runs import RunWriter
from gpt2.data.corpus.sources import FETCHED, Input, read_input
from gpt2.data.corpus.steps import plan_steps
from gpt2.data.ngrams import words_of
from gpt2.data.overlap import NgramIndex
from gpt2.data.workers import Tally
from gpt2.files import atomic_folder, read_json, write_json

PART_BYTES = 64 << 20
_SPACE = re.compile(r"\s+")
_TRACKING = ("utm_", "fbclid", "gclid", "mc_cid", "mc_eid")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJob:
    """The arguments of every worker of the first round."""

    config: CorpusConfig
    out: Path
    tests: NgramIndex | None
    tally: Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadTask:
    """One input and its number."""

    number: int
    input: Input

    def folder(self, out: Path) -> Path:
        """The folder of its output."""
        return out / "work" / f"read-{self.number:06d}"


_job_here: list[ReadJob] = []


def start_reading(job: ReadJob) -> None:
    """Prepare this process for tasks."""
    _job_here[:] = [job]
    confined.begin()


def read_task(task: ReadTask) -> None:
    """Read one input into its folder."""
    job = _job_here[0]
    with atomic_folder(task.folder(job.out)) as folder:
        _Reading(job, task, folder).run()


class _Reading:
    def __init__(self, job: ReadJob, task: ReadTask, folder: Path) -> None:
        self.job, self.task, self.folder = job, task, folder
        self.account = Account()
        self.runs = RunWriter(job.config.near_duplicates)
        self.plans: dict[tuple[bool, bool], list[tuple[str, Step]]] = {}
        self.writer = PartWriter(folder)

    def run(self) -> None:
        tally = self.job.tally
        settings: dict[str, Any] = {"settings": self.job.config.fetch} if self.task.input.kind in FETCHED else {}
        with closing(self.writer):
            for page in read_input(self.task.input, self.account.tell_damage, tally.count_bytes, **settings):
                self._take(page)
                tally.count_documents()
        tally.flush()
        self.runs.save(self.folder)
        write_json(self.folder / "account.json", asdict(self.account))

    def _plan(self, page: Page) -> list[tuple[str, Step]]:
        key = page.html is not None, page.is_web
        if key not in self.plans:
            self.plans[key] = plan_steps(
                self.job.config, self.task.input.spec.rules, self.job.tests, has_html=key[0], is_web=key[1]
            )
        return self.plans[key]

    def _take(self, page: Page) -> None:
        self.account.enter("read", page)
        for name, step in self._plan(page):
            self.account.enter(name, page)
            result = step(page)
            if isinstance(result, Dropped):
                self.account.drop(result)
                return
            page = result
            self.account.keep(name, page)
        self.account.finish(page)
        self._write(page)

    def _write(self, page: Page) -> None:
        record = {
            "text": page.text,
            "source": page.source,
            "licence": page.licence,
            "id": page.id,
            **({"url": page.address} if page.address else {}),
            **page.measures,
        }
        size = len(page.text.encode("utf-8"))
        part = self.writer.write(record, size)
        normal = _SPACE.sub(" ", page.text).strip().lower()
        self.runs.add(
            words_of(page.text),
            address=address_hash(page.address),
            text=hash_text(normal),
            size=size,
            part=part,
        )


def hash_text(text: str) -> int:
    """64 bits of a text's BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def address_hash(address: str) -> int:
    """A number for an address, the same for its usual spellings; 0 for none.

    Scheme, `www.`, fragment, a final slash and tracking parameters are ignored.
    """
    if not address:
        return 0
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").lower().removeprefix("www.")
        port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    except ValueError:
        return hash_text(address) or 1
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True)]
    query = urlencode(sorted(pair for pair in kept if not pair[0].lower().startswith(_TRACKING)))
    return hash_text(f"{host}{port}{parts.path.rstrip('/')}?{query}") or 1


class PartWriter:
    """JSON Lines in zstd, a new file whenever one is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = -1
        self._size = 0
        self._out: Any = None

    def write(self, record: dict[str, Any], size: int) -> int:
        """Write one record; returns the number of its part."""
        if self._size >= PART_BYTES:
            self.close()
        out = self._out = self._out or self._open()
        out.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._size += size
        return self._part

    def _open(self) -> Any:
        import zstandard

        self._part += 1
        self._size = 0
        file = (self._folder / f"part-{self._part:03d}.jsonl.zst").open("wb")
        return zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=True)

    def close(self) -> None:
        """Finish the file that is open, if any."""
        if self._out is not None:
            self._out.close()
            self._out = None


def read_account(folder: Path) -> Account:
    """The account of a finished task."""
    return Account(**read_json(folder / "account.json", limit_bytes=64 << 20))
