"""The Winograd Schema Challenge: which of two names does a pronoun stand for?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from gpt2.evaluate import multiple_choice
from gpt2.evaluate.benchmark import Benchmark, Choice, DataFile, Figures, Judged, Plan, Setting
from gpt2.evaluate.files_of_data import read_examples
from gpt2.evaluate.multiple_choice import Item
from gpt2.generation.targets import Target, TargetScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """Attributes:
    starts: the sentence up to the pronoun, with each name in the pronoun's place.
    rest: the rest of the sentence, with the space before it.
    right: which name is meant, 0 or 1.
    """

    starts: tuple[str, str]
    rest: str
    right: int


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """Four requests a schema: for each name, one scores the whole sentence and one what follows the name."""
    schemas = read_examples(texts[0], _schema, "WSC273 is not a schema")[: setting.limit]
    requests: list[Target] = []
    for schema in schemas:
        rest = tuple(setting.encode(schema.rest))
        for start in map(setting.encode, schema.starts):
            before = (setting.eot, *start) if setting.choices["start"] == "endoftext" else tuple(start)
            requests.append(Target(context=before[:1], targets=(*before[1:], *rest)))
            requests.append(Target(context=before, targets=rest))

    def measure(results: Sequence[TargetScore]) -> Figures:
        logprobs = [math.fsum(result.logprobs) for result in results]
        full = partial = 0
        for schema, i in zip(schemas, range(0, len(logprobs), 4), strict=True):
            right, wrong = i + 2 * schema.right, i + 2 * (1 - schema.right)
            full += logprobs[right] > logprobs[wrong]
            partial += logprobs[right + 1] > logprobs[wrong + 1]
        return {"accuracy_partial": 100 * partial / len(schemas), "accuracy_full": 100 * full / len(schemas)}

    def judge(results: Sequence[TargetScore]) -> list[Judged]:
        found: list[Judged] = []
        for schema, i in zip(schemas, range(0, len(results), 4), strict=True):
            values = [math.fsum(results[i + 2 * option + 1].logprobs) for option in (0, 1)]
            before, names = _apart(schema.starts)
            item = Item(before=before, continuations=schema.starts, right=schema.right, names=names)
            found.append(replace(multiple_choice.judged(item, values), then=schema.rest))
        return found

    return Plan(requests=requests, measure=measure, n_examples=len(schemas), judge=judge, scored="accuracy_partial")


def _schema(found: Mapping[str, Any]) -> Schema:
    first, second = found["context_options"]
    rest = str(found["continuation"])
    glue = "" if rest[:1] in "'.,;:!?" else " "
    return Schema(starts=(first, second), rest=glue + rest, right=int(found["gold"]))


def _apart(starts: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """The words that both starts begin with, and the rest of each, a word at least: the names."""
    words = [start.split(" ") for start in starts]
    n = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words[0][:-1], words[1][:-1], strict=False)))
    return " ".join(words[0][:n]), tuple(" ".join(each[n:]) for each in words)


BENCHMARK = Benchmark(
    name="wsc273",
    title="Winograd schemas",
    protocol=(
        "Section 3.4: the formulation of Trinh and Le (2018): the name that makes the sentence likelier is taken, by "
        "the probability of the whole sentence (full) or of what follows the name (partial). The paper prints 70.70 % "
        "for the largest model, without saying of which scoring it is; its figure 3 has both. Open: what stands before "
        "the sentence."
    ),
    files=(
        DataFile(
            path="wsc273/llmfoundry_winograd_wsc.jsonl",
            sha256="746336c27cd2e39a554cb1b8b4869d0f1ae2577ac5bfe799842d26bca5a5bf5e",
            origin="the 273 Winograd schemas (Levesque, Davis et al.) with the names in their places: "
            "winograd_wsc.jsonl of LLM Foundry (Apache-2.0)",
            url="https://raw.githubusercontent.com/mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/"
            "scripts/eval/local_data/language_understanding/winograd_wsc.jsonl",
        ),
    ),
    choices={
        "start": Choice(
            values=("endoftext", "nothing"),
            help="what stands before the sentence; after nothing its first token is not scored",
        )
    },
    plan=plan,
    paper={"accuracy_partial": (None, None, None, 70.70), "accuracy_full": (None, None, None, 70.70)},
    made_up=("wsc273.jsonl",),
    headline="accuracy_partial",
    better="higher",
)
