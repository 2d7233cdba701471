"""From sources to a corpus in rounds of tasks; each task's output is whole or absent, so that nothing is done twice.

    read    an input -> documents that pass every step, and what finding duplicates needs      (a task an input)
    decide  all of that -> the fate of every document                                          (in this process)
    deal    documents -> hands for the output shards                                           (a task 64 MB of text)
    gather  hands -> an output shard in its final order                                        (a task a shard)

The result is the same for any number of workers and after any interruption: a task depends only on its own input and
on the rounds before it.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.data.corpus import confined
from gpt2.data.corpus.account import Account, Contents
from gpt2.data.corpus.config import CorpusConfig
from gpt2.data.corpus.dealing import DealJob, DealTask, deal_task, gather_task, shard_path, start_dealing
from gpt2.data.corpus.extract import require_extractors
from gpt2.data.corpus.fates import decide
from gpt2.data.corpus.finished import STATS_NAME, read_stats
from gpt2.data.corpus.progress import Progress, RoundMeter
from gpt2.data.corpus.reading import ReadJob, ReadTask, read_account, read_task, start_reading
from gpt2.data.corpus.rule_sets import make_steps, read_set
from gpt2.data.corpus.sources import Input, SourceSpec, find_inputs, skipped
from gpt2.data.corpus.steps import plan_steps
from gpt2.data.evaluation_sets import find_test_sets
from gpt2.data.folder_writer import refuse_other
from gpt2.data.overlap import NgramIndex, hash_examples
from gpt2.data.workers import Tally, run_tasks
from gpt2.errors import DataError, MissingExtraError
from gpt2.files import MANIFEST_NAME, lock, make_folder, read_json, sha256_file, write_json

SETTINGS_NAME = "settings.json"
_WEB_KINDS = ("warc", "html", "addresses", "reddit")
_log = logging.getLogger("gpt2")


def build(
    sources: Sequence[SourceSpec | str | Path],
    out: Path | str,
    *,
    config: CorpusConfig | None = None,
    workers: int = 1,
    keep_work: bool = False,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the corpus of these sources in the folder `out`, or finish what an earlier run began there.

    With `part=(i, n)`, i from 1, only the i-th of n shares of the inputs is read, and nothing more: n machines with a
    common folder can do that at the same time, and a call without a part then does the rest.

    With more than one worker, processes are spawned: a script that calls this must guard its main part by
    `if __name__ == "__main__"`.

    Returns:
        The content of `stats.json`: the configuration, the account of every step, and what the corpus contains. Empty
        for a part.

    Raises:
        SettingError: a configuration or rule set cannot be used.
        DataError: a source cannot be used, the part does not exist, nothing is left, or the folder holds another
            corpus.
        MissingExtraError: something that a source or step needs is not installed.
        FolderInUseError: another process is building there.
        OSError: the disk is full. What was finished is kept, and the same call resumes.
    """
    config = config or CorpusConfig()
    out = Path(out)
    specs = [one if isinstance(one, SourceSpec) else SourceSpec(path=str(one)) for one in sources]
    check_asked(specs, part)
    inputs = find_inputs(specs)
    _require(inputs)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} cannot be filled: it is a file. Choose the name of a folder.")
    settings = _settings(config, inputs)
    for name in settings["rule_sets"]:  # fails before the work, not after an hour of it
        make_steps(name)
    for one in inputs:
        plan_steps(config, one.spec.rules, None, has_html=False, is_web=one.kind in _WEB_KINDS)
    if part is not None:
        make_folder(out)
        _claim(out, settings)
        if not _is_built(out):
            _Build(config, inputs, out, workers, progress).run_part(*part)
            _log.info("%s: part %d of %d is read; once all are, the same without a part builds the corpus", out, *part)
        return {}
    with lock(out):
        _claim(out, settings)
        if _is_built(out):
            return read_stats(out)
        for said in skipped(specs):
            _log.info("%s", said)
        return _Build(config, inputs, out, workers, progress).run(keep_work=keep_work)


def _is_built(out: Path) -> bool:
    if is_built := (out / MANIFEST_NAME).is_file():
        _log.info("%s: already built", out)
    return is_built


def check_asked(sources: Sequence[SourceSpec], part: tuple[int, int] | None) -> None:
    """Refuse a build without sources or with an impossible part.

    Raises:
        DataError: there is no source, or no such part.
    """
    if not sources:
        raise DataError("There is nothing to build a corpus from: no source was named.")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise DataError(f"There is no part {part[0]} of {part[1]}: parts are counted from 1.")


def _require(inputs: Sequence[Input]) -> None:
    if find_spec("zstandard") is None:
        raise MissingExtraError.of("A corpus cannot be written", package="zstandard", extra="corpus")
    if any(one.kind in _WEB_KINDS for one in inputs):
        require_extractors()


def _settings(config: CorpusConfig, inputs: Sequence[Input]) -> dict[str, Any]:
    """All that decides the corpus, in JSON's types; rule sets and test sets by their content."""
    names = sorted({*config.rules, *config.text_rules, *(rule for one in inputs for rule in one.spec.rules or ())})
    settings = {
        **asdict(config),
        "rule_sets": {name: read_set(name) for name in names},
        "test_sets": {str(path): sha256_file(path) for path in find_test_sets(config.decontaminate)},
        "inputs": [
            {**asdict(one.spec), "path": None, "kind": one.kind, "files": one.labels, "bytes": one.bytes}
            for one in inputs
        ],
    }
    del settings["fetch"]
    return json.loads(json.dumps(settings))


def _claim(out: Path, settings: dict[str, Any]) -> None:
    path = out / SETTINGS_NAME
    strangers = [file.name for file in sorted(out.iterdir()) if not file.name.startswith(".")]
    if path.is_file():  # checked after the strangers: another machine may be writing it just now
        refuse_other(out, read_json(path, limit_bytes=64 << 20), settings)
        return
    if strangers:
        raise DataError(f"{out} cannot be filled: it holds {strangers[0]}, which no build left. Choose another folder.")
    write_json(path, settings)


class _Build:
    def __init__(
        self, config: CorpusConfig, inputs: list[Input], out: Path, workers: int, progress: Progress | None
    ) -> None:
        self.config, self.inputs, self.out, self.workers, self.progress = config, inputs, out, workers, progress
        self.work = out / "work"
        self.work.mkdir(exist_ok=True)
        self.tasks = [ReadTask(number=number, input=one) for number, one in enumerate(inputs)]
        self.account = Account()
        self.seconds: dict[str, float] = {}

    def run_part(self, part: int, parts: int) -> None:
        """Read the inputs of one share."""
        self._read_missing([task for task in self.tasks if task.number % parts == part - 1])

    def run(self, *, keep_work: bool) -> dict[str, Any]:
        self._read()
        clusters = self._decide()
        deals = self._plan_deals()
        text_bytes = sum(
            int(facts["bytes"].astype(np.int64).sum())
            for facts in (np.load(task.folder(self.out) / "facts.npy", mmap_mode="r") for task in self.tasks)
        )
        shards = max(1, -(-text_bytes // self.config.shard_bytes))
        job = DealJob(
            out=self.out, seed=self.config.seed, shards=shards, tally=Tally(), deals=tuple(deal.deal for deal in deals)
        )
        missing = [deal for deal in deals if not deal.deal.is_file()]
        self._round("deal", deal_task, missing, len(deals), start_dealing, job)
        for deal in deals:
            self.account.add(Account(**read_json(deal.deal.with_suffix(".json"), limit_bytes=64 << 20)))
        unwritten = [shard for shard in range(shards) if not shard_path(self.out, shard, work=True).is_file()]
        self._round("gather", gather_task, unwritten, shards, start_dealing, job)
        contents = Contents()
        for shard in range(shards):
            contents.add(Contents(**read_json(shard_path(self.out, shard, work=True), limit_bytes=256 << 20)))
        return self._finish(contents, clusters, shards, keep_work=keep_work)

    def _round(
        self,
        name: str,
        do: Callable[[Any], Any],
        tasks: Sequence[Any],
        total: int,
        start: Callable[..., None],
        job: ReadJob | DealJob,
    ) -> None:
        meter = RoundMeter(name, tasks, total, job.tally, self.progress)
        try:
            for _ in run_tasks(do, tasks, workers=self.workers, start=start, arguments=(job,), look=meter.tell):
                meter.finish_task()
        finally:
            confined.end()  # where a round ran in this process
        self.seconds[name] = meter.seconds

    def _read_missing(self, tasks: Sequence[ReadTask]) -> None:
        missing = [task for task in tasks if not (task.folder(self.out) / "account.json").is_file()]
        done = len(tasks) - len(missing)
        if done:
            _log.info("%s: resuming after %s tasks that an earlier run finished", self.out, f"{done:,}")
        job = ReadJob(config=self.config, out=self.out, tests=self._test_index() if missing else None, tally=Tally())
        self._round("read", read_task, missing, len(tasks), start_reading, job)

    def _read(self) -> None:
        self._read_missing(self.tasks)
        for task in self.tasks:
            account = read_account(task.folder(self.out))
            account.left = [0, 0]  # counted at the end
            self.account.add(account)
        for what in self.account.damage:
            _log.warning("unreadable: %s", what)
        if self.account.damaged > len(self.account.damage):
            _log.warning("and %s more", self.account.damaged - len(self.account.damage))

    def _test_index(self) -> NgramIndex | None:
        if not self.config.decontaminate:
            return None
        n = self.config.decontaminate_words
        hashes = (each for path in find_test_sets(self.config.decontaminate) for each in hash_examples(path, n))
        return NgramIndex(hashes, n=n)

    def _decide(self) -> dict[str, int]:
        path = self.work / "clusters.json"
        if not path.is_file():
            began = time.monotonic()
            folders = [task.folder(self.out) for task in self.tasks]
            fates = decide(folders, exact=self.config.duplicates, near=self.config.near_duplicates is not None)
            np.save(self.work / "fate.npy", fates.fate)
            np.save(self.work / "winner.npy", fates.winner)
            write_json(path, {str(size): count for size, count in sorted(fates.clusters.items())})
            self.seconds["decide"] = time.monotonic() - began
        return read_json(path, limit_bytes=64 << 20)

    def _plan_deals(self) -> list[DealTask]:
        deals: list[DealTask] = []
        first = 0
        for task in self.tasks:
            folder = task.folder(self.out)
            parts = np.load(folder / "facts.npy")["part"]
            for part, count in enumerate(np.bincount(parts).tolist()):
                deals.append(
                    DealTask(
                        part=folder / f"part-{part:03d}.jsonl.zst",
                        first=first,
                        count=count,
                        weight=task.input.spec.weight,
                        deal=self.work / f"deal-{task.number:06d}-{part:03d}.bin",
                    )
                )
                first += count
        return deals

    def _finish(self, contents: Contents, clusters: dict[str, int], shards: int, *, keep_work: bool) -> dict[str, Any]:
        config = json.loads(json.dumps(asdict(self.config)))
        stats = {
            "config": config,
            "account": asdict(self.account),
            "contents": {**asdict(contents), "tokens": contents.tokens},
            "clusters": clusters,
        }
        write_json(self.out / STATS_NAME, stats)
        files = [shard_path(self.out, shard) for shard in range(shards)]
        write_json(
            self.out / MANIFEST_NAME,
            {
                "documents": contents.documents,
                "bytes": contents.bytes,
                "tokens_estimated": contents.tokens,
                "files": {
                    path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                    for path in [*files, self.out / STATS_NAME, self.out / SETTINGS_NAME]
                },
            },
        )
        if not keep_work:
            shutil.rmtree(self.work, ignore_errors=True)
        _log.info("%s", " ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()))
        return stats
