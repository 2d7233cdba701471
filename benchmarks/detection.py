"""How well generated text is told from human text, and how often human text is not. Writes results/detection.json.

    python benchmarks/detection.py --data EVAL --corpus CORPUS [--model gpt2-mini] [--human NAME=FILE.jsonl ...]

Run calibration.py before: the held-out human text is what that read.

Reads pairs of GPT-2 XL and human text, WebText and GPT-2's samples, the demos of GLTR, the model's own text at four
settings beside held-out human text of the same sources, human text of several domains (`--human` adds more), and the
model's own text after attacks and at every length to 1,000 tokens. What was read is kept in `--work`, so that the
script goes on where it stopped; with `--seconds` it stops after that time (exit code 75), or with `--report` tells what
was read so far. Curves go to docs/pictures.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from calibration import WORK
from calibration import Work as Readings
from curves import write_svg
from detection_texts import ATTACKS, Texts, demos, held_out, human_texts, jsonl, pairs, with_human_inside

import gpt2
from gpt2.bench import facts
from gpt2.detect import Calibration, Reading, judge, normalise, read, statistics
from gpt2.detect.calibration import LENGTHS
from gpt2.files import write_json
from gpt2.report import Line, LineChart

FOLDER = Path(__file__).parent
PROMPT_TOKENS = 16
MOST_TOKENS = 200
LONG_LENGTHS = (*LENGTHS, 500, 700, 1000)
HELD_OUT, PASSAGE = "held-out ", "passage "
PASTED = "attack human text of 500 characters inside"
SPANS = ((0, 400), (200, 300), (400, 200), (600, 200), (800, 200))
RATES = (0.05, 0.01)
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 1": {"temperature": 1.0},
    "top-k 40": {"temperature": 1.0, "top_k": 40},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "greedy": {"temperature": 0.0},
}
STATISTICS = ("mean_logprob", "rank", "log_rank", "entropy", "lrr", "curvature")
PUBLISHED = {  # AUROC with GPT-2 XL as source and scorer: fast-detect-gpt, exp_main/results
    "xsum": dict(zip(STATISTICS, (0.8638, 0.7938, 0.8918, 0.5835, 0.9179, 0.9930), strict=True)),
    "squad": dict(zip(STATISTICS, (0.9077, 0.8360, 0.9454, 0.5791, 0.9773, 0.9990), strict=True)),
}
Row = dict[str, Any]


class Work:
    """Texts that are to be read, and what was read of them."""

    def __init__(self, path: Path, model: gpt2.LanguageModel, seconds: float) -> None:
        self.path, self.model, self.until = path, model, time.monotonic() + seconds
        self.done: dict[str, Row] = {}
        if path.is_file():
            self.done = {row["key"]: row for row in jsonl(path)}

    def over(self) -> bool:
        return time.monotonic() > self.until

    def read(self, name: str, texts: list[str], most: int = MOST_TOKENS) -> bool:
        """Read what is not read yet; False where the time is over before."""
        tokenizer, backend = self.model.tokenizer, self.model.exact_backend()
        with self.path.open("a", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                key = f"{name}|{number}"
                if key in self.done:
                    continue
                if self.over():
                    return False
                ids = tokenizer.encode(normalise(text.strip())[0])[:most]
                if len(ids) < 2:
                    continue
                file.write(json.dumps(self.keep(key, name, read(backend, tokenizer, ids))) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {name}: {len(texts)}", flush=True)
        return True

    def keep(self, key: str, name: str, reading: Reading) -> Row:
        """Count a text in; its row."""
        self.done[key] = {"key": key, "name": name, **row_of(reading)}
        return self.done[key]

    def names(self, beginning: str) -> list[str]:
        names = dict.fromkeys(row["name"] for row in self.done.values())
        return [name for name in names if name.startswith(beginning)]

    def rows(self, *names: str) -> list[Row]:
        return [row for row in self.done.values() if row["name"] in names]


def row_of(reading: Reading) -> Row:
    return {
        "n": len(reading),
        "statistics": {name: f(reading) for name, f in statistics.EVIDENCE.items() if name != "binoculars"},
        "histogram": statistics.histogram(reading),
        "by_length": {
            str(n): (statistics.curvature(reading.first(n)), statistics.mean_logprob(reading.first(n)))
            for n in LENGTHS
            if n <= len(reading)
        },
    }


def own_texts(
    path: Path, model: gpt2.LanguageModel, prompts: list[str], n_tokens: int, over: Callable[[], bool]
) -> Texts | None:
    """The model's own continuations by setting, written once and kept."""
    kept: Texts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, setting in SETTINGS.items():
        if name in kept:
            continue
        if over():
            return None
        done = model.generate(prompts, max_tokens=n_tokens, min_tokens=n_tokens, seed=11, **setting)
        kept[name] = [each.text for each in done]
        path.write_text(json.dumps(kept), encoding="utf-8")
    return kept


def told_by_length(
    texts: Texts, work: Readings, model: gpt2.LanguageModel, calibration: Calibration, rate: float
) -> dict[str, dict[str, float]]:
    """Of the first n tokens of each text, judged as a user would have it: the share that is called generated."""
    backend, tokenizer = model.exact_backend(), model.tokenizer

    def told(ids: list[int], n: int) -> bool:
        def read_part(part: Sequence[int]) -> Reading:
            for start, most in SPANS:  # of which the parts at every length are the beginnings
                if len(part) <= most and ids[start : start + len(part)] == list(part):
                    return work.read(backend, tokenizer, ids[start : start + most]).first(len(part))
            return work.read(backend, tokenizer, part)

        text, _ = normalise(tokenizer.decode(ids[:n]))
        found = judge(text, tokenizer=tokenizer, read=read_part, calibration=calibration, false_positive_rate=rate)
        return found.verdict == "generated"

    return {
        setting: {str(n): float(np.mean([told(tokenizer.encode(text), n) for text in some])) for n in LONG_LENGTHS}
        for setting, some in texts.items()
    }


def auroc(human: list[float], generated: list[float]) -> float | None:
    if not human or not generated:
        return None
    h, g = np.sort(human), np.array(generated)
    below, ties = np.searchsorted(h, g, "left"), np.searchsorted(h, g, "right")
    return float(((below + ties) / 2).mean() / len(h))


def roc(human: list[float], generated: list[float]) -> tuple[list[float], list[float]]:
    """False-positive rates and the shares told at each, from the strictest threshold on."""
    if not generated:
        return [], []
    h, g = np.array(human), np.array(generated)
    thresholds = np.sort(h)[::-1]
    return [float((h >= t).mean()) for t in thresholds], [float((g >= t).mean()) for t in thresholds]


def called(rows: list[Row], calibration: Calibration, rate: float) -> dict[str, Any]:
    """How many texts would be called generated: as `judge` does it for texts of one part."""
    told: list[bool] = []
    for row in rows:
        n = calibration.length_of(row["n"])
        if n is not None and str(n) in row["by_length"]:
            curvature, mean = row["by_length"][str(n)]
            told.append(calibration.is_familiar(n, mean) and calibration.p_human(n, curvature) <= rate)
    return {"texts": len(told), "called_generated": sum(told), "share": float(np.mean(told)) if told else None}


def called_by_others(rows: list[Row], known: list[Row], rate: float, *, own_domain: bool) -> dict[str, Any]:
    """How many human texts of each domain would be called generated by a calibration of all the other documents.

    Args:
        rows: of the texts to be judged, each of a document.
        known: of the beginnings of all documents.
        rate: asked for.
        own_domain: whether other documents of the same domain are among those that it is judged by.
    """
    found: dict[str, list[bool]] = {}
    for row in rows:
        n = max((n for n in LENGTHS if str(n) in row["by_length"]), default=None)
        if n is None:
            continue
        others = [
            other["by_length"][str(n)]
            for other in known
            if document_of(other) != document_of(row)
            and str(n) in other["by_length"]
            and (own_domain or domain_of(other) != domain_of(row))
        ]
        curvature, mean = row["by_length"][str(n)]
        p = (1 + sum(other >= curvature for other, _ in others)) / (1 + len(others))
        familiar = (1 + sum(other <= mean for _, other in others)) / (1 + len(others))
        found.setdefault(domain_of(row), []).append(p <= rate and familiar > 0.01)
    found["all"] = [each for some in found.values() for each in some]
    return {
        domain: {"texts": len(told), "called_generated": sum(told), "share": float(np.mean(told))}
        for domain, told in found.items()
    }


def document_of(row: Row) -> str:
    return row["key"].rpartition("|")[2]


def domain_of(row: Row) -> str:
    return row["name"].partition(" ")[2]


def texts_to_read(
    data: Path, n: int, own: Texts, human: list[str], more: list[list[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Name and texts of every kind but the held-out ones, what matters most first.

    Args:
        data: the folder of evaluation sets.
        n: texts of a kind.
        own: what the model wrote, by setting.
        human: held-out texts, to be pasted into its own.
        more: names and files of further domains.
    """
    yield from ((f"own {setting}", texts) for setting, texts in own.items())
    for name, path in more:
        yield f"domain {name}", [each["text"] for each in jsonl(Path(path))][: 2 * n]
    half = own["top-k 40"][: n // 2]
    words = " ".join(half).split()
    for name, attack in ATTACKS.items():
        yield f"attack {name}", [attack(text, words) for text in half]
    pasted = [text[-500:].partition(" ")[2] for text in human[-len(half) :]]
    yield PASTED, [with_human_inside(text, other) for text, other in zip(half, pasted, strict=True)]
    for pair in PUBLISHED:
        originals, sampled = pairs(data, pair, n)
        yield from ((f"{pair} human", originals), (f"{pair} sampled", sampled))
    yield from ((f"domain {name}", texts) for name, texts in human_texts(data, n).items())
    yield from ((f"demo {name}", [text]) for name, (text, _) in demos(data).items())
    yield "GPT-2 sim", [each["text"] for each in jsonl(data / "detection/gpt2_sim/sim.test.jsonl")][: 3 * n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--calibration", type=Path, default=None)
    parser.add_argument("--human", action="append", default=[], metavar="NAME=FILE.jsonl", help="a further domain")
    parser.add_argument("--texts", type=int, default=100, help="of each kind, at most")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--report", action="store_true", help="when the time is over, report what was read so far")
    parser.add_argument("--work", type=Path, default=FOLDER / "results" / "detection-work")
    parser.add_argument("--readings", type=Path, default=WORK, help="--work of calibration.py")
    chosen = parser.parse_args()
    n, data = chosen.texts, chosen.data
    with gpt2.load(chosen.model, threads=chosen.threads) as model:
        folder = chosen.work / f"{model.fingerprint()[:12]}-{n}"
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(folder / "read.jsonl", model, chosen.seconds)
        readings = Readings(chosen.readings, chosen.seconds, model.fingerprint())
        backend, decode = model.exact_backend(), model.tokenizer.decode
        held = held_out(chosen.corpus, model.tokenizer)
        full = [ids for _, ids, _ in held if len(ids) >= PROMPT_TOKENS + MOST_TOKENS]
        prompts = [decode(ids[:PROMPT_TOKENS]) for ids in full[: n + n // 5]]
        own = own_texts(folder / "own.json", model, prompts[:n], MOST_TOKENS, work.over)
        if own is None:
            sys.exit(stopped(work))
        full_texts = [decode(ids) for ids in full]
        todo = texts_to_read(data, n, own, full_texts, [each.split("=", 1) for each in chosen.human])
        complete = all(work.read(name, texts, 400 if name == PASTED else MOST_TOKENS) for name, texts in todo)
        for number, (domain, beginning, passage) in enumerate(held):
            for name, ids in ((HELD_OUT, beginning), (PASSAGE, passage)):
                if ids is None:
                    continue
                if not readings.knows(ids) and work.over():
                    complete = False
                    continue
                known = readings.read(backend, model.tokenizer, ids).first(MOST_TOKENS)
                work.keep(f"{name}{domain}|{number}", f"{name}{domain}", known)
        long = own_texts(folder / "long.json", model, prompts[n:], LONG_LENGTHS[-1], work.over)
        if (not complete or long is None) and not chosen.report:
            sys.exit(stopped(work))
        calibration = Calibration.read(chosen.calibration) if chosen.calibration else model.calibration()
        assert calibration is not None, "the verdict's error rates need a calibration: benchmarks/calibration.py"
        calibration.check(model.fingerprint(), model.name)
        parts = Readings(folder / "long.jsonl", chosen.seconds, model.fingerprint())
        lengths = {f"at {rate:.0%}": told_by_length(long or {}, parts, model, calibration, rate) for rate in RATES}
        lengths = {rate: told for rate, told in lengths.items() if told}
    facts_of = {"scorer": model.name, "sampler": model.name, "calibration": dict(calibration.made_from)}
    result = {"facts": facts(), **facts_of, **report(work, calibration, demos(data))}
    if lengths:
        result["own_text_told_by_length"] = {"texts_a_setting": n // 5, **lengths}
    write_json(FOLDER / "results" / "detection.json", result)
    draw(work, lengths.get("at 1%", {}), model.name)
    print(json.dumps({key: result[key] for key in ("auroc", "verdicts", "demos")}, indent=1))


def stopped(work: Work) -> int:
    print(f"{len(work.done)} texts read; run again to go on")
    return 75


def report(work: Work, calibration: Calibration, published: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
    held = work.names(HELD_OUT)

    def values(statistic: str, *of: str) -> list[float]:
        return [row["statistics"][statistic] for row in work.rows(*of)]

    def by_others(names: list[str], rate: float, *, own_domain: bool) -> dict[str, Any]:
        return called_by_others(work.rows(*names), work.rows(*held), rate, own_domain=own_domain)

    def aurocs(human: Sequence[str], generated: str) -> dict[str, float | None]:
        return {each: auroc(values(each, *human), values(each, generated)) for each in STATISTICS}

    result: dict[str, Any] = {"texts": dict(Counter(row["name"] for row in work.done.values())), "auroc": {}}
    for pair, known in PUBLISHED.items():
        here = aurocs([f"{pair} human"], f"{pair} sampled")
        result["auroc"][f"GPT-2 XL, {pair}"] = {
            each: {"here": here[each], "published_by_GPT-2_XL": known[each]} for each in STATISTICS
        }
    web = "domain web (WebText, 63 tokens)"
    result["auroc"]["GPT-2 124M (sim) and WebText, 63 tokens"] = aurocs([web], "GPT-2 sim")
    for setting in SETTINGS:
        result["auroc"][f"own text, {setting}"] = aurocs(held, f"own {setting}")
    kinds = {
        "news (XSum, BBC)": "xsum human",
        "encyclopedia (SQuAD, Wikipedia)": "squad human",
        **{of.removeprefix("domain "): of for of in work.names("domain ")},
    }
    generated = ["xsum sampled", "squad sampled", "GPT-2 sim", *(f"own {each}" for each in SETTINGS)]

    def verdicts(rate: float) -> dict[str, Any]:
        def told(of: str) -> dict[str, Any]:
            return called(work.rows(of), calibration, rate)

        return {
            "held-out human text, each judged by all others": by_others(held, rate, own_domain=True),
            "held-out human text, each judged by the other domains": by_others(held, rate, own_domain=False),
            "passages of held-out text, each judged by the beginnings of all others": by_others(
                work.names(PASSAGE), rate, own_domain=True
            ),
            "human text of other kinds": {kind: told(of) for kind, of in kinds.items()},
            "generated": {of: told(of) for of in generated},
            "own text, top-k 40, after": {of.removeprefix("attack "): told(of) for of in work.names("attack ")},
        }

    result["verdicts"] = {f"at {rate:.0%}": verdicts(rate) for rate in RATES}
    result["demos"] = {
        name: {
            "tokens_of_10_100_1000_and_rest": rows[0]["histogram"],
            "published_of_GPT-2_124M": np.bincount(
                np.digitize(ranks[: rows[0]["n"]], statistics.BUCKETS), minlength=4
            ).tolist(),
            **{
                f"called_generated_at_{rate:.0%}": called(rows, calibration, rate)["called_generated"] for rate in RATES
            },
        }
        for name, (_, ranks) in published.items()
        if (rows := work.rows(f"demo {name}"))
    }
    return result


def draw(work: Work, lengths: dict[str, dict[str, float]], name: str) -> None:
    pictures = FOLDER.parent / "docs" / "pictures"
    held = work.names(HELD_OUT)

    def curve(label: str, human: Sequence[str], generated: str) -> Line:
        x, y = roc(*([row["statistics"]["curvature"] for row in work.rows(*of)] for of in (human, [generated])))
        return Line(name=label, x=x, y=y)

    lines = [
        *(curve(f"GPT-2 XL, {pair}", [f"{pair} human"], f"{pair} sampled") for pair in PUBLISHED),
        *(curve(f"own, {setting}", held, f"own {setting}") for setting in SETTINGS),
    ]
    roc_chart = LineChart(
        title=f"Curvature under {name}, up to 200 tokens: share of generated text told over false positives",
        x_label="human texts called generated (log)",
        y_label="generated texts told",
        lines=[line for line in lines if line.x and line.y],
        log_x=True,
    )
    length_chart = LineChart(
        title=f"Share of {name}'s own text told at 1 % false positives, by length",
        x_label="tokens",
        y_label="told",
        lines=[Line(name=each, x=[int(n) for n in told], y=list(told.values())) for each, told in lengths.items()],
        log_x=True,
    )
    write_svg(roc_chart, pictures / "detection-roc.svg")
    if lengths:
        write_svg(length_chart, pictures / "detection-length.svg")


if __name__ == "__main__":
    main()
