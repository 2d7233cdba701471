"""The model card of a folder: README.md, whose front matter Hugging Face's hub reads."""

from pathlib import Path

from gpt2.config import ModelConfig
from gpt2.files import read_bounded

CARD = "README.md"
_LIMIT_BYTES = 1 << 20


def plain_card(config: ModelConfig) -> str:
    """The card of a model of which only the shape is known. It claims nothing else."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2]
---

# A GPT-2 of {config.parameters:,} parameters

{config.n_layer} layers, {config.n_head} heads, width {config.n_embd:,}, context {config.n_positions:,} tokens, \
vocabulary {config.vocab_size:,}.

A language model: it continues text, and what it writes may be false or unpleasant. What it was trained on, by whom and
under which licence is not recorded here; whoever passes it on should write it down.
"""


def read_card(folder: Path) -> str | None:
    """The text of the card in a model's folder, if there is one."""
    path = folder / CARD
    return read_bounded(path, _LIMIT_BYTES).decode("utf-8", errors="replace") if path.is_file() else None
