"""WikiText-2: the test set of `<unk>` and spaces around every mark, as language models were compared by in 2019."""

from collections.abc import Sequence

from gpt2.evaluate import language_modelling
from gpt2.evaluate.benchmark import Benchmark, DataFile, Plan, Setting
from gpt2.evaluate.detokenize import wikitext_back, wikitext_there


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """The whole file as one text, empty lines included."""
    return language_modelling.plan(texts[0], setting, wikitext_there, wikitext_back, blank_lines=True)


BENCHMARK = Benchmark(
    name="wikitext2",
    title="WikiText-2",
    protocol=(
        "Section 3.1: the log-probability of the data set divided by the number of its words, with an invertible "
        "de-tokenizer. Open: the de-tokenizer, the stride, whether the ends of lines count."
    ),
    files=(
        DataFile(
            path="wikitext-2/test.txt",
            sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            origin="the test set of WikiText-2 (Merity et al. 2016; CC BY-SA 3.0), wiki.test.tokens, with <unk>",
        ),
    ),
    choices=language_modelling.CHOICES,
    plan=plan,
    paper={"perplexity_per_word": (29.41, 22.76, 19.93, 18.34)},
)
