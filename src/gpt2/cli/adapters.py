"""`--lora` and its settings: adapters in place of the whole model."""

import functools

import click
from click.core import ParameterSource

from gpt2.cli.options import FiniteRange, Verb, option

_SETTINGS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")


def adapter_options(verb: Verb) -> Verb:
    """Add --lora --lora-rank --lora-alpha --lora-dropout --lora-target.

    The verb gets one `adapters`: the fields of a `gpt2.train.LoraConfig`, or None without --lora.
    """

    @option("--lora", section="Adapters", is_flag=True, help="Train adapters (LoRA) and leave the model unchanged.")
    @option(
        "--lora-rank",
        section="Adapters",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Rank of each adapter.",
    )
    @option(
        "--lora-alpha",
        section="Adapters",
        type=FiniteRange(min=0),
        default=16.0,
        show_default=True,
        metavar="X",
        help="Scale each change by this over the rank.",
    )
    @option(
        "--lora-dropout",
        section="Adapters",
        type=FiniteRange(0, 0.99),
        metavar="X",
        default=0.0,
        show_default=True,
        help="Dropout of the adapters' inputs during training.",
    )
    @option(
        "--lora-target",
        section="Adapters",
        multiple=True,
        metavar="MAP",
        help="Adapt this layer: c_attn, c_proj, ... Repeatable.  [default: all]",
    )
    @functools.wraps(verb)
    def with_adapters(
        *,
        lora: bool,
        lora_rank: int,
        lora_alpha: float,
        lora_dropout: float,
        lora_target: tuple[str, ...],
        **rest: object,
    ) -> object:
        if not lora:
            _refuse_settings()
            return verb(adapters=None, **rest)
        targets = {"targets": lora_target} if lora_target else {}
        return verb(adapters={"rank": lora_rank, "alpha": lora_alpha, "dropout": lora_dropout, **targets}, **rest)

    return with_adapters


def _refuse_settings() -> None:
    """Refuse adapter settings without --lora: else the whole model would silently be trained."""
    context = click.get_current_context()
    for name in _SETTINGS:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is of adapters, and without --lora the whole model learns. "
                "Add --lora, or leave it out."
            )
