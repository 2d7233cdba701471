"""The open backends of one model: the chosen one, and others that are opened on first use."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpt2.backends.choice import open
from gpt2.backends.seam import Backend, Source
from gpt2.errors import BackendError

if TYPE_CHECKING:
    from gpt2.backends.definition import Definition


class Opened:
    """The backends of one model, closed together.

    Attributes:
        chosen: the backend that generates.

    Args:
        weights: the model's.
        name: the model's, for people.
        open_exact: opens the fp32 backend; None if `chosen` does its work.
    """

    def __init__(
        self, chosen: Backend, weights: Source, *, name: str, open_exact: Callable[[], Backend] | None
    ) -> None:
        self.chosen = chosen
        self._weights = weights
        self._name = name
        self._open_exact = open_exact or (lambda: chosen)
        self._exact: Backend | None = None
        self._intervening: Backend | None = None
        self._definition: Definition | None = None
        self._is_closed = False
        self._opening = threading.RLock()  # concurrent callers get one backend, and `close` waits for it

    @property
    def exact(self) -> Backend:
        """The backend for scoring and tracing.

        Raises:
            BackendError: the model is closed, or its fp32 backend cannot be opened.
        """
        with self._opening:
            self.refuse_if_closed()
            if self._exact is None:
                self._exact = self._open_exact()
            return self._exact

    @property
    def intervening(self) -> Backend:
        """The exact backend if it intervenes, else the reference. Raises as `exact` does."""
        with self._opening:
            if self._intervening is None:
                self._intervening = self.exact if self.exact.intervenes else open(self._weights, backend="reference")
            return self._intervening

    @property
    def definition(self) -> "Definition":
        """The definition and its head, on the same weights in fp32."""
        with self._opening:
            self.refuse_if_closed()
            if self._definition is None:
                from gpt2.backends.definition import Definition

                self._definition = Definition(self._weights)
            return self._definition

    def refuse_if_closed(self) -> None:
        """Raise `BackendError` once `close` was called."""
        if self._is_closed:
            raise BackendError(f"{self._name} is closed and computes nothing any more. Load it anew.")

    def close(self) -> None:
        """Release the memory and threads of all backends."""
        with self._opening:
            self._is_closed = True
            for backend in {id(each): each for each in (self.chosen, self._exact, self._intervening) if each}.values():
                backend.close()
            self._definition = None
