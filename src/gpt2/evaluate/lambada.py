"""LAMBADA: the last word of a passage, which people can guess from the whole passage but not from its last sentence."""

import math
import re
from collections.abc import Sequence

from gpt2.evaluate import uncertainty
from gpt2.evaluate.benchmark import Benchmark, Choice, DataFile, Figures, Judged, Known, Plan, Setting
from gpt2.evaluate.detokenize import cbt_back, cbt_there, detokenize
from gpt2.evaluate.files_of_data import read_examples
from gpt2.evaluate.language_modelling import exp
from gpt2.generation.targets import Target, TargetScore

# Unlikely last words of a sentence. The paper's list is unknown; these are function words.
STOP_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a an the this that these those another any each every some such no
        i me my you your he him his she her it its we us our they them their who whom whose which what one ones
        am is are was were be been being do does did doing have has had having will would shall should can could may
        might must and or but nor so yet if because as until while although though since unless than whether
        of at by for with about against between into through during before after above below to from up down in out
        on off over under upon within without toward towards among across along around behind beyond near
        again further then once here there when where why how all both few more most other only own same too very
        just not now also ever never still even quite rather almost
        """,
    )
)

_QUOTES = str.maketrans({"“": '"', "”": '"'})


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """One request an example: the last word, after everything before it."""
    passages = _passages(texts[0], setting.choices["text"], setting.limit)
    forms = [f" {form}" for word in STOP_WORDS for form in (word, word.capitalize())]
    stop_ids = frozenset(ids[0] for ids in map(setting.encode, forms) if len(ids) == 1)
    start = (setting.eot,) if setting.choices["start"] == "endoftext" else ()
    requests = [_request(passage, setting, start, best=len(stop_ids) + 1) for passage in passages]

    def guess(result: TargetScore) -> int | None:
        return next((token for token in result.best if token not in stop_ids), None)

    def measure(results: Sequence[TargetScore]) -> Figures:
        n = len(results)
        whole = [max(result.ranks) == 0 for result in results]
        last = [result.ranks[-1] == 0 for result in results]
        filtered = [
            guess(result) == request.targets[0] and max(result.ranks[1:], default=0) == 0
            for request, result in zip(requests, results, strict=True)
        ]
        return {
            "perplexity": exp(-math.fsum(sum(result.logprobs) for result in results) / n),
            "accuracy_last_word": 100 * sum(whole) / n,
            "accuracy_last_word_filtered": 100 * sum(filtered) / n,
            "accuracy_last_token": 100 * sum(last) / n,
        }

    def judge(results: Sequence[TargetScore]) -> list[Judged]:
        found: list[Judged] = []
        for passage, request, result in zip(passages, requests, results, strict=True):
            before, _, word = passage.rpartition(" ")
            right = max(result.ranks) == 0
            sure = result.best_logprob if len(request.targets) == 1 or not right else math.fsum(result.logprobs)
            favourite = word if right else setting.decode(result.best[:1])
            found.append(
                Judged(
                    given=before,
                    expected=word,
                    answered=favourite,
                    score=float(right),
                    confidence=None if sure is None else math.exp(sure),
                )
            )
        return found

    def errors(results: Sequence[TargetScore]) -> Figures:
        of_loss = uncertainty.of_mean([-math.fsum(result.logprobs) for result in results])
        return {"perplexity": measure(results)["perplexity"] * of_loss}

    return Plan(
        requests=requests,
        measure=measure,
        n_examples=len(passages),
        judge=judge,
        scored="accuracy_last_word",
        errors=errors,
    )


def _passages(text: str, form: str, limit: int | None) -> list[str]:
    if form.startswith("original"):
        passages = text.splitlines()[:limit]
        return passages if form == "original" else detokenize(passages, cbt_there, cbt_back).lines
    passages = read_examples(text, lambda found: str(found["text"]), 'LAMBADA is not {"text": …}')[:limit]
    return passages if form == "openai" else [f"\n{passage.translate(_QUOTES).strip()}" for passage in passages]


def _request(passage: str, setting: Setting, start: tuple[int, ...], *, best: int) -> Target:
    context, _, word = passage.rpartition(" ")
    before, targets = (*start, *setting.encode(context)), tuple(setting.encode(f" {word}"))
    # a passage longer than the context keeps its end; one of a single word follows the end-of-text token
    kept = before[-(setting.n_positions - len(targets) + 1) :] or (setting.eot,)
    return Target(context=kept, targets=targets, best=best)


_HARNESS = "EleutherAI/lm-evaluation-harness#2159"


BENCHMARK = Benchmark(
    name="lambada",
    title="LAMBADA",
    protocol=(
        "Section 3.3: predict the final word of a passage, on a version of the data set without preprocessing; "
        '"adding a stop-word filter as an approximation" to the constraint that the word ends the sentence raises '
        "accuracy (52.66 % to 63.24 % for the largest model), and the table reports it with the filter. Open: the "
        "list of stop words, whether a word of several tokens must be right as a whole, what stands before the "
        "passage. Here a word is right if each of its tokens is the likeliest after those before it; the filter "
        "takes stop words of one token from the guesses for the first. The last token alone, given the rest, is how "
        "others read it."
    ),
    files=(
        DataFile(
            path="lambada/lambada_test.jsonl",
            sha256="4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
            origin="OpenAI's edition of the LAMBADA test set (Paperno et al. 2016; CC BY 4.0), lambada_test.jsonl, "
            "5,153 lines",
            url="https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
            when=("text", "openai", "normalised"),
        ),
        DataFile(
            path="lambada/lambada-dataset.tar.gz",
            sha256="8fbe499096ddbdcbbd0cac406861b5026fb451d15b8fe04e0e4f3d082f2ad5d7",
            origin="the original data set (Paperno et al. 2016; CC BY 4.0), lambada-dataset.tar.gz, 334 MB",
            url="https://zenodo.org/record/2630551/files/lambada-dataset.tar.gz?download=1",
            member="lambada_test_plain_text.txt",
            when=("text", "original", "original-detokenized"),
        ),
    ),
    choices={
        "text": Choice(
            values=("openai", "normalised", "original", "original-detokenized"),
            help="OpenAI's edition as it is, or with straight quotes and a newline before it; or the original, in "
            "lower case with its marks apart, or with them put back",
        ),
        "start": Choice(values=("nothing", "endoftext"), help="what stands before the passage"),
    },
    plan=plan,
    paper={
        "perplexity": (35.13, 15.60, 10.87, 8.63),
        "accuracy_last_word": (None, None, None, 52.66),
        "accuracy_last_word_filtered": (45.99, 55.48, 60.12, 63.24),
    },
    made_up=("lambada.jsonl",),
    headline="accuracy_last_word_filtered",
    better="higher",
    known=(
        Known("124M", "accuracy_last_token", 46.67, "nothing before the passage", "cybertronai/bflm"),
        Known("124M", "accuracy_last_token", 46.89, "text=normalised", "cybertronai/bflm"),
        Known("124M", "accuracy_last_word_filtered", 41.98, "search over words, a list of 127", "cybertronai/bflm"),
        Known("124M", "accuracy_last_word", 32.56, "lm-evaluation-harness, lambada_openai", _HARNESS),
        Known("124M", "perplexity", 40.06, "lm-evaluation-harness, lambada_openai", _HARNESS),
        Known("1.5B", "accuracy_last_word", 51.21, "lm-evaluation-harness", "EleutherAI/gpt-neo README"),
        Known("1.5B", "perplexity", 10.63, "lm-evaluation-harness", "EleutherAI/gpt-neo README"),
        Known("124M", "accuracy_last_word", 26.0, "text=original", "cybertronai/bflm"),
        Known("124M", "accuracy_last_word_filtered", 31.54, "text=original", "cybertronai/bflm"),
        Known("124M", "accuracy_last_word_filtered", 33.63, "text=original-detokenized, about", "cybertronai/bflm"),
    ),
)
