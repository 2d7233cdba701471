"""What `train` and `finetune` share: samples by the engine of `generate`, trackers, the report, how a run ends."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.cli import output
from gpt2.cli.options import Name, Verb, option, wrong_usage
from gpt2.errors import BackendError, MismatchError, MissingExtraError

if TYPE_CHECKING:
    from gpt2.model.gpt import GPT
    from gpt2.train import LoraConfig
    from gpt2.train.config import RunConfig
    from gpt2.train.metrics import Tracker

_log = logging.getLogger("gpt2")


@contextlib.contextmanager
def importing(what: str) -> Generator[None]:
    """Wrap the import of the training code, to report a missing PyTorch.

    Ctrl-C ends the process at once: an exception within PyTorch's start-up would abort in C++.
    """

    def end(number: int, frame: object) -> None:
        output.complain("interrupted")
        os._exit(128 + number)

    is_answered = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_answered:
        signal.signal(signal.SIGINT, end)
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(f"{what} cannot start", package=str(error.name), extra="train") from error
    finally:
        if is_answered:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def check_names(run: "RunConfig", lora: "LoraConfig") -> None:
    """Refuse, as wrong usage, a device or a map for adapters that does not exist."""
    from gpt2.checkpoint.lora import check_targets
    from gpt2.train.precision import check_device

    with wrong_usage(BackendError):
        check_device(run.device)
    if lora.rank:
        with wrong_usage(MismatchError):
            check_targets(lora.targets)


def watching_options(verb: Verb) -> Verb:
    """Add --report --tensorboard --wandb."""
    for decorate in (
        option(
            "--wandb", type=Name(), section="Watching", metavar="PROJECT", help="Log every number to Weights & Biases."
        ),
        option("--tensorboard", section="Watching", is_flag=True, help="Write event files for TensorBoard."),
        option("--report", section="Watching", is_flag=True, help="Write report.html with curves and samples."),
    ):
        verb = decorate(verb)
    return verb


def is_first() -> bool:
    """Whether this process is the first of those started together, or the only one: only it reports."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def trackers(folder: Path, *, tensorboard: bool, wandb: str | None) -> "list[Tracker]":
    """The requested trackers, with their files in the run's folder; none unless this is the first process."""
    from gpt2.train import TensorBoard, WeightsAndBiases

    found: list[Tracker] = []
    if is_first():
        if tensorboard:
            found.append(TensorBoard(folder / "tensorboard"))
        if wandb is not None:
            found.append(WeightsAndBiases(wandb, folder / "wandb"))
    return found


def sampler(
    prompts: Sequence[str], vocabulary: Path, *, threads: int | None, **settings: Any
) -> "Callable[[GPT, int], list[tuple[str, str]]]":
    """A function that returns the model's present samples, made with the engine of `gpt2 generate`.

    Args:
        prompts: to continue.
        vocabulary: the folder of the model's vocabulary; without files, the published one is used.
        threads: of the engine; None: its own choice.
        settings: of `Sampling`.
    """

    is_new = True

    def sample(model: "GPT", step: int) -> list[tuple[str, str]]:
        from gpt2 import backends
        from gpt2.checkpoint import Checkpoint, Weights
        from gpt2.language_model import LanguageModel

        nonlocal is_new
        weights = Weights.from_arrays(model.config, {name: array.numpy() for name, array in model.named_arrays()})
        found = Checkpoint(weights=weights, path=vocabulary, format="training run")
        written: list[tuple[str, str]] = []
        level = _log.level
        try:  # report the choice of backend only once
            _log.setLevel(level if is_new else logging.ERROR)
            backend = backends.open(weights, threads=threads)
        finally:
            _log.setLevel(level)
        is_new = False
        with LanguageModel(found, backend, name=f"step {step}") as now:
            for prompt in prompts:
                text = now.generate(prompt, seed=1, **settings).text
                written.append((prompt, text))
                _log.info("step %d wrote: %s%s", step, prompt.replace("\n", " "), text.replace("\n", " "))
        return written

    return sample
