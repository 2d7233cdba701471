"""Encoding beside tiktoken and tokenizers, and what loading costs. Writes results/tokenizer-speed.json.

    python benchmarks/tokenizer.py --corpus FOLDER [--megabytes 20] [--rounds 5] [--starts 15]

FOLDER (default $GPT2_CORPUS) holds train-000.jsonl.zst. All read the same documents, take turns, and must give the same
number of ids. "documents" are encoded one by one; "file" is all of them in one. Loading is the whole of a fresh process
less that of a bare Python. Beside the time stands the processor's time, which says more where other programs run too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tiktoken
import tokenizers
import zstandard

from gpt2.bench import facts
from gpt2.files import write_json
from gpt2.tokenizer import Tokenizer, encode_file

RESULT = Path(__file__).parent / "results" / "tokenizer-speed.json"
# tiktoken's own form of the pattern for this vocabulary
TIKTOKEN_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

TIKTOKEN_FROM_FILES = f"""
import os; os.environ["TIKTOKEN_CACHE_DIR"] = ""
import tiktoken, tiktoken.load
def load(folder):
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(folder + "/merges.txt", folder + "/vocab.json")
    special = {{"<|endoftext|>": 50256}}
    return tiktoken.Encoding("gpt2", pat_str={TIKTOKEN_PATTERN!r}, mergeable_ranks=ranks, special_tokens=special)
"""


def documents(corpus: Path, megabytes: float) -> list[str]:
    texts: list[str] = []
    left = megabytes * 1e6
    with (corpus / "train-000.jsonl.zst").open("rb") as file, zstandard.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            left -= len(texts[-1].encode())
            if left <= 0:
                return texts
    return texts


def cpu_seconds() -> float:
    """Processor time of this process and of those it started and that have ended (not on Windows)."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def speeds(texts: list[str], folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Megabytes of text a second, and a second of processor time, by the medians."""
    file = folder / "corpus.txt"
    whole = "\n".join(texts)
    file.write_bytes(whole.encode())
    ours = Tokenizer.published()
    scope: dict[str, Callable[[str], tiktoken.Encoding]] = {}
    exec(TIKTOKEN_FROM_FILES, scope)  # the very code whose loading is measured below
    openai = scope["load"](str(folder))
    huggingface = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ways: dict[str, Callable[[], int]] = {
        "documents: ours": lambda: sum(len(ours.encode(text)) for text in texts),
        "documents: ours, arrays": lambda: sum(len(ours.encode_array(text)) for text in texts),
        "documents: tiktoken": lambda: sum(len(openai.encode_ordinary(text)) for text in texts),
        "documents: tokenizers": lambda: sum(len(huggingface.encode(text).ids) for text in texts),
        "documents, 2 threads: tiktoken": lambda: sum(map(len, openai.encode_ordinary_batch(texts, num_threads=2))),
        "documents, all threads: tokenizers": lambda: sum(len(found.ids) for found in huggingface.encode_batch(texts)),
        "file: ours": lambda: sum(map(len, encode_file(ours, file))),
        "file, 2 processes: ours": lambda: sum(map(len, encode_file(ours, file, processes=2))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, int] = {}
    for _ in range(rounds):  # in turns, so that a slow moment hits all alike
        for name, encode in ways.items():
            begin, cpu_begin = time.perf_counter(), cpu_seconds()
            counts[name] = encode()
            seconds[name].append(time.perf_counter() - begin)
            cpu[name].append(cpu_seconds() - cpu_begin)
    for kind in ("documents", "file"):
        assert len({count for name, count in counts.items() if name.startswith(kind)}) == 1, counts
    megabytes = len(whole.encode()) / 1e6
    return {
        name: {
            "mb_per_second": megabytes / statistics.median(seconds[name]),
            "best_mb_per_second": megabytes / min(seconds[name]),
            "mb_per_cpu_second": megabytes / statistics.median(cpu[name]),
        }
        for name in ways
    }


def loading(folder: Path, times: int) -> dict[str, dict[str, float]]:
    """Milliseconds from nothing to a tokenizer, and to the first ids."""
    place = str(folder)
    programs = {
        "python": "pass",
        "ours: loaded": "from gpt2.tokenizer import Tokenizer; Tokenizer.published()",
        "ours: first ids": "from gpt2.tokenizer import Tokenizer; Tokenizer.published().encode('Hello world')",
        "tiktoken, its files here: first ids": f"{TIKTOKEN_FROM_FILES}\nload({place!r}).encode_ordinary('Hello world')",
        "tokenizers, tokenizer.json: first ids": "import tokenizers\n"
        f"tokenizers.Tokenizer.from_file({place + '/tokenizer.json'!r}).encode('Hello world')",
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    cpu: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(times):
        for name, program in programs.items():
            begin, cpu_begin = time.perf_counter(), cpu_seconds()
            subprocess.run([sys.executable, "-c", program], check=True)
            seconds[name].append(time.perf_counter() - begin)
            cpu[name].append(cpu_seconds() - cpu_begin)
    found = {
        name: {
            "median_ms": 1e3 * statistics.median(seconds[name]),
            "least_ms": 1e3 * min(seconds[name]),
            "cpu_ms": 1e3 * statistics.median(cpu[name]),
        }
        for name in programs
    }
    bare = found.pop("python")
    return {"python itself": bare} | {
        name: {measure: value - bare[measure] for measure, value in figures.items()} for name, figures in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=os.environ.get("GPT2_CORPUS"))
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=15)
    chosen = parser.parse_args()
    if chosen.corpus is None:
        print("skipped: no corpus; give --corpus, or set GPT2_CORPUS")
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Tokenizer.published().save(folder)
        load = loading(folder, chosen.starts)
        texts = documents(chosen.corpus, chosen.megabytes)
        speed = speeds(texts, folder, chosen.rounds)
    for way, figures in speed.items():
        print(f"{way:<38}" + "".join(f"{name} {value:6.2f}   " for name, value in figures.items()))
    for way, figures in load.items():
        print(f"{way:<38}" + "".join(f"{name} {value:6.1f}   " for name, value in figures.items()))
    settings = {name: getattr(chosen, name) for name in ("megabytes", "rounds", "starts")}
    write_json(RESULT, {**facts(), **settings, "encoding": speed, "loading": load})


if __name__ == "__main__":
    main()
