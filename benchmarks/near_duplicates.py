"""Near duplicates among many short documents: seconds, memory, and which of the planted pairs are found.

    python benchmarks/near_duplicates.py [--documents 200000] [--work DIR] [--corpus DIR] [--out FILE]

With --corpus, the documents of a folder are read and searched instead. Without it, they are made, not read: 60 to 100
words each, drawn from 50,000 with a skewed frequency. Two of each hundred are an earlier document with one to six of
its words replaced, so that each planted pair's Jaccard similarity is known exactly, and with it how many pairs the
14 x 8 bands should find. A task is 100,000 documents, one after the other in this process: words, signature and sorted
runs on the disk as `gpt2 corpus build` leaves them; then all are decided at once. Making the texts is not timed.
With --work the tasks stay in that folder, and a run that was stopped goes on behind the last that is whole.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.bench import facts
from gpt2.data.corpus.fates import KEPT, NEAR, decide
from gpt2.data.corpus.minhash import MinHash
from gpt2.data.corpus.runs import RunWriter
from gpt2.data.corpus.sources import SourceSpec, find_inputs, read_input
from gpt2.data.ngrams import words_of
from gpt2.files import atomic_folder, write_json

RESULT = Path(__file__).parent / "results" / "near_duplicates.json"
TASK = 100_000
PLANTED = TASK // 50
RUNS = ("facts.npy", "bands.npy", "rows.npy")
LEAST_WORDS, MOST_WORDS, VOCABULARY = 60, 100, 50_000
Ids = NDArray[np.int64]


def drawn(task: int, part: int, count: int) -> tuple[Ids, Ids]:
    """Word numbers [count, MOST_WORDS] and lengths [count] of documents."""
    draw = np.random.default_rng((task, part))
    words = (VOCABULARY * draw.random((count, MOST_WORDS)) ** 3).astype(np.int64)
    return words, draw.integers(LEAST_WORDS, MOST_WORDS + 1, count)


def documents(task: int, count: int) -> tuple[Ids, Ids, NDArray[np.float64]]:
    """Those of a task: the first are originals, the last copies of the task before; and each copy's similarity."""
    first, first_lengths = drawn(task, 0, PLANTED)
    rest, rest_lengths = drawn(task, 1, count - PLANTED)
    words, lengths = np.concatenate([first, rest]), np.concatenate([first_lengths, rest_lengths])
    if task == 0:
        return words, lengths, np.empty(0)
    originals, original_lengths = drawn(task - 1, 0, PLANTED)
    copies = originals.copy()
    draw = np.random.default_rng((task, 2))
    alike = np.empty(PLANTED)
    for row in range(PLANTED):
        size = int(original_lengths[row])
        places = draw.choice(size, int(draw.integers(1, 7)), replace=False)
        copies[row, places] = draw.integers(VOCABULARY, 2 * VOCABULARY, places.size)
        one, other = shingles(originals[row, :size]), shingles(copies[row, :size])
        alike[row] = len(one & other) / len(one | other)
    words[-PLANTED:], lengths[-PLANTED:] = copies, original_lengths
    return words, lengths, alike


def shingles(words: Ids) -> set[tuple[int, ...]]:
    """The 5-grams of a document."""
    plain = words.tolist()
    return {tuple(plain[at : at + 5]) for at in range(len(plain) - 4)}


def write_runs(folder: Path, task: int, names: list[str]) -> None:
    """One task's output, and what was seen of it: each copy's similarity, and in `task.json` time, memory and size."""
    words, lengths, alike = documents(task, TASK)
    texts = [" ".join([names[word] for word in row[:size]]) for row, size in zip(words.tolist(), lengths, strict=True)]
    del words, lengths
    with atomic_folder(folder) as place:
        began = time.process_time()
        runs = RunWriter(MinHash())
        for number, text in enumerate(texts, start=task * TASK):
            runs.add(words_of(text), address=0, text=number, size=len(text), part=0, order=number)
        runs.save(place)
        seconds = time.process_time() - began
        np.save(place / "alike.npy", alike)
        seen = {"cpu_seconds": seconds, "characters": sum(map(len, texts)), "peak_memory_bytes": peak_memory()}
        write_json(place / "task.json", seen)


def peak_memory() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def search_corpus(folder: Path) -> dict[str, Any]:
    """Near duplicates of the documents in a folder: what they cost, and how many there are."""
    signing = 0.0
    count = characters = 0
    with tempfile.TemporaryDirectory() as place:
        folders: list[Path] = []
        for number, one in enumerate(find_inputs([SourceSpec(path=str(folder))])):
            folders.append(Path(place) / f"task-{number:06d}")
            folders[-1].mkdir()
            runs = RunWriter(MinHash())
            for page in read_input(one, lambda damage: None, lambda n_bytes: None):
                began = time.process_time()
                runs.add(words_of(page.text), address=0, text=count, size=0, part=0, order=0)
                signing += time.process_time() - began
                count += 1
                characters += len(page.text)
            began = time.process_time()
            runs.save(folders[-1])
            signing += time.process_time() - began
        began = time.process_time()
        fates = decide(folders, exact=False, near=True)
        deciding = time.process_time() - began
    return {
        "documents": count,
        "characters": characters,
        "pairs": sum(size * (size - 1) // 2 * many for size, many in fates.clusters.items()),
        "clusters": {str(size): many for size, many in fates.clusters.items()},
        "dropped": int((fates.fate == NEAR).sum()),
        "sign_cpu_seconds": signing,
        "decide_cpu_seconds": deciding,
        "peak_memory_bytes": peak_memory(),
    }


def search_made(n_documents: int, work: Path) -> dict[str, Any]:
    """Near duplicates of made documents: what they cost, and which of the planted pairs are found."""
    tasks = max(2, n_documents // TASK)
    folders = [work / f"task-{task:06d}" for task in range(tasks)]
    names = [f"w{number:x}" for number in range(2 * VOCABULARY)]
    for task, folder in enumerate(folders):
        if not folder.is_dir():
            write_runs(folder, task, names)
    made = [json.loads((folder / "task.json").read_text()) for folder in folders]
    began, wall = time.process_time(), time.monotonic()
    fates = decide(folders, exact=False, near=True)
    deciding, wall = time.process_time() - began, time.monotonic() - wall

    copies = np.concatenate([np.arange((task + 1) * TASK - PLANTED, (task + 1) * TASK) for task in range(1, tasks)])
    originals = np.concatenate([np.arange(task * TASK, task * TASK + PLANTED) for task in range(tasks - 1)])
    flagged = fates.winner[copies] == fates.winner[originals]
    likeness = np.concatenate([np.load(folder / "alike.npy") for folder in folders])
    return {
        "documents": tasks * TASK,
        "characters": sum(one["characters"] for one in made),
        "planted_pairs": len(copies),
        "planted_pairs_found": int(flagged.sum()),
        "planted_pairs_expected": float(sum(MinHash().chance(value) for value in likeness)),
        "found_by_similarity": {
            f"{low:.1f}": [int(flagged[part].sum()), int(part.sum())]
            for low in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
            if (part := (likeness >= low) & (likeness < low + 0.1)).any()
        },
        "others_dropped": int((fates.fate == NEAR).sum()) - int(flagged.sum()),
        "kept": int((fates.fate == KEPT).sum()),
        "sign_cpu_seconds": sum(one["cpu_seconds"] for one in made),
        "decide_cpu_seconds": deciding,
        "decide_seconds": wall,
        "runs_bytes": sum((folder / name).stat().st_size for folder in folders for name in RUNS),
        "peak_memory_bytes_signing": max(one["peak_memory_bytes"] for one in made),
        "peak_memory_bytes": peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--work", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = chosen.work or Path(place)
        found = search_corpus(chosen.corpus) if chosen.corpus else search_made(chosen.documents, work)
    print(json.dumps(found, indent=1))
    write_json(chosen.out, {**facts(), **found})


if __name__ == "__main__":
    main()
