"""How well generated text is told from human text, and how often human text is not. Writes results/detection.json.

    python benchmarks/detection.py --data EVAL --corpus CORPUS [--model gpt2-mini] [--seconds 200]

Reads pairs of GPT-2 XL and human text, WebText and GPT-2's samples, the demos of GLTR, the model's own text at four
settings beside human text of the same sources, human text of several domains, and the model's own text after attacks.
What was read is kept beside the result in `--work`, so that the script goes on where it stopped; with `--seconds` it
stops after that time (exit code 75) unless everything is read. Curves go to docs/pictures.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from calibration import MODEL_MADE
from curves import write_svg

import gpt2
from gpt2.bench import facts
from gpt2.detect import Calibration, Reading, normalise, read, statistics
from gpt2.detect.calibration import LENGTHS
from gpt2.files import write_json
from gpt2.report import Line, LineChart

FOLDER = Path(__file__).parent
MOST_TOKENS = 200
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
LOOK_ALIKES = str.maketrans("aeocpxy", "аеосрху")

Texts = dict[str, list[str]]


def jsonl(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".zst":
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    else:
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def domain_of(source: str) -> str:
    name = source.removeprefix("github.com/")
    if name.startswith(("standardebooks/", "GITenberg/", "COST-", "computational", "dhmit/", "jhacksman/", "Perseus")):
        return "books"
    if name.startswith(("JohanMadsen/", "ZhouYii/", "Vibhas", "pblouw/", "philschatz/", "openstax/")):
        return "encyclopedia, textbooks"
    if name.startswith(("thechangelog/", "bitcoin", "google-research", "jfainberg/", "alexa/", "kushal")):
        return "dialogue"
    return "documentation, blogs"


def human_texts(data: Path, n: int) -> Texts:
    """Human text by domain, none of which the model or its calibration has read."""
    wiki = re.split(r"\n = [^=].* = \n", (data / "wikitext-2-raw/wiki.test.raw").read_text(encoding="utf-8"))
    wiki = [re.sub(r" (@)(.)@ ", r"\2", each).strip() for each in wiki if len(each) > 2000]
    lambada = [each["text"] for each in jsonl(data / "lambada/lambada_test.jsonl")]
    news = [
        path.read_text(encoding="utf-8").split("@highlight")[0]
        for path in sorted((data / "cnn_dailymail/stories").iterdir())
    ]
    return {
        "news (CNN, Daily Mail)": news[:n],
        "encyclopedia (WikiText-2)": wiki[:n],
        "books (LAMBADA, about 75 words)": lambada[:n],
    }


def pairs(data: Path, name: str, n: int) -> tuple[list[str], list[str]]:
    found = json.loads((data / f"detection/fast-detect-gpt/{name}_gpt2-xl.raw_data.json").read_text(encoding="utf-8"))
    return found["original"][:n], found["sampled"][:n]


def held_out(corpus: Path) -> list[dict[str, Any]]:
    made = MODEL_MADE
    texts = [
        each
        for each in jsonl(corpus / "validation.jsonl.zst")
        if not each["source"].removeprefix("github.com/").startswith(made) and len(each["text"]) > 2500
    ]
    random.Random(0).shuffle(texts)
    return texts


def replaced(share: float) -> Callable[[str, list[str]], str]:
    def damage(text: str, words: list[str]) -> str:
        draw = random.Random(len(text))
        return " ".join(draw.choice(words) if draw.random() < share else word for word in text.split(" "))

    return damage


def shuffled(text: str, words: list[str]) -> str:
    sentences = re.split(r"(?<=[.!?])\s+", text)
    random.Random(len(text)).shuffle(sentences)
    return " ".join(sentences)


ATTACKS: dict[str, Callable[[str, list[str]], str]] = {
    "none": lambda text, words: text,
    "10 % of words replaced": replaced(0.1),
    "30 % of words replaced": replaced(0.3),
    "sentences shuffled": shuffled,
    "cropped to a third": lambda text, words: text[: len(text) // 3],
    "lower case": lambda text, words: text.lower(),
    "look-alike letters": lambda text, words: text.translate(LOOK_ALIKES),
}


def row_of(reading: Reading) -> dict[str, Any]:
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


def auroc(human: list[float], generated: list[float]) -> float | None:
    if not human or not generated:
        return None
    h, g = np.sort(human), np.array(generated)
    below, ties = np.searchsorted(h, g, "left"), np.searchsorted(h, g, "right")
    return float(((below + ties) / 2).mean() / len(h))


def roc(human: list[float], generated: list[float]) -> tuple[list[float], list[float]]:
    """False-positive rates and the shares told at each, from the strictest threshold on."""
    thresholds = np.sort(human)[::-1]
    return [
        float((np.array(human) >= t).mean()) for t in thresholds
    ], [float((np.array(generated) >= t).mean()) for t in thresholds]  # fmt: skip


class Work:
    """Texts that are to be read, and what was read of them."""

    def __init__(self, path: Path, model: gpt2.LanguageModel, seconds: float) -> None:
        self.path, self.model, self.until = path, model, time.monotonic() + seconds
        self.done: dict[str, dict[str, Any]] = {}
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
                row = {"key": key, "name": name, **row_of(read(backend, tokenizer, ids))}
                self.done[key] = row
                file.write(json.dumps(row) + "\n")
        return True

    def names(self, beginning: str) -> list[str]:
        names = dict.fromkeys(row["name"] for row in self.done.values())
        return [name for name in names if name.startswith(beginning)]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self.done.values() if row["name"] == name]


def own_texts(path: Path, model: gpt2.LanguageModel, prompts: list[str], over: Callable[[], bool]) -> Texts | None:
    """The model's own continuations by setting, written once and kept."""
    kept: Texts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, setting in SETTINGS.items():
        if name in kept:
            continue
        if over():
            return None
        done = model.generate(prompts, max_tokens=MOST_TOKENS, min_tokens=MOST_TOKENS, seed=11, **setting)
        kept[name] = [each.text for each in done]
        path.write_text(json.dumps(kept), encoding="utf-8")
    return kept


def p_value(row: dict[str, Any], calibration: Calibration) -> tuple[int, float, float] | None:
    """Length compared, p-value, and that of being familiar."""
    n = calibration.length_of(row["n"])
    if n is None or str(n) not in row["by_length"]:
        return None
    curvature, mean = row["by_length"][str(n)]
    return n, calibration.p_human(n, curvature), calibration.p_familiar(n, mean)


def called(rows: list[dict[str, Any]], calibration: Calibration, rate: float) -> dict[str, Any]:
    found = [each for row in rows if (each := p_value(row, calibration))]
    told = [p <= rate and familiar > rate for _, p, familiar in found]
    return {"texts": len(found), "called_generated": sum(told), "share": float(np.mean(told)) if told else None}


def halves(calibration: Calibration, rate: float, rounds: int = 400) -> dict[str, Any]:
    """False positives and power when half of the human texts judge the other half, by length."""
    draw, found = np.random.default_rng(0), {}
    for n, scores in calibration.human.items():
        wrong, told = list[float](), list[list[float]]()
        for _ in range(rounds):
            order = draw.permutation(len(scores))
            known, fresh = np.sort(scores[order[::2]]), scores[order[1::2]]

            def p(x: Any, known: Any = known) -> Any:
                return (1 + len(known) - np.searchsorted(known, x, "left")) / (1 + len(known))

            wrong.append(float((p(fresh) <= rate).mean()))
            told.append([float((p(own[n]) <= rate).mean()) for own in calibration.generated.values()])
        shares = dict(zip(calibration.generated, np.mean(told, axis=0).tolist(), strict=True))
        found[str(n)] = {"texts": len(scores), "false_positives": float(np.mean(wrong)), "own_told": shares}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--calibration", type=Path, default=None)
    parser.add_argument("--texts", type=int, default=100, help="of each kind; twice as many of the pairs")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--report", action="store_true", help="when the time is over, report what was read so far")
    parser.add_argument("--work", type=Path, default=FOLDER / "results" / "detection-work")
    chosen = parser.parse_args()
    n = chosen.texts
    with gpt2.load(chosen.model, threads=chosen.threads) as model:
        chosen.work /= model.fingerprint()[:12]
        chosen.work.mkdir(parents=True, exist_ok=True)
        name = model.name
        work = Work(chosen.work / "read.jsonl", model, chosen.seconds)
        held = held_out(chosen.corpus)[:n]
        ids = [model.tokenizer.encode(each["text"]) for each in held]
        own = own_texts(chosen.work / "own.json", model, [model.tokenizer.decode(each[:16]) for each in ids], work.over)
        todo: list[tuple[str, list[str]]] = []
        todo.append(("held-out human", [model.tokenizer.decode(each[16 : 16 + MOST_TOKENS]) for each in ids]))
        if own is not None:
            todo += [(f"own {setting}", texts) for setting, texts in own.items()]
        for pair in PUBLISHED:
            human, sampled = pairs(chosen.data, pair, 2 * n)
            todo += [(f"{pair} human", human), (f"{pair} sampled", sampled)]
        detection = chosen.data / "detection"
        todo.append(
            ("WebText human", [each["text"] for each in jsonl(detection / "webtext_human/webtext.test.jsonl")][: 3 * n])
        )
        todo.append(("GPT-2 sim", [each["text"] for each in jsonl(detection / "gpt2_sim/sim.test.jsonl")][: 3 * n]))
        todo += [(f"domain {each}", texts) for each, texts in human_texts(chosen.data, n).items()]
        if own is not None:
            half = own["top-k 40"][: n // 2]
            words = " ".join(half).split()
            todo += [(f"attack {each}", [attack(text, words) for text in half]) for each, attack in ATTACKS.items()]
            humans = [model.tokenizer.decode(each[16:116]) for each in ids]
            mixed = [human + text for human, text in zip(humans, half, strict=False)]
            todo.append(("attack human text of 100 tokens before", mixed))
        pieces = (work.read(each, texts, 300 if "before" in each else MOST_TOKENS) for each, texts in todo)
        complete = own is not None and all(pieces)
        if not complete and not chosen.report:
            print(f"{len(work.done)} texts read; run again to go on")
            sys.exit(75)
        calibration = Calibration.read(chosen.calibration) if chosen.calibration else model.calibration()
        assert calibration is not None, "the verdict's error rates need a calibration: benchmarks/calibration.py"
        calibration.check(model.fingerprint(), model.name)
    report(work, calibration, name)


def report(work: Work, calibration: Calibration, name: str) -> None:
    def values(of: str, statistic: str) -> list[float]:
        return [row["statistics"][statistic] for row in work.rows(of)]

    result: dict[str, Any] = {
        "facts": facts(),
        "scorer": name,
        "sampler": name,
        "calibration": dict(calibration.made_from),
    }
    names = STATISTICS
    result["texts"] = dict(Counter(row["name"] for row in work.done.values()))
    result["auroc"] = {}
    for pair, published in PUBLISHED.items():
        result["auroc"][f"GPT-2 XL, {pair}"] = {
            each: {
                "here": auroc(values(f"{pair} human", each), values(f"{pair} sampled", each)),
                "published_by_GPT-2_XL": published[each],
            }
            for each in names
        }
    result["auroc"]["GPT-2 124M (sim) and WebText, 63 tokens"] = {
        each: {"here": auroc(values("WebText human", each), values("GPT-2 sim", each))} for each in names
    }
    for setting in SETTINGS:
        result["auroc"][f"own text, {setting}"] = {
            each: {"here": auroc(values("held-out human", each), values(f"own {setting}", each))} for each in names
        }
    kinds = {
        "news (XSum, BBC)": "xsum human",
        "encyclopedia (SQuAD, Wikipedia)": "squad human",
        "web (WebText, 63 tokens)": "WebText human",
        **{of.removeprefix("domain "): of for of in work.names("domain ")},
    }
    generated = ["xsum sampled", "squad sampled", "GPT-2 sim", *(f"own {each}" for each in SETTINGS)]

    def verdicts(rate: float) -> dict[str, Any]:
        def told(of: str) -> dict[str, Any]:
            return called(work.rows(of), calibration, rate)

        return {
            "same kind, halves of the calibration": halves(calibration, rate),
            "human text of other kinds": {kind: told(of) for kind, of in kinds.items()},
            "generated": {of: told(of) for of in generated},
            "own text, top-k 40, after": {of.removeprefix("attack "): told(of) for of in work.names("attack ")},
        }

    result["verdicts"] = {f"at {rate:.0%}": verdicts(rate) for rate in (0.05, 0.01)}
    write_json(FOLDER / "results" / "detection.json", result)
    draw(work, calibration, values, name)
    print(json.dumps({key: result[key] for key in ("auroc", "verdicts")}, indent=1))


def draw(work: Work, calibration: Calibration, values: Callable[[str, str], list[float]], name: str) -> None:
    pictures = FOLDER.parent / "docs" / "pictures"
    curves = []
    for pair in PUBLISHED:
        if not work.rows(f"{pair} sampled"):
            continue
        x, y = roc(values(f"{pair} human", "curvature"), values(f"{pair} sampled", "curvature"))
        curves.append(Line(name=f"GPT-2 XL, {pair}", x=x, y=y))
    for setting in SETTINGS:
        if not work.rows(f"own {setting}"):
            continue
        x, y = roc(values("held-out human", "curvature"), values(f"own {setting}", "curvature"))
        curves.append(Line(name=f"own, {setting}", x=x, y=y))
    roc_chart = LineChart(
        title=f"Curvature under {name}, 200 tokens: share of generated text told over false positives",
        x_label="human texts called generated (log)",
        y_label="generated texts told",
        lines=curves,
        log_x=True,
    )
    lengths = list(calibration.human)
    told = [
        Line(name=setting, x=lengths, y=[calibration.power(setting, each, 0.01) for each in lengths])
        for setting in calibration.generated
    ]
    title = f"Share of {name}'s own text told at 1 % false positives, by length"
    length_chart = LineChart(title=title, x_label="tokens", y_label="told", lines=told, log_x=True)
    write_svg(roc_chart, pictures / "detection-roc.svg")
    write_svg(length_chart, pictures / "detection-length.svg")


if __name__ == "__main__":
    main()
