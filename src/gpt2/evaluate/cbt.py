"""The Children's Book Test: which of ten words was left out of a sentence, after twenty sentences of a story."""

import re
from collections.abc import Iterator, Sequence

from gpt2.errors import DataError
from gpt2.evaluate import multiple_choice
from gpt2.evaluate.benchmark import Benchmark, Choice, DataFile, Figures, Judged, Known, Plan, Setting
from gpt2.evaluate.detokenize import cbt_back, cbt_there, detokenize
from gpt2.evaluate.multiple_choice import Item
from gpt2.generation.targets import TargetScore

_BLANK = "XXXXX"


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """Ten requests a question: each a word and the rest of the sentence, after everything before it."""
    items: list[Item] = []
    n_lines = as_they_were = 0
    for lines, answer, candidates in _questions(texts[0]):
        if len(items) == setting.limit:
            break
        if setting.choices["detokenize"] == "yes":
            done = detokenize(lines, cbt_there, cbt_back)
            lines, as_they_were = done.lines, as_they_were + done.as_they_were
        n_lines += len(lines)
        items.append(_item(lines, answer, candidates))
    requests = multiple_choice.requests_of(items, setting, start=(setting.eot,))

    def judge(results: Sequence[TargetScore]) -> list[Judged]:
        return multiple_choice.judge(items, results)

    def measure(results: Sequence[TargetScore]) -> Figures:
        return {"accuracy": 100 * sum(each.score for each in judge(results)) / len(items)}

    notes = (
        (f"{as_they_were:,} of {n_lines:,} lines have no inverse and were left as they are",) if as_they_were else ()
    )
    return Plan(requests=requests, measure=measure, n_examples=len(items), judge=judge, scored="accuracy", notes=notes)


def _questions(text: str) -> Iterator[tuple[list[str], str, list[str]]]:
    """Twenty-one lines each, the answer, and the words to choose from."""
    for number, block in enumerate(re.split(r"\n\s*\n", text.strip("\n")), start=1):
        lines = [line.partition(" ")[2] for line in block.split("\n")]
        query, *rest = lines[-1].split("\t")
        candidates = rest[-1].split("|") if rest else []
        if len(rest) < 2 or query.split().count(_BLANK) != 1 or rest[0] not in candidates:
            raise DataError(
                f"question {number} of CBT is not lines that end in a sentence with {_BLANK}, its answer and the words "
                f"to choose from: it begins {block[:40]!r}."
            )
        yield [*lines[:-1], query], rest[0], candidates


def _item(lines: Sequence[str], answer: str, candidates: Sequence[str]) -> Item:
    before, _, rest = " ".join(lines).rpartition(_BLANK)
    space = " " if before.endswith(" ") else ""
    return Item(
        before=before.removesuffix(" "),
        continuations=tuple(f"{space}{word}{rest}" for word in candidates),
        right=candidates.index(answer),
        names=tuple(candidates),
    )


def _benchmark(short: str, words: str, paper: tuple[float, ...], known: float) -> Benchmark:
    return Benchmark(
        name=f"cbt-{short.lower()}",
        title=f"CBT, {words}",
        protocol=(
            "Section 3.2: the probability of each of ten words and of the rest of the sentence given it; the highest "
            "is the answer. On the validation set, for a book of the test set is in WebText; a de-tokenizer removes "
            "the treebank's marks. Open: the de-tokenizer, and how sentences are joined (here by a space)."
        ),
        files=(
            DataFile(
                path="cbt/CBTest.tgz",
                sha256="932df0cadc1337b2a12b4c696b1041c1d1c6d4b6bd319874c6288f02e4a61e92",
                origin="the Children's Book Test (Hill et al. 2016; GFDL 1.3), CBTest.tgz",
                url="https://huggingface.co/datasets/cbt/resolve/7503a0643517afe02a86e4750d375a9686008efa/"
                "data/CBTest.tgz",
                member=f"CBTest/data/cbtest_{short}_valid_2000ex.txt",
            ),
        ),
        choices={
            "detokenize": Choice(values=("yes", "no"), help="write the story as it is usually written, or as it is")
        },
        plan=plan,
        paper={"accuracy": paper},
        made_up=(f"cbt-{short.lower()}.txt",),
        headline="accuracy",
        better="higher",
        known=(Known("124M", "accuracy", known, "set and de-tokenizer unclear", "huggingface/transformers#13761"),),
    )


COMMON_NOUNS = _benchmark("CN", "common nouns", (87.65, 92.35, 93.45, 93.30), 84.35)
NAMED_ENTITIES = _benchmark("NE", "named entities", (83.4, 87.1, 88.0, 89.05), 73.65)
