"""One Billion Word: news sentences in a random order."""

from collections.abc import Sequence

from gpt2.evaluate import language_modelling
from gpt2.evaluate.benchmark import Choice, DataFile, Known, Plan, Setting
from gpt2.evaluate.detokenize import news_back, news_there

_FOLDER = "1-billion-word-language-modeling-benchmark-r13output"


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """Each sentence as a document after the end-of-text token, or all as one text."""
    apart = setting.choices["sentences"] == "apart"
    return language_modelling.plan(texts[0], setting, news_there, news_back, blank_lines=False, apart=apart)


BENCHMARK = language_modelling.benchmark_by_word(
    name="1bw",
    title="One Billion Word",
    protocol=(
        "as for WikiText-2. The one set where the paper's models stay behind, because its "
        "sentence level shuffling removes all long-range structure. Open: which part of the held-out data (here the "
        "first of 50, as is usual), the de-tokenizer, whether each sentence is scored by itself."
    ),
    files=(
        DataFile(
            path=f"1bw/{_FOLDER}.tar.gz",
            sha256="01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
            origin="One Billion Word (Chelba et al. 2013), the archive of 1.8 GB; reading the test set out of it takes "
            "a minute",
            url=f"https://www.statmt.org/lm-benchmark/{_FOLDER}.tar.gz",
            member=f"{_FOLDER}/heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050",
        ),
    ),
    choices={
        "sentences": Choice(values=("apart", "together"), help="score each by itself, or all as one text"),
        **language_modelling.CHOICES,
    },
    plan=plan,
    paper=(75.20, 55.72, 44.575, 42.16),
    made_up="1bw.txt",
    known=(Known("124M", "perplexity_per_token", 45.88, "per token, not per word", "huggingface/transformers#13761"),),
)
