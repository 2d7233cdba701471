"""The texts that detection.py reads: pairs, human text by domain, attacks, and the demos of GLTR."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard
from calibration import human_documents

import gpt2
from gpt2.detect import beginnings_of, normalise
from gpt2.detect.calibration import LENGTHS

LOOK_ALIKES = str.maketrans("aeocpxy", "аеосрху")
DOMAINS = {  # held-out documents by whose they are; the rest is documentation and blogs
    "books": (
        *("standardebooks/", "GITenberg/", "COST-ELTeC/", "computationalstylistics/", "dhmit/", "jhacksman/"),
        *("PerseusDL/", "birmingham-ccr/", "seven1m/", "uci-soe/", "global-asp/"),
    ),
    "encyclopedia": ("JohanMadsen/", "ZhouYii/", "Vibhas", "pblouw/", "philschatz/", "openstax/", "factbook/"),
    "dialogue": (
        *("thechangelog/", "bitcointranscripts/", "google-research-datasets/", "jfainberg/", "alexa/"),
        "kushalchawla/",
    ),
}
Texts = dict[str, list[str]]


def jsonl(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".zst":
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    else:  # by line feeds alone: a text may hold others' line ends
        yield from map(json.loads, path.read_text(encoding="utf-8").rstrip("\n").split("\n"))


def held_out(corpus: Path, tokenizer: gpt2.Tokenizer) -> list[tuple[str, list[int], list[int] | None]]:
    """Domain, beginning and a later passage of each document of the calibration; the model did not read them.

    A passage lies at a place drawn evenly; None where the document is no longer than what is compared.
    """
    found: list[tuple[str, list[int], list[int] | None]] = []
    draw = random.Random(0)
    for each in human_documents(corpus / "validation.jsonl.zst"):
        ids = tokenizer.encode(normalise(each["text"])[0].strip())
        start = draw.randrange(max(1, len(ids) - max(LENGTHS) + 1))
        domain = domain_of(each["source"].removeprefix("github.com/"))
        beginning = next(beginnings_of([each["text"]], tokenizer), None)
        if beginning is not None:
            found.append((domain, beginning, ids[start : start + max(LENGTHS)] if start else None))
    random.Random(0).shuffle(found)
    return found


def domain_of(source: str) -> str:
    return next((name for name, whose in DOMAINS.items() if source.startswith(whose)), "documentation, blogs")


def human_texts(data: Path, n: int) -> Texts:
    """Human text by domain, of which the model's training text has none."""
    wiki = re.split(r"\n = [^=].* = \n", (data / "wikitext-2-raw/wiki.test.raw").read_text(encoding="utf-8"))
    wiki = [re.sub(r" @(.)@ ", r"\1", each).strip() for each in wiki if len(each) > 2000]
    lambada = [each["text"] for each in jsonl(data / "lambada/lambada_test.jsonl")]
    news = [
        path.read_text(encoding="utf-8").split("@highlight")[0]
        for path in sorted((data / "cnn_dailymail/stories").iterdir())
    ]
    web = [each["text"] for each in jsonl(data / "detection/webtext_human/webtext.test.jsonl")]
    return {
        "news (CNN, Daily Mail)": news[:n],
        "encyclopedia (WikiText-2)": wiki[:n],
        "books (LAMBADA, about 90 tokens)": lambada[: 2 * n],
        "web (WebText, 63 tokens)": web[: 3 * n],
    }


def pairs(data: Path, name: str, n: int) -> tuple[list[str], list[str]]:
    """Human text, and what GPT-2 XL wrote after its first 30 tokens."""
    found = json.loads((data / f"detection/fast-detect-gpt/{name}_gpt2-xl.raw_data.json").read_text(encoding="utf-8"))
    return found["original"][:n], found["sampled"][:n]


def demos(data: Path) -> dict[str, tuple[str, list[int]]]:
    """GLTR's demos: text, and the ranks of its tokens that are published with them, by GPT-2 124M."""
    found: dict[str, tuple[str, list[int]]] = {}
    for path in sorted((data / "detection/gltr").glob("*.json")):
        demo = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = demo["request"]["text"], [rank for rank, _ in demo["result"]["real_topk"]]
    return found


def _replaced(share: float) -> Callable[[str, list[str]], str]:
    def damage(text: str, words: list[str]) -> str:
        draw = random.Random(len(text))
        return " ".join(draw.choice(words) if draw.random() < share else word for word in text.split(" "))

    return damage


def _shuffled(text: str, words: list[str]) -> str:
    sentences = re.split(r"(?<=[.!?])\s+", text)
    random.Random(len(text)).shuffle(sentences)
    return " ".join(sentences)


ATTACKS: dict[str, Callable[[str, list[str]], str]] = {
    "none": lambda text, words: text,
    "10 % of words replaced": _replaced(0.1),
    "30 % of words replaced": _replaced(0.3),
    "sentences shuffled": _shuffled,
    "cropped to a third": lambda text, words: text[: len(text) // 3],
    "lower case": lambda text, words: text.lower(),
    "look-alike letters": lambda text, words: text.translate(LOOK_ALIKES),
}
"""What is done to a text; `words` are those of other texts."""


def with_human_inside(text: str, human: str) -> str:
    """A human text after about the first half."""
    middle = text.rfind(" ", 0, len(text) // 2) + 1
    return f"{text[:middle]}{human} {text[middle:]}"
