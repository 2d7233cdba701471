"""Options that several verbs share, so that each is spelt, explained and checked in one place."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gpt2.cli.output import Messages

if TYPE_CHECKING:
    from gpt2.language_model import LanguageModel

Verb = Callable[..., object]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice:
    """What the model options said."""

    model: str
    device: str
    backend: str
    weights: str
    threads: int | None

    def load(self, *, auto_weights: str = "auto") -> "LanguageModel":
        """Open the chosen model.

        Args:
            auto_weights: what `--weights auto` means for this verb; scoring says "fp32".
        """
        from gpt2.language_model import load

        weights = auto_weights if self.weights == "auto" else self.weights
        return load(self.model, device=self.device, backend=self.backend, weights=weights, threads=self.threads)


def model_options(verb: Verb) -> Verb:
    """Add --model --device --backend --weights --threads; the verb gets them as one `choice: ModelChoice`."""

    @click.option("--model", default="gpt2-mini", show_default=True, metavar="NAME|DIR|FILE", help="The model.")
    @click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where it computes.")
    @click.option(
        "--backend",
        type=click.Choice(["auto", "native", "torch", "reference"]),
        default="auto",
        show_default=True,
        help="What computes it.",
    )
    @click.option(
        "--weights",
        type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
        default="auto",
        show_default=True,
        help="The form its weights are held in.",
    )
    @click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the physical cores]")
    @functools.wraps(verb)
    def with_choice(*, model: str, device: str, backend: str, weights: str, threads: int | None, **rest: Any) -> object:
        choice = ModelChoice(model=model, device=device, backend=backend, weights=weights, threads=threads)
        return verb(choice=choice, **rest)

    return with_choice


def seed_option(verb: Verb) -> Verb:
    """Add --seed; None when it was not given."""
    return click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), help="Makes the result repeatable.")(verb)


def json_option(verb: Verb) -> Verb:
    """Add --json; the verb gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")(verb)


def message_options(verb: Verb) -> Verb:
    """Add --quiet and --debug, which set what is shown on standard error; the verb need not know."""

    def choose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        messages = ctx.find_root().obj
        if value and isinstance(messages, Messages):
            messages.choose(**{param.name or "": True})

    quiet = click.option(
        "--quiet", is_flag=True, expose_value=False, callback=choose, help="Only warnings and errors on standard error."
    )
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=choose, help="Everything, and tracebacks."
    )
    return quiet(debug(verb))


def output_options(verb: Verb) -> Verb:
    """Add what every verb has: --json (as `as_json`), --quiet and --debug."""
    return json_option(message_options(verb))
