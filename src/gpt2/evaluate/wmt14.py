"""WMT-14: translation between English and French, prompted only by examples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module

from gpt2.errors import DataError, MissingExtraError
from gpt2.evaluate.benchmark import Benchmark, Choice, Continued, DataFile, Figures, Judged, Plan, Setting
from gpt2.tasks import Prompts, translate


def plan_from(source: str, target: str, texts: Sequence[str], setting: Setting) -> Plan:
    """One prompt a sentence; `texts` are the English file and the French."""
    try:
        sacrebleu = import_module("sacrebleu")  # fails now, not after the model has worked for hours
    except ImportError:
        raise MissingExtraError.of("BLEU cannot be computed", package="sacrebleu", extra="evaluate") from None
    both: dict[str, list[str]] = dict(zip(("english", "french"), (text.splitlines() for text in texts), strict=True))
    if len(both["english"]) != len(both["french"]):
        raise DataError(
            f"WMT-14's files are not the same sentences: {len(both['english']):,} lines of English and "
            f"{len(both['french']):,} of French. Fetch both again."
        )
    sentences, references = both[source][: setting.limit], both[target][: setting.limit]
    prompts = Prompts.ours().translate
    prompts = replace(prompts, examples=prompts.examples[: int(setting.choices["examples"])])
    requests = [
        translate.ask(each, source=source, target=target, prompts=prompts, room=setting.room) for each in sentences
    ]

    def measure(results: Sequence[Continued]) -> Figures:
        written = [translate.read(result.text) for result in results]
        found = sacrebleu.corpus_bleu(written, [references])
        copied = [translate.read(sentence) for sentence in sentences]
        return {
            "bleu": found.score,
            "brevity_penalty": found.bp,
            "bleu_of_the_source_itself": sacrebleu.corpus_bleu(copied, [references]).score,
        }

    def judge(results: Sequence[Continued]) -> list[Judged]:
        written = [translate.read(result.text) for result in results]
        return [
            Judged(
                given=sentence,
                expected=reference,
                answered=translation,
                score=sacrebleu.sentence_bleu(translation, [reference]).score / 100,
            )
            for sentence, reference, translation in zip(sentences, references, written, strict=True)
        ]

    return Plan(requests=requests, measure=measure, n_examples=len(sentences), judge=judge)


plan_en_fr = partial(plan_from, "english", "french")
plan_fr_en = partial(plan_from, "french", "english")


def _file(language: str, sha256: str) -> DataFile:
    place = f"en-fr/newstest2014.{language}"
    return DataFile(
        path=f"wmt14/{place}",
        sha256=sha256,
        origin=f"newstest2014.{language} of WMT-14 (3,003 sentences; free for research)",
        url="https://raw.githubusercontent.com/Helsinki-NLP/OPUS-MT-testsets/ac0f19c0be3cb4e0d9450fcb2d7a9847c4bdd180/"
        f"datasets/statmt/wmt_newstest/2014/{place}",
    )


_FILES = (
    _file("en", "9a12cb6e8efb3509ebede627e4a9c83ee64935509d561ff70f4b7bd5f93f6096"),
    _file("fr", "2bd07dc204f965bf88e90adb6223a8cb850f9bf9840df6af1f4945195936656e"),
)
_PROTOCOL = (
    'Section 3.7: "example pairs of the format english sentence = french sentence", then "english sentence =", greedy '
    "decoding, the first generated sentence; 5 BLEU into French and 11.5 into English for the largest model. Open: how "
    "many pairs and which (here five of ours), and which BLEU (here sacrebleu's, 13a, with case, one reference)."
)
_CHOICES = {"examples": Choice(values=("5", "3", "1"), help="how many of our example pairs stand before")}


def _benchmark(name: str, languages: str, plan: Callable[[Sequence[str], Setting], Plan], bleu: float) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"WMT-14 {languages}",
        protocol=_PROTOCOL,
        files=_FILES,
        choices=_CHOICES,
        plan=plan,
        paper={"bleu": (None, None, None, bleu)},
        made_up=("wmt14.en", "wmt14.fr"),
        headline="bleu",
        better="higher",
    )


EN_FR = _benchmark("wmt14-en-fr", "English-French", plan_en_fr, 5.0)
FR_EN = _benchmark("wmt14-fr-en", "French-English", plan_fr_en, 11.5)
