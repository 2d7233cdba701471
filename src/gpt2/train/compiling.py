"""Recovering when a damaged cache makes PyTorch's compiler fail.

The compiler keeps its results in one folder for all programs of a user. A full disk or a killed process leaves half a
file there under the name of the whole one. From then on every compilation of the same code fails, with an error about
a symbol, a library or a line of Python that nobody wrote.
"""

import logging
import os
import platform
import tempfile
from collections.abc import Callable
from typing import TypeVar

import torch

from gpt2.errors import TrainingError

T = TypeVar("T")
_log = logging.getLogger("gpt2")
_CACHE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's variable for its cache folder; it also writes its choice there


def with_own_cache(
    compute: Callable[[], T], *, before_again: Callable[[], None], others_wait: Callable[[], bool] = lambda: False
) -> T:
    """Return `compute()`; if the compiler fails in it, try once more with an empty cache of this process's own.

    Args:
        compute: something that compiles on its first call.
        before_again: undoes what the first try left behind.
        others_wait: whether, on failure, other processes already wait in a collective operation. Then there is no
            second try: its first message would be mistaken for the one they wait for.

    Raises:
        TrainingError: the compiler fails with an empty cache too, or fails while others wait.
    """
    try:
        return compute()
    except RuntimeError as error:
        if not failed(error):
            raise
        reason, before = _first_line(error), os.environ.get(_CACHE)
        if others_wait():
            raise TrainingError(
                f"PyTorch's compiler failed on {platform.node()} ({reason}), and this process cannot try again with an "
                f"empty cache while others wait for its part of the step. Remove {before or 'the cache'} there, where "
                f"something is broken, and start all again: the run goes on from its last checkpoint. If that does not "
                f"help, set run.compile=false, which takes longer a step."
            ) from error
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="gpt2-compiled-")
    _log.warning(
        "PyTorch's compiler failed (%s). Trying again with an empty cache, %s. If that works, something in %s is "
        "broken: remove that folder, and this one later",
        reason,
        os.environ[_CACHE],
        before or "its cache",
    )
    torch.compiler.reset()
    before_again()
    try:
        return compute()
    except RuntimeError as error:
        if not failed(error):
            raise
        raise TrainingError(
            f"PyTorch's compiler fails here, with an empty cache too: {_first_line(error)}. Look at the C++ compiler "
            f"and the room in {tempfile.gettempdir()}, or set run.compile=false, which takes longer a step."
        ) from error


def failed(error: RuntimeError) -> bool:
    """Whether an error is the compiler's; in the backward pass only the file that it names tells."""
    from torch._dynamo.exc import BackendCompilerFailed

    cache = os.environ.get(_CACHE)
    return isinstance(error, BackendCompilerFailed) or (bool(cache) and cache in str(error))


def _first_line(error: RuntimeError) -> str:
    lines = [line for line in str(error).splitlines() if line and not line.startswith("backend=")]
    return lines[0][:200] if lines else type(error).__name__
