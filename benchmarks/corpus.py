"""Raw pages to a corpus, beside datatrove's pipeline of the same steps. Writes results/corpus.json.

    GPT2_WEB=DIR python benchmarks/corpus.py [--rounds 3] [--datatrove DIR]

The pages of GPT2_WEB's two extraction benchmarks (290, 39 MB of HTML) are written into one WARC. Both sides read it,
extract the main text, apply the rules of Gopher, C4 (without the one on line ends) and FineWeb, and write JSON Lines;
each round is a fresh process, in turn, and CPU time is counted. Language identification is left out on both sides, for
datatrove would fetch its model from the network. `--datatrove` is a folder that has datatrove installed, if this
environment has not (`pip install --target DIR datatrove[io,processing]`).
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
from pathlib import Path

import zstandard

from gpt2.bench import facts
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "corpus.json"

OURS = """
import sys
from gpt2.data.corpus import CorpusConfig, build
config = CorpusConfig(rules=("gopher", "c4-lines", "fineweb"), near_duplicates=None, duplicates=False, mask="none")
build([sys.argv[1]], sys.argv[2], config=config)
"""

THEIRS = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import JsonlWriter
LocalPipelineExecutor(
    pipeline=[
        WarcReader(sys.argv[1].rsplit("/", 1)[0], glob_pattern="*.warc.gz", default_metadata={}),
        Trafilatura(favour_precision=True, timeout=20),
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


def write_warc(web: Path, path: Path) -> tuple[int, int]:
    """All pages as one archive; how many there are and their bytes."""
    pages: list[tuple[str, bytes]] = []
    for name in ("scrapinghub-aeb", "trafilatura-eval"):
        with (web / "extraction" / f"{name}.jsonl.zst").open("rb") as file:
            lines = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file).read().decode().split("\n")
        for row in (json.loads(line) for line in lines if line):
            data = row["html"].encode() if "html" in row else base64.b64decode(row["html_b64"])
            pages.append((row["url"], data))
    with path.open("wb") as out:
        for number, (url, data) in enumerate(pages):
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + data
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
                f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: {url}\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
            )
            out.write(gzip.compress(head.encode() + block + b"\r\n\r\n", compresslevel=6))
    return len(pages), sum(len(data) for _, data in pages)


def run(program: str, warc: Path, out: Path, environment: dict[str, str]) -> float:
    """CPU seconds of a process and its children."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", program, str(warc), str(out)], check=True, env=environment, stderr=subprocess.PIPE
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datatrove", type=Path)
    chosen = parser.parse_args()
    if "GPT2_WEB" not in os.environ:
        sys.exit("GPT2_WEB does not name the folder of web-page test data.")

    environment = dict(os.environ)
    theirs = {**environment, **({"PYTHONPATH": str(chosen.datatrove)} if chosen.datatrove else {})}
    sides = {"gpt2 corpus": (OURS, environment), "datatrove": (THEIRS, theirs)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    documents: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as place:
        warc = Path(place) / "in" / "pages.warc.gz"
        warc.parent.mkdir()
        pages, html_bytes = write_warc(Path(os.environ["GPT2_WEB"]), warc)
        for turn in range(chosen.rounds):
            for name, (program, variables) in sides.items():
                out = Path(place) / f"{name.split()[0]}-{turn}"
                try:
                    seconds[name].append(run(program, warc, out, variables))
                except subprocess.CalledProcessError as error:
                    print(f"{name} failed: {error.stderr.decode(errors='replace')[-600:]}")
                    continue
                documents[name] = kept(out)
    found = {
        name: {
            "cpu_seconds": each,
            "pages_per_cpu_second": pages / statistics.median(each),
            "html_megabytes_per_cpu_second": html_bytes / 1e6 / statistics.median(each),
            "documents_kept": documents[name],
        }
        for name, each in seconds.items()
        if each
    }
    for name, one in found.items():
        print(f"{name:<14}{one['pages_per_cpu_second']:8.1f} pages/s of CPU{one['documents_kept']:6} documents kept")
    write_json(RESULT, {**facts(), "pages": pages, "html_bytes": html_bytes, "sides": found})


if __name__ == "__main__":
    main()
