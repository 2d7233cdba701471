"""The model card of a fine-tuned model: what is known about its making, and nothing else."""

from typing import TYPE_CHECKING

from gpt2.report import markdown
from gpt2.report.card_sections import optimizer
from gpt2.train.config import TrainConfig
from gpt2.train.config_files import as_tree
from gpt2.train.finetune_data import Prepared

if TYPE_CHECKING:
    from gpt2.train.finetune import Finetuned


def card(*, base: str, config: TrainConfig, prepared: Prepared, ended: "Finetuned", text: str) -> str:
    """The text of README.md.

    Args:
        base: the model it started from.
        config: of the training.
        prepared: facts of the text.
        ended: the result.
        text: the name of the file or folder.
    """
    lora, schedule = config.lora, config.schedule
    kind = f"adapters of rank {lora.rank} (alpha {lora.alpha:g}) for" if lora.rank else "all weights of"
    library = "peft" if lora.rank else "transformers"
    named = markdown.line(base.replace("\\", "/").rpartition("/")[2])  # without the maker's own folders
    held_out = "Nothing was held out, so what it learned was not measured."
    if prepared.validation_tokens:
        held_out = "How well it learned is not known: no finite loss on the held-out text was measured after it."
    if ended.loss is not None and ended.loss_before is not None:
        held_out = (
            f"On {ended.loss_tokens:,} held-out tokens of the same text its loss is {ended.loss:.3f} nats a "
            f"token (the mean of a token's negative log-likelihood); before, it was {ended.loss_before:.3f}."
        )
        if not ended.gained:
            held_out += f" So it predicts this text no better than {named} does."
    return f"""---
library_name: {library}
pipeline_tag: text-generation
tags: [gpt2{", lora" if lora.rank else ""}]
base_model: {markdown.quoted(base)}
---

# {named}, fine-tuned on {markdown.line(text)}

A GPT-2 ({config.model.parameters:,} parameters, context {config.model.n_positions:,} tokens) that goes on from
{named}: {kind} the model learned from {prepared.size}.
{held_out}

It continues text in the manner of what it was trained on. What it writes may be false or unpleasant, and after a small
text it may repeat passages of it word for word. The licence of the base and the rights in the text both bear on it.

| training | |
|---|---|
| optimizer | {optimizer(as_tree(config)["optim"])} |
| schedule | {schedule.tokens:,} tokens at most, {schedule.batch_tokens:,} a step, sequences of \
{schedule.sequence[-1][1]:,} |
| steps | {ended.steps:,} taken; the weights here are those after step {ended.best_step:,} |
| seed | {config.run.seed} |
"""
