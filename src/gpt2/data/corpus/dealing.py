"""The last two rounds: deal kept documents to output shards by a hash, then sort each shard by it and write it.

A document's place in the corpus is a 64-bit hash of the seed and its number: the first bits choose the shard, all of
them the order. So the shuffle is global, needs no memory, and does not depend on the workers. A deal's file holds a
table of offsets, then a zstd frame for every shard.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.data.corpus.account import Account, Contents
from gpt2.data.corpus.fates import KEPT, REASONS
from gpt2.data.corpus.page import Dropped, Page
from gpt2.data.corpus.reading import hash_text
from gpt2.data.workers import Tally
from gpt2.errors import DataError
from gpt2.files import atomic_file, write_json
from gpt2.tokenizer import Tokenizer

_COUNTED_SHARE = 16  # the tokens of one document in so many are counted
_COUNTED_WHOLE = 512  # in a shard of up to so many documents, all are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class DealJob:
    """The arguments of every worker of these rounds.

    Attributes:
        out: the corpus's folder.
        seed: of the shuffle and of the choice of documents by a fractional weight.
        shards: how many output shards there are.
        tally: counts documents.
        deals: the files of all deals, in order.
    """

    out: Path
    seed: int
    shards: int
    tally: Tally
    deals: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DealTask:
    """One part of the first round's output.

    Attributes:
        part: the file.
        first: the number of its first document among all; `count` is how many it has.
        weight: how often to take each.
        deal: the file to write; its account is beside it as .json.
    """

    part: Path
    first: int
    count: int
    weight: float
    deal: Path


_job_here: list[tuple[DealJob, NDArray[np.uint8], NDArray[np.int64]]] = []


def start_dealing(job: DealJob) -> None:
    """Prepare this process for tasks of both rounds."""
    fates = np.load(job.out / "work" / "fate.npy", mmap_mode="r")
    winners = np.load(job.out / "work" / "winner.npy", mmap_mode="r")
    _job_here[:] = [(job, fates, winners)]


def deal_task(task: DealTask) -> None:
    """Deal the kept documents of one part to the shards."""
    import zstandard

    job, fates, winners = _job_here[0]
    account = Account()
    hands: list[list[bytes]] = [[] for _ in range(job.shards)]
    count = 0
    for row, line in enumerate(_lines(task.part)):
        count += 1
        record: dict[str, Any] = json.loads(line)
        number = task.first + row
        page = _page_of(record)
        if fates[number] != KEPT:
            detail = f"as document {winners[number]:,}, which is kept"
            account.drop(Dropped(page=page, reason=REASONS[fates[number]], detail=detail))
            continue
        drawn = hash_text(f"{job.seed}\nweight\n{record['id']}") / 2**64
        copies = int(task.weight) + (drawn < task.weight % 1)
        if not copies:
            account.drop(Dropped(page=page, reason="sampling.weight", detail=f"of each {task.weight:g} is taken"))
            continue
        account.finish(page)
        for copy in range(copies):
            key = hash_text(f"{job.seed}\n{copy}\n{record['id']}")
            other = {**record, "id": f"{record['id']}-{copy}"}
            data = json.dumps(other, ensure_ascii=False).encode() if copy else line
            hands[key * job.shards >> 64].append(b"%016x " % key + data)
        job.tally.count_documents()
    job.tally.flush()
    if count != task.count:
        raise DataError(f"{task.part} holds {count:,} documents, not the {task.count:,} that were written. Build anew.")
    compressor = zstandard.ZstdCompressor(level=1)
    frames = [compressor.compress(b"\n".join(hand)) if hand else b"" for hand in hands]
    write_json(task.deal.with_suffix(".json"), asdict(account))
    with atomic_file(task.deal) as file:
        file.write(np.cumsum([0, *map(len, frames)], dtype=np.uint64).tobytes())
        for frame in frames:
            file.write(frame)


def _page_of(record: dict[str, Any]) -> Page:
    return Page(where=record["id"], text=record["text"], source=record["source"], address=record.get("url", ""))


def _lines(part: Path) -> Iterator[bytes]:
    import zstandard

    with part.open("rb") as file:
        yield from (line.rstrip(b"\n") for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file)))


def gather_task(shard: int) -> None:
    """Write one output shard: its documents of all deals, in the order of their hash."""
    import zstandard

    job, _, _ = _job_here[0]
    lines: list[bytes] = []
    table_bytes = 8 * (job.shards + 1)
    for deal in job.deals:
        with deal.open("rb") as file:
            table = np.frombuffer(file.read(table_bytes), np.uint64)
            begin, end = int(table[shard]), int(table[shard + 1])
            if end > begin:
                file.seek(table_bytes + begin)
                lines += zstandard.ZstdDecompressor().decompress(file.read(end - begin)).split(b"\n")
    lines.sort()
    contents = Contents()
    tokenizer = Tokenizer.published()
    share = 1 if len(lines) <= _COUNTED_WHOLE else _COUNTED_SHARE
    with (
        atomic_file(shard_path(job.out, shard)) as file,
        zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as out,
    ):
        for line in lines:
            out.write(line[17:] + b"\n")
            record: dict[str, Any] = json.loads(line[17:])
            size = contents.see(record, _page_of(record).host)
            if int(line[:16], 16) % share == 0:
                contents.counted_bytes += size
                contents.counted_tokens += len(tokenizer.encode(record["text"]))
    write_json(shard_path(job.out, shard, work=True), asdict(contents))
    job.tally.count_documents(len(lines))
    job.tally.flush()


def shard_path(out: Path, shard: int, *, work: bool = False) -> Path:
    """The path of an output shard or, with `work`, of its facts while the corpus is built."""
    return out / "work" / f"shard-{shard:05d}.json" if work else out / f"corpus-{shard:05d}.jsonl.zst"
