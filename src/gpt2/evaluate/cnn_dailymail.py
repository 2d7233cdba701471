"""CNN and Daily Mail: summaries of news articles, compared with their published highlights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2.errors import MissingExtraError
from gpt2.evaluate.benchmark import Benchmark, Choice, Continued, DataFile, Figures, Judged, Plan, Setting
from gpt2.evaluate.files_of_data import read_examples
from gpt2.evaluate.rouge import rouge_l, rouge_n, words_of
from gpt2.tasks import Prompts, summarize
from gpt2.tasks.sentences import first_sentences, sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class Article:
    """Attributes:
    text: of the article.
    highlights: the reference summary, sentence by sentence.
    """

    text: str
    highlights: tuple[str, ...]


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """One prompt an article: the article, then TL;DR: unless the choice leaves it out."""
    expected = 'CNN/Daily Mail is not {"article": …, "highlights": …}'
    articles = read_examples(texts[0], _article, expected)[: setting.limit]
    prompts = Prompts.ours().summarize
    if setting.choices["hint"] == "none":
        prompts = replace(prompts, form="{text}\n", hint="")
    requests = [summarize.ask(each.text, prompts=prompts, room=setting.room) for each in articles]
    stemmed = _stemmer() if setting.choices["stemming"] == "yes" else lambda text: text
    n_cut = sum(bool(request.left_out) for request in requests)

    def rouge(summary: str, article: Article) -> tuple[float, float, float]:
        given, wanted = [stemmed(each) for each in sentences(summary)], [stemmed(each) for each in article.highlights]
        whole = " ".join(given), " ".join(wanted)
        return rouge_n(*whole, 1), rouge_n(*whole, 2), rouge_l(given, wanted)

    def summaries(results: Sequence[Continued]) -> list[str]:
        return [summarize.read(result.text, sentences=prompts.sentences) for result in results]

    def measure(results: Sequence[Continued]) -> Figures:
        figures: Figures = {}
        leads = [first_sentences(each.text, 3) for each in articles]
        for name, written in (("rouge", summaries(results)), ("lead_3_rouge", leads)):
            scores = [rouge(summary, article) for summary, article in zip(written, articles, strict=True)]
            means = [100 * sum(column) / len(articles) for column in zip(*scores, strict=True)]
            for kind, mean in zip(("1", "2", "l", "average"), (*means, sum(means) / 3), strict=True):
                figures[f"{name}_{kind}"] = mean
        return figures

    def judge(results: Sequence[Continued]) -> list[Judged]:
        return [
            Judged(
                given=article.text,
                expected=" ".join(article.highlights),
                answered=summary,
                score=sum(rouge(summary, article)) / 3,
            )
            for article, summary in zip(articles, summaries(results), strict=True)
        ]

    notes = (f"of {n_cut:,} of {len(articles):,} articles only the beginning fits the context",) if n_cut else ()
    return Plan(
        requests=requests, measure=measure, n_examples=len(articles), judge=judge, scored="rouge_average", notes=notes
    )


def _stemmer() -> Callable[[str], str]:
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError:
        raise MissingExtraError.of("Words cannot be stemmed", package="nltk", extra="evaluate") from None
    stemmer = PorterStemmer()
    return lambda text: " ".join(stemmer.stem(word) if len(word) > 3 else word for word in words_of(text))


def _article(found: Mapping[str, Any]) -> Article:
    if "highlights" in found:  # one a line
        highlights = [each.strip() for each in str(found["highlights"]).split("\n") if each.strip()]
    else:
        highlights = sentences(str(found["reference"]))
    return Article(text=str(found["article"]), highlights=tuple(highlights))


def _sample(name: str, sha256: str, what: str) -> DataFile:
    return DataFile(path=f"cnn_dailymail/{name}.jsonl", sha256=sha256, origin=what, when=("set", name))


BENCHMARK = Benchmark(
    name="cnndm",
    title="CNN/Daily Mail",
    protocol=(
        'Section 3.6: "we add the text TL;DR: after the article and generate 100 tokens with Top-k random sampling '
        'with k = 2 [...] We use the first 3 generated sentences"; ROUGE-1, 2 and L (F1) of the largest model: 29.34, '
        "8.27, 26.58, average 21.40; without the hint 15.03; the first three sentences of the article 31.55. Open: "
        "which ROUGE (here by summary, without stemming), the seed (here 0), what is done with articles beyond the "
        "context (here their beginning is kept)."
    ),
    files=(
        DataFile(
            path="cnn_dailymail/test.jsonl",
            sha256="",
            origin="the test set of CNN/Daily Mail (11,490 articles; the publishers', so this package does not fetch "
            'it): lines {"article", "highlights"} as datasets.load_dataset("abisee/cnn_dailymail", "3.0.0", '
            'split="test").to_json(…) writes them',
            when=("set", "test"),
        ),
        _sample(
            "realsumm",
            "bd69a91402bf83b818a920f735b7709d4ebce7454badaf18cd5a5b5edabd8d67",
            "100 articles of the test set, tokenised and in lower case (REALSumm)",
        ),
        _sample(
            "summeval",
            "a108c60d9f36b5269625a3174dd3d03c1cf1fc7cbec38e182eb0a7957482cf1c",
            "100 articles of the test set, tokenised, cut to 400 words (SummEval)",
        ),
    ),
    choices={
        "set": Choice(values=("test", "realsumm", "summeval"), help="the whole test set, or 100 articles of it"),
        "hint": Choice(values=("tldr", "none"), help="whether TL;DR: stands after the article"),
        "stemming": Choice(values=("no", "yes"), help="whether ROUGE compares stems of words (needs nltk)"),
    },
    plan=plan,
    paper={
        "rouge_1": (None, None, None, 29.34),
        "rouge_2": (None, None, None, 8.27),
        "rouge_l": (None, None, None, 26.58),
        "rouge_average": (None, None, None, 21.40),
    },
    made_up=("cnndm.jsonl",),
    headline="rouge_average",
    better="higher",
)
