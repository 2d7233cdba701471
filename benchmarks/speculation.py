"""What drafts save: texts with and without, and what a wider step costs. Writes results/speculation.json.

    python benchmarks/speculation.py [--rounds 5] [--tokens 200] [--shapes gpt2 gpt2-xl] [--weights int8]
        [--work DIR] [--skip-texts] [--out FILE]

1. `texts`: gpt2-mini, each kind of text plain and with n-gram drafts in turn; the texts are checked to be the same.
2. `steps`: weights drawn at random in published shapes, a step of k rows after 128 tokens: what verifying costs.
3. `replays`: the same weights compute every step, and then the next token of a text that gpt2-mini wrote, or of an
   article, is taken for theirs: how many drafts are right is that text's, what a step costs is the large model's.
   gpt2-mini as a draft model is always right about its own texts: so that is tried on the article alone.
4. `smaller`: gpt2-xl with 124M as its draft model, both of random weights, on the article: each guess costs a step of
   124M, and as many are right as is said. How often published weights agree is another question.

Ratios are medians over rounds in turn, of time on the clock and of processor time (user and system, all threads),
which hardly minds what else the machine is doing.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import gpt2
from gpt2 import backends, checkpoint
from gpt2.backends import Backend, Result, Want, Work
from gpt2.bench import facts
from gpt2.checkpoint import shapes
from gpt2.config import PUBLISHED, ModelConfig
from gpt2.files import write_json
from gpt2.generation import Drafter, ModelDrafter, NgramDrafter, Request, Sampling, Scheduler, Usage
from gpt2.generation.draft_model import cost_of
from gpt2.tasks import Prompts, summarize
from gpt2.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "speculation.json"
ROWS = (1, 2, 3, 4, 5, 8, 12, 16)
AGREEMENTS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

STORY = "Once upon a time there was a little girl"
WHO = ("girl", "boy", "king", "cat", "dog", "tree", "bird", "ship")
ARTICLE = """The old bridge over the river was closed on Monday after engineers found a crack in one of its arches.
The town said that the bridge, which was built two hundred years ago, would stay closed until the crack
had been repaired. People who live on the other side of the river must now drive for half an hour to
reach the town. The school has asked parents to bring their children by boat. A boat has been lent by
the fishermen of the town, and it crosses the river every twenty minutes. The mayor said that the bridge
would be repaired before the winter, and that the town would pay for the boat until then. The fishermen
said that the river was quiet at this time of the year and that the crossing was safe."""

LIST = "".join(f"Name: {name}\nCity: {city}\nPaid: yes\n\n" for name, city in zip(
    ("Anna", "Bert", "Clara", "David"), ("London", "Paris", "Rome", "Berlin"), strict=True))  # fmt: skip


class Drawn:
    """Weights of a shape, made array by array when they are asked for: they take no memory beside the packed."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._shapes = shapes(config)
        self._block = 0.02 * np.random.default_rng(0).standard_normal(1_000_003, np.float32)

    def float32(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.full(shape, name.endswith(".g"), np.float32)
        return np.resize(self._block, shape)


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, seconds on the clock, and seconds of the processor."""
    before, begin = os.times(), time.perf_counter()
    found = action()
    seconds, after = time.perf_counter() - begin, os.times()
    return found, seconds, after.user + after.system - before.user - before.system


def texts(rounds: int, n_tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with gpt2.load("gpt2-mini") as model:
        asked = summarize.ask(ARTICLE, prompts=Prompts.ours().summarize, room=model.room)
        kinds: dict[str, tuple[list[str], Sampling]] = {
            "summary, top-k 2": ([asked.prompt], asked.sampling),
            "story, greedy": ([STORY], Sampling(temperature=0)),
            "records, greedy": ([LIST + "Name:"], Sampling(temperature=0)),
            "story, temperature 0.8, top-k 40": ([STORY], Sampling(temperature=0.8, top_k=40)),
            "8 stories, greedy": (
                [f"Once upon a time there was a {who}" for who in WHO],
                Sampling(temperature=0),
            ),
        }
        for kind, (prompts, sampling) in kinds.items():
            sampling = replace(sampling, seed=1, max_tokens=n_tokens, ignore_eot=True)
            found[kind] = line = compare_drafts(
                lambda draft, prompts=prompts, sampling=sampling: model.generate(prompts, sampling, draft=draft), rounds
            )
            print(f"{kind:<34}" + told(line), flush=True)
        return {"model": repr(model), "tokens": n_tokens, "kinds": found}


def compare_drafts(generate: Callable[[str], Any], rounds: int, kind: str = "ngram") -> dict[str, Any]:
    """Plain and drafts of a kind in turn."""
    runs: dict[str, list[tuple[float, float]]] = {"none": [], kind: []}
    completions: dict[str, Any] = {}
    for _ in range(rounds):
        for draft, times in runs.items():
            completions[draft], *seconds = timed(lambda draft=draft: generate(draft))
            times.append(tuple(seconds))
    assert completions["none"] == completions[kind], "a draft changed a text"
    usages: list[Usage] = [completion.usage for completion in completions[kind]]
    n_tokens = sum(usage.generated_tokens for usage in usages)
    pairs = list(zip(runs["none"], runs[kind], strict=True))
    return {
        "generated_tokens": n_tokens,
        "drafted_tokens": sum(usage.drafted_tokens for usage in usages),
        "accepted_tokens": sum(usage.accepted_tokens for usage in usages),
        "plain_tokens_per_second": n_tokens / statistics.median(clock for clock, _ in runs["none"]),
        "clock_ratio": statistics.median(plain[0] / drafted[0] for plain, drafted in pairs),
        "processor_ratio": statistics.median(plain[1] / drafted[1] for plain, drafted in pairs),
        "seconds": runs,
    }


def told(line: dict[str, Any]) -> str:
    return (
        f"{line['accepted_tokens']:4} of {line['drafted_tokens']:4} drafts right, {line['generated_tokens']:5} tokens; "
        f"{line['clock_ratio']:5.2f}x by the clock, {line['processor_ratio']:5.2f}x of the processor"
    )


def steps(backend: Backend, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of k rows after 128 tokens."""
    draw = np.random.default_rng(1)
    slot = backend.new()
    backend.step([Work(slot=slot, tokens=draw.integers(0, 50257, 128).tolist())])
    runs: dict[int, list[tuple[float, float]]] = {rows: [] for rows in ROWS}
    for _ in range(2 * rounds):
        for rows, times in runs.items():
            work = [Work(slot=slot, tokens=draw.integers(0, 50257, rows).tolist(), want=Want(rows=rows, best=1))]
            _, *seconds = timed(lambda work=work: backend.step(work))
            times.append(tuple(seconds))
            backend.truncate(slot, 128)
    backend.free(slot)
    median = {rows: statistics.median(clock for clock, _ in times) for rows, times in runs.items()}
    return {
        "step_ms": {rows: 1e3 * seconds for rows, seconds in median.items()},
        "least_ms": {rows: 1e3 * min(clock for clock, _ in times) for rows, times in runs.items()},
        "row_cost": {rows: (median[rows] / median[1] - 1) / (rows - 1) for rows in ROWS[1:]},
    }


class Replayed:
    """A backend that computes every step, and then says that a given text goes on as it does; or now and then not."""

    def __init__(self, backend: Backend, ids: list[int], agreement: float = 1.0) -> None:
        is_right_T = np.random.default_rng(2).random(len(ids)) < agreement
        self._backend = backend
        self._ids = [token if right else token + 1 for token, right in zip(ids, is_right_T.tolist(), strict=True)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, work: Sequence[Work]) -> list[Result]:
        ends = [self._backend.length(piece.slot) + len(piece.tokens) for piece in work]
        results = self._backend.step(work)
        for piece, end, result in zip(work, ends, results, strict=True):
            for row in range(piece.want.rows):  # a row's next token; behind a wrong guess it does not matter
                at = end - piece.want.rows + row + 1
                assert isinstance(result.drawn_R, list)
                result.drawn_R[row] = self._ids[min(at, len(self._ids) - 1)]
        return results


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """A text's tokens, and what it took."""

    tokens: list[int | None]
    usage: Usage = field(compare=False)


def recorded(n_tokens: int) -> dict[str, tuple[list[int], int]]:
    """Texts to replay: all ids, and how many of them are the prompt."""
    with gpt2.load("gpt2-mini") as model:
        asked = summarize.ask(ARTICLE, prompts=Prompts.ours().summarize, room=model.room)
        greedy = Sampling(temperature=0)
        asks = {
            "summary": (asked.prompt, asked.sampling),
            "story": (STORY, greedy),
            "records": (LIST + "Name:", greedy),
        }
        found = {}
        for kind, (prompt, sampling) in asks.items():
            sampling = replace(sampling, seed=1, max_tokens=n_tokens, ignore_eot=True)
            ids = model.tokenizer.encode(prompt)
            found[kind] = ids + model.tokenizer.encode(model.generate(prompt, sampling).text), len(ids)
        article = model.tokenizer.encode(ARTICLE)
        return {**found, "article": (article, len(article) - n_tokens)}


def replay(backend: Backend, ids: list[int], n_prompt: int, drafter: Drafter | None) -> list[Gathered]:
    """The text from the prompt on, at the cost of `backend`."""
    scheduler = Scheduler(Replayed(backend, ids), Tokenizer.published(), drafter=drafter)
    sampling = Sampling(temperature=0, max_tokens=len(ids) - n_prompt, ignore_eot=True)
    scheduler.submit(Request(prompt=ids[:n_prompt], sampling=sampling))
    events = []
    while scheduler.busy:
        events += scheduler.step()
    scheduler.close()
    return [Gathered(tokens=[event.token for event in events], usage=events[-1].usage)]


def replays(backend: Backend, rounds: int, n_tokens: int) -> dict[str, Any]:
    """The recorded texts at the cost of `backend`, plain and with drafts."""
    found: dict[str, Any] = {}
    with gpt2.load("gpt2-mini") as small:
        cost = cost_of(small.config, backend.config)
        drafters: dict[str, Callable[[], Drafter | None]] = {
            "none": lambda: None,
            "ngram": NgramDrafter,
            "gpt2-mini": lambda: ModelDrafter(small.backend, cost=cost),
        }
        for text, (ids, n_prompt) in recorded(n_tokens).items():
            for kind in ("ngram", "gpt2-mini") if text == "article" else ("ngram",):
                found[f"{text}, {kind}"] = line = compare_drafts(
                    lambda draft, ids=ids, n=n_prompt: replay(backend, ids, n, drafters[draft]()), rounds, kind
                )
                print(f"  replayed: {text}, {kind:<20}" + told(line), flush=True)
    return found


def smaller(backend: Backend, form: str, rounds: int, n_tokens: int) -> dict[str, Any]:
    """The article at the cost of `backend`, plain and with guesses of 124M of which such a share is right."""
    ids = Tokenizer.published().encode(ARTICLE)
    small = backends.open(Drawn(PUBLISHED["gpt2"]), backend="native", form=form)
    cost = cost_of(small.config, backend.config)
    found: dict[str, Any] = {}
    for agreement in AGREEMENTS:

        def generate(draft: str, agreement: float = agreement) -> list[Gathered]:
            drafter = None if draft == "none" else ModelDrafter(Replayed(small, ids, agreement), cost=cost)
            return replay(backend, ids, len(ids) - n_tokens, drafter)

        found[f"{agreement:.0%} right"] = line = compare_drafts(generate, rounds, "124M")
        print(f"  124M drafts, {agreement:4.0%} right{'':<18}" + told(line), flush=True)
    small.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--shapes", nargs="*", choices=PUBLISHED, default=["gpt2", "gpt2-xl"])
    parser.add_argument("--weights", nargs="+", default=["int8", "int4"])
    parser.add_argument("--work", type=Path, help="model folders of these shapes are here, as inference.py keeps them")
    parser.add_argument("--skip-texts", action="store_true", help="only the shapes; the result keeps the texts it has")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    before = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.skip_texts else {}
    found_texts = before.get("texts") or texts(chosen.rounds, chosen.tokens)
    result: dict[str, Any] = {**facts(), "rounds": chosen.rounds, "texts": found_texts}
    result["shapes"] = before.get("shapes", {})
    write_json(chosen.out, result)
    for shape in chosen.shapes:
        for form in chosen.weights:
            folder = chosen.work / shape if chosen.work else None
            weights = checkpoint.read(folder).weights if folder else Drawn(PUBLISHED[shape])
            backend = backends.open(weights, backend="native", form=form)
            name = f"{shape} {form}"
            result["shapes"][name] = found = {"reason": backend.reason, "steps": steps(backend, chosen.rounds)}
            print(
                f"{name:<16}", {rows: round(ms, 1) for rows, ms in found["steps"]["step_ms"].items()}, "ms", flush=True
            )
            found["replays"] = replays(backend, min(chosen.rounds, 3), chosen.tokens // 2)
            if shape == "gpt2-xl":
                found["smaller"] = smaller(backend, form, min(chosen.rounds, 3), chosen.tokens // 2)
            backend.close()
            write_json(chosen.out, result)  # after each, for the large ones take long


if __name__ == "__main__":
    main()
