"""HellaSwag: how a short description continues. Not in the paper, but used for GPT-2 since."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2.evaluate import multiple_choice
from gpt2.evaluate.benchmark import Benchmark, Choice, DataFile, Figures, Judged, Known, Plan, Setting
from gpt2.evaluate.files_of_data import read_examples
from gpt2.evaluate.multiple_choice import Item
from gpt2.generation.targets import TargetScore


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """Four requests an item: each of the endings after the same beginning."""
    item_of = functools.partial(_item, cleaned=setting.choices["text"] == "harness")
    items = read_examples(texts[0], item_of, "HellaSwag is not an item")[: setting.limit]
    start = (setting.eot,) if setting.choices["start"] == "endoftext" else ()
    requests = multiple_choice.requests_of(items, setting, start=start)

    def normalised(item: Item, values: Sequence[float], n_tokens: Sequence[int]) -> list[float]:
        if setting.choices["length"] == "tokens":
            return [value / n for value, n in zip(values, n_tokens, strict=True)]
        return [value / len(ending.removeprefix(" ")) for value, ending in zip(values, item.continuations, strict=True)]

    def measure(results: Sequence[TargetScore]) -> Figures:
        lengths = iter(len(result.logprobs) for result in results)
        plain = by_length = 0
        for item, values in zip(items, multiple_choice.by_item(items, results), strict=True):
            plain += multiple_choice.best(values) == item.right
            n_tokens = [next(lengths) for _ in values]
            by_length += multiple_choice.best(normalised(item, values, n_tokens)) == item.right
        return {
            "accuracy": 100 * plain / len(items),
            "accuracy_length_normalised": 100 * by_length / len(items),
        }

    def judge(results: Sequence[TargetScore]) -> list[Judged]:
        return multiple_choice.judge(items, results)

    return Plan(requests=requests, measure=measure, n_examples=len(items), judge=judge, scored="accuracy")


def _item(found: Mapping[str, Any], *, cleaned: bool) -> Item:
    endings, right = [str(ending) for ending in found["endings"]], int(found["label"])
    before = str(found["ctx"])
    if cleaned:
        start = f"{found['activity_label']}: {found['ctx_a']} {str(found['ctx_b']).capitalize()}"
        before, endings = _cleaned(start), [_cleaned(ending) for ending in endings]
    endings[right]  # an item whose answer is none of its endings is refused
    continuations = tuple(f" {ending}" for ending in endings)
    return Item(before=before, continuations=continuations, right=right, names=tuple(endings))


def _cleaned(text: str) -> str:
    """Remove WikiHow's marks, as lm-evaluation-harness does."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _known(size: str, figure: str, value: float, harness: bool) -> Known:
    setting = "lm-evaluation-harness: cleaned text, by characters" if harness else "the text as it is, by tokens"
    source = "EleutherAI/lm-evaluation-harness#2159" if harness else "karpathy/llm.c dev/data/hellaswag.py"
    return Known(size, figure, value, setting, source)


BENCHMARK = Benchmark(
    name="hellaswag",
    title="HellaSwag",
    protocol=(
        "Not in the paper (Zellers et al. 2019). The ending of the highest probability is taken; or, since longer "
        "endings are less likely whatever they say, of the highest per character or per token."
    ),
    files=(
        DataFile(
            path="hellaswag/hellaswag_val.jsonl",
            sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
            origin="the validation set of HellaSwag (Zellers et al. 2019; MIT), hellaswag_val.jsonl, 10,042 lines",
            url="https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
        ),
    ),
    choices={
        "text": Choice(
            values=("plain", "harness"),
            help="as the file has it, or with the activity before it and cleaned as lm-evaluation-harness does",
        ),
        "start": Choice(values=("nothing", "endoftext"), help="what stands before the item"),
        "length": Choice(values=("tokens", "characters"), help="what the normalised accuracy divides by"),
    },
    plan=plan,
    paper={},
    made_up=("hellaswag.jsonl",),
    headline="accuracy_length_normalised",
    better="higher",
    known=(
        _known("124M", "accuracy", 28.59, False),
        _known("124M", "accuracy_length_normalised", 29.55, False),
        _known("124M", "accuracy", 28.92, True),
        _known("124M", "accuracy_length_normalised", 31.14, True),
        _known("1.5B", "accuracy", 38.42, False),
        _known("1.5B", "accuracy_length_normalised", 48.93, False),
        _known("1.5B", "accuracy", 40.04, True),
        _known("1.5B", "accuracy_length_normalised", 50.89, True),
    ),
)
