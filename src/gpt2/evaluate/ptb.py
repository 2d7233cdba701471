"""Penn Treebank: newspaper text in lower case with `N` for every number, as Mikolov et al. prepared it."""

from collections.abc import Sequence

from gpt2.evaluate import language_modelling
from gpt2.evaluate.benchmark import DataFile, Known, Plan, Setting
from gpt2.evaluate.detokenize import ptb_back, ptb_there


def plan(texts: Sequence[str], setting: Setting) -> Plan:
    """The whole file as one text, a sentence a line."""
    return language_modelling.plan(texts[0], setting, ptb_there, ptb_back, blank_lines=False)


BENCHMARK = language_modelling.benchmark_by_word(
    name="ptb",
    title="Penn Treebank",
    protocol=(
        "as for WikiText-2. OpenAI said later that the edition with <unk> was used. `N` and <unk> stay, "
        "for what they stood for is not known any more."
    ),
    files=(
        DataFile(
            path="ptb/ptb.test.txt",
            sha256="dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            origin="the test set of the Penn Treebank for language models (Mikolov), ptb.test.txt: the file of "
            "449,945 bytes that is in many repositories. The treebank is the LDC's, so this package does not fetch it",
        ),
    ),
    choices=language_modelling.CHOICES,
    plan=plan,
    paper=(65.85, 47.33, 40.31, 35.76),
    made_up="ptb.txt",
    known=(
        Known("124M", "perplexity_per_word", 79.65, "no de-tokenizer", "huggingface/transformers#13786"),
        Known("124M", "perplexity_per_token", 52.53, "no de-tokenizer", "huggingface/transformers#13786"),
    ),
)
