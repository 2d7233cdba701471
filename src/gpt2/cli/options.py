"""Options that several verbs share, so that each is named, explained and checked in one place.

Each `…_options` is a decorator. A command of class `Sectioned` shows their help in sections.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from gpt2.cli.output import Messages
from gpt2.errors import GenerationError, Gpt2Error, SettingError

if TYPE_CHECKING:
    from gpt2.language_model import LanguageModel

Verb = Callable[..., object]

_SINGULAR = {"stop_ids": "--stop-id"}  # options for list fields take one value each
_METAVARS = {"stop": "TEXT", "stop_ids": "ID", "logit_bias": "ID=BIAS"}

_NOTABLE = 1 << 32  # help omits upper bounds beyond this: nobody reaches them


class Option(click.Option):
    """An option that names its section of the help."""

    def __init__(self, *args: Any, section: str = "Options", **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.section = section

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        """As in click, but without a range whose upper end is open or practically open."""
        extra = super().get_help_extra(ctx)
        most = getattr(self.type, "max", None)
        if most is None or most > _NOTABLE:
            extra.pop("range", None)
        return extra


class FiniteRange(click.FloatRange):
    """A range of finite numbers: click's own accepts `nan` always, and `inf` at an open end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As in click, but refuse what is not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class Place(click.Path):
    """A path. An empty one, as from an unset variable, would be the working directory, and is refused."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As in click, but refuse an empty path."""
        if value == "":
            self.fail("a path without a name. Give one; . is the folder that you are in.", param, ctx)
        return super().convert(value, param, ctx)


class Name(click.types.StringParamType):
    """A text that names something. An empty one, as from an unset variable, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As in click, but refuse an empty text."""
        if value == "":
            advice = "Give another." if param is not None and param.required else "Give another, or leave it out."
            self.fail(f"an empty text says nothing. {advice}", param, ctx)
        return super().convert(value, param, ctx)


@contextlib.contextmanager
def wrong_usage(kind: type[Gpt2Error]) -> Generator[None]:
    """Wrap the one call that checks the user's input: its error gets the exit code of wrong usage."""
    try:
        yield
    except kind as error:
        raise click.UsageError(str(error), click.get_current_context(silent=True)) from error


class Sectioned(click.Command):
    """A command whose help shows its own options first, then the shared ones by section.

    A `SettingError` is wrong usage, wherever it is raised.
    """

    def invoke(self, ctx: click.Context) -> object:
        """As in click, but a `SettingError` gets the exit code of wrong usage."""
        with wrong_usage(SettingError):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by section, in the order in which sections first appear."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for section, records in sections.items():
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice:
    """The values of the model options."""

    model: str
    device: str
    backend: str
    weights: str
    threads: int | None
    download: bool = False

    def __post_init__(self) -> None:
        from gpt2.backends.choice import DEVICES, kind_of_device

        if kind_of_device(self.device) not in DEVICES:
            raise click.UsageError(
                f"there is no device {self.device!r}: it is {', '.join(DEVICES[:-1])} or {DEVICES[-1]}."
            )

    def load(self, *, auto_weights: str = "auto") -> "LanguageModel":
        """Open the chosen model.

        Args:
            auto_weights: what `--weights auto` means for this verb; scoring says "fp32".
        """
        from gpt2.language_model import load

        weights = auto_weights if self.weights == "auto" else self.weights
        self.fetch()
        return load(self.model, device=self.device, backend=self.backend, weights=weights, threads=self.threads)

    def fetch(self) -> None:
        """Download the model if --download was given and it is not here."""
        if not self.download:
            return
        from gpt2 import hub
        from gpt2.errors import ModelNotFoundError

        try:
            hub.locate(self.model)
        except ModelNotFoundError:
            from gpt2.cli.download import fetch

            fetch(hub.plan(self.model))


def option(*names: str, section: str = "Options", **settings: Any) -> Callable[[Verb], Verb]:
    """`click.option`, shown in a section of the help."""
    return click.option(*names, cls=Option, section=section, **settings)


def model_options(verb: Verb) -> Verb:
    """Add --model --download --device --backend --weights --isa --threads; the verb gets one `choice: ModelChoice`."""

    @option(
        "--model",
        section="Model",
        default="gpt2-mini",
        show_default=True,
        metavar="NAME|DIR|FILE",
        help="Model to use.",
    )
    @option("--download", section="Model", is_flag=True, help="Download the model first if it is not here.")
    @option(
        "--device",
        section="Model",
        default="auto",
        metavar="auto|cpu|cuda|mps",
        help="Device to run on; auto is the CPU.",
    )
    @option(
        "--backend",
        section="Model",
        type=click.Choice(["auto", "native", "torch", "reference"]),
        default="auto",
        help="Engine that runs the model.",
    )
    @option(
        "--weights",
        section="Model",
        type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
        default="auto",
        help="Precision of the weights in memory.",
    )
    @option(
        "--isa",
        section="Model",
        type=click.Choice(
            ["amx", "avx512-bf16", "avx512-vnni", "avx2-vnni", "avx2", "neon-dotprod", "neon", "portable"]
        ),
        help="Instruction set of the native engine; overrides GPT2_ISA.  [default: the fastest here]",
    )
    @option(
        "--threads",
        section="Model",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="CPU threads.  [default: the backend's choice]",
    )
    @functools.wraps(verb)
    def with_choice(
        *,
        model: str,
        download: bool,
        device: str,
        backend: str,
        weights: str,
        isa: str | None,
        threads: int | None,
        **rest: Any,
    ) -> object:
        choice = ModelChoice(
            model=model, download=download, device=device, backend=backend, weights=weights, threads=threads
        )
        if isa is not None:
            if backend in ("torch", "reference") or device not in ("auto", "cpu"):
                raise click.UsageError(
                    "--isa is a level of the native engine on a CPU: it cannot go with another --backend or --device. "
                    "Leave one out."
                )
            _force_level(isa)
        return verb(choice=choice, **rest)

    return with_choice


def _force_level(isa: str) -> None:
    """Set the environment variable that the engine and the verb's child processes read, until the verb ends."""
    before = os.environ.get("GPT2_ISA")
    os.environ["GPT2_ISA"] = isa

    def restore() -> None:
        del os.environ["GPT2_ISA"]
        if before is not None:
            os.environ["GPT2_ISA"] = before

    click.get_current_context().call_on_close(restore)


def sampling_options(**defaults: Any) -> Callable[[Verb], Verb]:
    """Add an option for every setting of `Sampling`; the verb gets them as one `sampling: Sampling`.

    Args:
        defaults: the verb's defaults that differ from `Sampling`'s; the help shows them.
    """
    from gpt2.generation.settings import Sampling

    settings = dataclasses.fields(Sampling)

    def decorate(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def with_sampling(**values: Any) -> object:
            chosen = {setting.name: values.pop(setting.name) for setting in settings}
            with wrong_usage(GenerationError):
                sampling = Sampling(**chosen)
            return verb(sampling=sampling, **values)

        decorated: Verb = with_sampling
        for setting in reversed(settings):
            decorated = _sampling_option(setting, defaults)(decorated)
        return decorated

    return decorate


def _sampling_option(setting: "dataclasses.Field[Any]", defaults: Mapping[str, Any]) -> Callable[[Verb], Verb]:
    name = _SINGULAR.get(setting.name, "--" + setting.name.replace("_", "-"))
    help_text: str = setting.metadata["help"]
    shared: dict[str, Any] = {
        "help": f"{help_text[:1].upper()}{help_text[1:]}.",
        "metavar": _METAVARS.get(setting.name),
    }
    if setting.default is not dataclasses.MISSING:
        shared["default"] = defaults.get(setting.name, setting.default)
        shared["show_default"] = isinstance(shared["default"], int | float | str) and shared["default"] is not False
    kinds = get_args(setting.type) or (setting.type,)
    if setting.name == "logit_bias":
        shared |= {"multiple": True, "callback": _logit_bias, "default": ()}
    elif setting.type is bool:
        shared |= {"is_flag": True}
    elif setting.name in ("stop", "stop_ids"):
        shared |= {"multiple": True, "type": kinds[0]}
    elif isinstance(kinds[0], str):  # a Literal
        shared |= {"type": click.Choice(kinds)}
    else:
        limits, whole = setting.metadata, int in kinds
        least, above, most = limits.get("least"), limits.get("above"), limits.get("most")
        kind = click.IntRange if whole else click.FloatRange
        shared["type"] = kind(least if above is None else above, most, min_open=above is not None)
        shared["metavar"] = "N" if whole else "X"
    return option(name, setting.name, section="Sampling", **shared)


def _logit_bias(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for value in values:
        token, _, bias = value.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise click.BadParameter(f"got {value!r}; a token id and its bias look like 50256=-100.") from None
    return biases


def watermark_option(verb: Verb) -> Verb:
    """Add --watermark, for verbs that write; the verb gets a `gpt2.generation.Noise`, or None if it was not given.

    The key is read before a model is loaded, so a bad one fails at once.
    """

    def noise_of(ctx: click.Context, param: click.Parameter, path: Path | None) -> object:
        if path is None:
            return None
        from gpt2.detect import read_key

        return read_key(path)

    return option(
        "--watermark",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=noise_of,
        metavar="KEYFILE",
        help="Watermark the text with this key; gpt2 detect makes keys and reads marks.",
    )(verb)


def draft_option(verb: Verb) -> Verb:
    """Add --draft; the verb gets `draft: str`, which `LanguageModel.generate` takes."""
    return option(
        "--draft",
        section="Model",
        default="auto",
        show_default=True,
        metavar="auto|none|ngram|MODEL",
        help="Decode speculatively: guess tokens from the text so far (ngram) or with a smaller MODEL, and verify "
        "several a step. The text stays the same.",
    )(verb)


def seed_option(verb: Verb) -> Verb:
    """Add --seed for verbs without sampling; None if it was not given."""
    return option(
        "--seed", type=click.IntRange(0, 2**64 - 1), metavar="N", help="The same seed gives the same result."
    )(verb)


def message_options(verb: Verb) -> Verb:
    """Add --quiet and --debug, which set what standard error shows; the verb does not see them."""

    def choose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        messages = ctx.find_root().obj
        if value and isinstance(messages, Messages):
            messages.choose(**{param.name or "": True})

    def flag(name: str, help_text: str) -> Callable[[Verb], Verb]:
        return option(name, section="Output", is_flag=True, expose_value=False, callback=choose, help=help_text)

    quiet = flag("--quiet", "Limit standard error to warnings and errors.")
    debug = flag("--debug", "Show every message, and tracebacks.")
    return quiet(debug(verb))


def output_options(verb: Verb) -> Verb:
    """Add what every verb has: --json (as `as_json`), --quiet and --debug."""
    json = option("--json", "as_json", section="Output", is_flag=True, help="Write JSON to standard output.")
    return json(message_options(verb))
