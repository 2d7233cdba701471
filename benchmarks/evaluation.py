"""Evaluating beside transformers and lm-evaluation-harness, on the same examples. Writes results/evaluation.json.

    python benchmarks/evaluation.py [--shape gpt2] [--examples 24] [--rounds 3] [--batch-sizes 1 8] [--weights fp32]

Three kinds of work, with random weights of a published shape (or --model): the last words of passages (as LAMBADA),
ten continuations after the same long story (as CBT), and a long text in windows (as WikiText). The text is made up of
random words; the speed does not depend on it. All take turns and must agree on every log-probability, but for our
smaller weight forms, whose largest difference is told. The loop with transformers is what evaluation harnesses do on a
CPU: padded batches of similar length, all logits, log-softmax, gather. lm-evaluation-harness itself, where it is
installed, answers the same requests through its class for Hugging Face models (HFLM). The fastest of these and of the
batch sizes counts. The figure is tokens of the examples a second, shared beginnings counted each time; beside the time
on the clock stands processor time, which hardly minds what else the machine is doing.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import gpt2
from gpt2 import checkpoint
from gpt2.bench import facts
from gpt2.checkpoint import Weights, shapes
from gpt2.config import PUBLISHED
from gpt2.evaluate.harness import score_all
from gpt2.evaluate.language_modelling import windows
from gpt2.files import write_json
from gpt2.generation.targets import Target
from gpt2.language_model import LanguageModel
from gpt2.tokenizer import Tokenizer

Engine = Callable[[Sequence[Target]], list[float]]
RESULT = Path(__file__).parent / "results" / "evaluation.json"


def works(n: int, n_positions: int) -> dict[str, list[Target]]:
    draw = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1000, 20000) for _ in range(length))

    last_words = [Target(context=ids(draw.randrange(60, 120)), targets=ids(1)) for _ in range(n)]
    choices: list[Target] = []
    for _ in range(max(1, n // 8)):
        story = ids(450)
        choices += [Target(context=story, targets=ids(draw.randrange(8, 16))) for _ in range(10)]
    text = windows(ids(80 * n), eot=50256, n_positions=n_positions, stride=n_positions // 2)
    return {"last words": last_words, "ten continuations": choices, "windows": list(text)}


def plain_loop(model: object, targets: Sequence[Target], batch_size: int) -> list[float]:
    import torch

    order = sorted(range(len(targets)), key=lambda i: -targets[i].n_tokens)
    found = [0.0] * len(targets)
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        longest = max(targets[i].n_tokens for i in group)
        ids = torch.zeros((len(group), longest), dtype=torch.long)
        for row, i in enumerate(group):
            each = targets[i].context + targets[i].targets[:-1]
            ids[row, : len(each)] = torch.tensor(each)
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(ids).logits, -1)  # pyright: ignore
        for row, i in enumerate(group):
            begin = len(targets[i].context) - 1
            rows = logprobs[row, begin : begin + len(targets[i].targets)]
            found[i] = rows.gather(1, torch.tensor(targets[i].targets)[:, None]).sum().item()
    return found


def by_harness(model: object, targets: Sequence[Target]) -> list[float]:
    asked = [(("", ""), list(target.context), list(target.targets)) for target in targets]
    return [logprob for logprob, _ in model._loglikelihood_tokens(asked, disable_tqdm=True)]  # pyright: ignore


def peers(folder: Path, batch_sizes: Sequence[int]) -> tuple[dict[str, Engine], dict[str, str]]:
    """What answers beside us, by name, and the versions of it."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    engines: dict[str, Engine] = {
        f"transformers, batch {n}": partial(plain_loop, model, batch_size=n) for n in batch_sizes
    }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    try:
        from importlib.metadata import version

        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return engines, versions
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for n in batch_sizes:
        adapter = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=n)
        engines[f"lm_eval, batch {n}"] = partial(by_harness, adapter)
    return engines, versions | {"lm_eval": version("lm_eval")}


def timed(compute: Callable[[], list[float]]) -> tuple[float, float, list[float]]:
    """Seconds on the clock, seconds of processor, and what was computed."""
    begin, processor = time.perf_counter(), time.process_time()
    found = compute()
    return time.perf_counter() - begin, time.process_time() - processor, found


def compared(n_tokens: int, seconds: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Speeds of each engine, and how many times as fast ours is as the best other, round by round."""
    found: dict[str, object] = {"tokens": n_tokens}
    for kind, name in enumerate(("clock", "processor")):
        medians = {engine: statistics.median(each[kind] for each in took) for engine, took in seconds.items()}
        found[f"tokens per second, {name}"] = {engine: round(n_tokens / each) for engine, each in medians.items()}
        for peer in ("transformers", "lm_eval"):
            others = [engine for engine in medians if engine.startswith(peer)]
            if not others:
                continue
            best = min(others, key=medians.__getitem__)
            for ours in (engine for engine in medians if engine.startswith("gpt2")):
                ratios = [them[kind] / us[kind] for us, them in zip(seconds[ours], seconds[best], strict=True)]
                found[f"{ours}, times as fast as {peer}, {name}"] = round(statistics.median(ratios), 2)
    return found


def by_us(model: LanguageModel, targets: Sequence[Target]) -> list[float]:
    return [sum(score.logprobs) for score in score_all(model, targets)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=PUBLISHED, default="gpt2")
    parser.add_argument("--model", help="instead of random weights")
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--weights", nargs="+", default=["fp32"], help="our forms; the first must agree with the others"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", action="store_true", help="note that the machine had other work")
    chosen = parser.parse_args()

    import torch

    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if chosen.model:
            with gpt2.load(chosen.model) as model:
                model.save(folder)
        else:
            config = PUBLISHED[chosen.shape]
            draw = np.random.default_rng(0)
            arrays = {
                name: np.full(shape, name.endswith(".g"), np.float32)
                if len(shape) == 1
                else 0.02 * draw.standard_normal(shape, np.float32)
                for name, shape in shapes(config).items()
            }
            checkpoint.write_folder(folder, Weights.from_arrays(config, arrays), config, Tokenizer.published())
        ours = {form: gpt2.load(folder, weights=form, threads=chosen.threads) for form in chosen.weights}
        first = ours[chosen.weights[0]]
        engines = {f"gpt2, {form}": partial(by_us, model) for form, model in ours.items()}
        others, versions = peers(folder, chosen.batch_sizes)
        engines |= others
        result: dict[str, dict[str, object]] = {}
        for name, targets in works(chosen.examples, first.config.n_positions).items():
            seconds: dict[str, list[tuple[float, float]]] = {engine: [] for engine in engines}
            for _ in range(chosen.rounds):
                found: dict[str, list[float]] = {}
                for engine, compute in engines.items():
                    *took, found[engine] = timed(partial(compute, targets))
                    seconds[engine].append((took[0], took[1]))
                reference = found[f"gpt2, {chosen.weights[0]}"]
                assert all(np.allclose(reference, found[each], rtol=1e-5, atol=1e-3) for each in others), (
                    "they disagree"
                )
            n_tokens = sum(target.n_tokens for target in targets)
            result[name] = compared(n_tokens, seconds)
            scored = sum(len(target.targets) for target in targets)
            for form in chosen.weights[1:]:
                change = abs(sum(found[f"gpt2, {form}"]) - sum(reference)) / scored
                result[name][f"{form}: change of the mean loss, nats"] = float(f"{change:.2g}")
            print(f"{name:<18} {result[name]}", flush=True)
        for model in ours.values():
            model.close()
    write_json(
        RESULT,
        {
            **facts(),
            "command": " ".join(["benchmarks/evaluation.py", *sys.argv[1:]]),
            "versions": versions,
            "shape": chosen.model or chosen.shape,
            "threads": chosen.threads,
            "busy_machine": chosen.busy,
            "work": result,
        },
    )


if __name__ == "__main__":
    main()
