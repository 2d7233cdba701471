"""Chooses the backend and says why."""

import logging
from importlib.util import find_spec
from numbers import Integral

from gpt2.backends.seam import Backend, Source
from gpt2.errors import BackendError, MissingExtraError
from gpt2.native.library import asked_level

BACKENDS = ("auto", "native", "torch", "reference")
DEVICES = ("auto", "cpu", "cuda", "mps")  # or one of several: "cuda:1"
MAX_THREADS = 1024  # the native engine's limit
FORMS = ("auto", "fp32", "bf16", "fp16", "int8", "int4")

_log = logging.getLogger("gpt2")


def open(
    weights: Source, *, backend: str = "auto", device: str = "auto", form: str = "auto", threads: int | None = None
) -> Backend:
    """Open a backend that runs `weights`; log the choice and the reason, and keep both in `reason`.

    Args:
        weights: what to run, usually a `checkpoint.Weights`.
        backend: one of `BACKENDS`. `auto` is PyTorch for `cuda` and `mps`, else the native engine, or the
            reference if the native engine is unavailable.
        device: one of `DEVICES`. `auto` is the CPU.
        form: one of `FORMS`, how weights are held; `auto` lets the backend choose.
        threads: CPU threads; None lets the backend choose.

    Raises:
        BackendError: the backend, device or form does not exist, or they do not go together.
        MissingExtraError: the requested backend needs a package that is not installed.
    """
    _check("backend", backend, BACKENDS)
    _check("device", kind_of_device(device) if isinstance(device, str) else device, DEVICES)  # pyright: ignore[reportUnnecessaryIsInstance]
    _check("form of weights", form, FORMS)
    if threads is not None:
        threads = _checked_threads(threads)
    if device == "auto":
        device = "cpu"

    level = logging.INFO
    if backend != "auto":
        opened, why = _load(backend, weights, device=device, form=form, threads=threads), "asked for"
    elif device != "cpu":
        opened = _load("torch", weights, device=device, form=form, threads=threads)
        why = f"PyTorch is what runs on {device}"
    else:
        try:
            opened = _load("native", weights, device=device, form=form, threads=threads)
            why = "the fastest on a CPU"
        except BackendError as error:
            if form not in ("auto", "fp32"):
                raise  # the reference has no smaller forms
            if asked_level():
                raise  # the user requested a level of the native engine
            opened = _load("reference", weights, device=device, form=form, threads=threads)
            cause = str(error).rstrip(".")
            why, level = f"many times slower, since the native engine cannot be had ({cause})", logging.WARNING
    opened.reason = f"{opened.name} backend on {opened.device} in {opened.weights}: {why}; {opened.reason}"
    _log.log(level, opened.reason)
    return opened


def kind_of_device(device: str) -> str:
    """The device without a GPU number: "cuda:1" gives "cuda". A number after "cpu" or "auto" stays."""
    kind, _, number = device.partition(":")
    return device if number and kind in ("cpu", "auto") else kind


def _load(name: str, weights: Source, *, device: str, form: str, threads: int | None) -> Backend:
    """Import the backend's module only now, and open it."""
    if name == "torch":
        if find_spec("torch") is None:
            raise MissingExtraError.of("The torch backend cannot compute", package="PyTorch", extra="gpu")
        from gpt2.backends.torch import TorchBackend

        return TorchBackend(weights, device=device, form=form, threads=threads)
    if device != "cpu":
        raise BackendError(f"the {name} backend cannot run on {device}: it knows the CPU only. Take the torch backend.")
    if name == "reference":
        from gpt2.backends.reference import ReferenceBackend

        return ReferenceBackend(weights, form=form, threads=threads)
    from gpt2.backends.native import NativeBackend

    return NativeBackend(weights, form=form, threads=threads)


def _checked_threads(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise BackendError(f"threads must be a whole number: got {given!r:.60}. Leave it out for one for each core.")
    threads = int(given)
    if not 1 <= threads <= MAX_THREADS:
        raise BackendError(f"{threads} threads cannot compute anything. Give 1 to {MAX_THREADS:,}.")
    return threads


def _check(what: str, given: object, known: tuple[str, ...]) -> None:
    if not isinstance(given, str) or given not in known:
        raise BackendError(f"there is no {what} {given!r:.60}. Choose {', '.join(known[:-1])} or {known[-1]}.")
