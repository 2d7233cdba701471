"""WikiText-2 and WikiText-103: the same articles, with more or fewer words replaced by `<unk>`."""

import re
from collections.abc import Sequence

from gpt2.evaluate import language_modelling
from gpt2.evaluate.benchmark import Choice, DataFile, Known, Plan, Setting
from gpt2.evaluate.detokenize import wikitext_back, wikitext_there

_HEADING = re.compile(r" ?= [^=].* = ?")

# The replacements of lm-evaluation-harness (and Megatron-LM before it), in its order. They have no inverse.
_HARNESS_RULES: tuple[tuple[str, str], ...] = (
    (r"s '", "s'"),
    (r"/' [0-9]/", r"/'[0-9]/"),
    *((rf" @{re.escape(mark)}@ ", mark) for mark in "-,."),
    *((rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
    *(
        (rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}", rf"{left}\1{right}")
        for left, right in ("()", "[]", "{}", '""', "''")
    ),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """The whole file as one text, empty lines included; or each article by itself."""
    if setting.choices["detokenize"] == "harness":
        return language_modelling.plan_texts(_as_the_harness(texts[0], setting.limit), setting)
    begins = _is_heading if setting.choices["documents"] == "pages" else None
    return language_modelling.plan(texts[0], setting, wikitext_there, wikitext_back, blank_lines=True, begins=begins)


def pages(text: str) -> list[str]:
    """The articles of a file, each from its heading on."""
    found: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if _is_heading(line.rstrip("\n")):
            found.append([])
        found[-1].append(line)
    return [page for page in map("".join, found) if page.strip()]


def harness_there(page: str) -> str:
    """A page as lm-evaluation-harness writes it."""
    for pattern, written in _HARNESS_RULES:
        page = re.sub(pattern, written, page)
    return page


def _as_the_harness(text: str, limit: int | None) -> language_modelling.Texts:
    """Pages, with words counted by the harness's rule: white space at either end of a page adds a word."""
    taken = pages(text)[:limit]
    return language_modelling.Texts(
        documents=[harness_there(page) for page in taken],
        n_words=sum(len(re.split(r"\s+", page)) for page in taken),
        n_bytes=sum(len(page.encode("utf-8")) for page in taken),
        n_examples=len(taken),
        notes=("pages are those between headings of the first level; --limit counts pages",),
    )


def _is_heading(line: str) -> bool:
    return _HEADING.fullmatch(line) is not None


_HF = "huggingface/transformers#13761"

CHOICES = {
    "detokenize": Choice(
        values=("yes", "no", "harness"),
        help="write the text as it is usually written before it is scored, by our invertible rules or by those of "
        "lm-evaluation-harness, whose word count then goes with them",
    ),
    "newlines": language_modelling.CHOICES["newlines"],
    "documents": Choice(values=("whole", "pages"), help="score the file as one text, or each article by itself"),
    **language_modelling.LAST_WINDOW,
}
_RAW = DataFile(
    path="wikitext-2-raw/wiki.test.raw",
    sha256="173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
    origin="the raw test set of WikiText-2 (Merity et al. 2016; CC BY-SA 3.0), wiki.test.raw, without <unk>",
    when=("text", "raw"),
)

WIKITEXT2 = language_modelling.benchmark_by_word(
    name="wikitext2",
    title="WikiText-2",
    protocol=(
        "the log-probability of the data set divided by the number of its words, with an invertible "
        "de-tokenizer. Open: the de-tokenizer, the stride, whether the ends of lines count, whether articles are "
        "scored one by one."
    ),
    files=(
        DataFile(
            path="wikitext-2/test.txt",
            sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            origin="the test set of WikiText-2 (Merity et al. 2016; CC BY-SA 3.0), wiki.test.tokens, with <unk>",
            url="https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/"
            "word_language_model/data/wikitext-2/test.txt",
            when=("text", "unk"),
        ),
        _RAW,
    ),
    choices={
        "text": Choice(values=("unk", "raw"), help="the edition with <unk>, which the paper used, or the raw one"),
        **CHOICES,
    },
    plan=plan,
    paper=(29.41, 22.76, 19.93, 18.34),
    made_up="wikitext.txt",
    known=(
        Known(
            "124M", "perplexity_per_word", 37.37, "raw edition, pages, its de-tokenizer (lm-evaluation-harness)", _HF
        ),
        Known("1.5B", "perplexity_per_word", 17.48, "the same", "EleutherAI/gpt-neo README"),
        Known("124M", "perplexity_per_token", 29.94, "raw edition, lines joined by two newlines, stride 1024", _HF),
        Known("774M", "perplexity_per_token", 19.44, "the same", "transformers docs, perplexity.md"),
        Known("774M", "perplexity_per_token", 16.44, "the same, stride 512", "transformers docs, perplexity.md"),
    ),
)

WIKITEXT103 = language_modelling.benchmark_by_word(
    name="wikitext103",
    title="WikiText-103",
    protocol=(
        "as for WikiText-2. The test set has the articles of WikiText-2's, with a larger vocabulary and "
        "so fewer <unk> (2,492 for 15,218), which is why the paper's perplexities are higher: <unk> is cheap."
    ),
    files=(
        DataFile(
            path="wikitext-103/wikitext-103-v1.zip",
            sha256="242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            origin="WikiText-103 (Merity et al. 2016; CC BY-SA 3.0), wikitext-103-v1.zip, 190 MB",
            url="https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
            member="wikitext-103/wiki.test.tokens",
        ),
    ),
    choices=CHOICES,
    plan=plan,
    paper=(37.50, 26.37, 22.05, 17.48),
    made_up="wikitext.txt",
    known=(
        Known(
            "124M",
            "perplexity_per_word",
            48.4,
            "newlines for the end of lines, divided by the original tokens",
            "huggingface/transformers#483",
        ),
        Known(
            "355M",
            "perplexity_per_word",
            24.21,
            "NVIDIA's own 345M model, its de-tokenizer, stride 32",
            "NVIDIA's Megatron-LM",
        ),
        Known("774M", "perplexity_per_word", 20.44, "NVIDIA's own 775M model, the same", "NVIDIA's Megatron-LM"),
    ),
)
