"""The interface for constrained output: code that knows a grammar says, token by token, what may come next.

Nothing here knows any grammar. A `Constraint` belongs to a request; each sample has its own `Follower`. Before each
draw, the sampler asks the follower for the allowed tokens; after it, the follower receives the token drawn. A
follower never sees drafts, so it sees the continuation in order and never has to go back.

It fails closed. A follower that raises, or allows no token, ends its request with an error; a text that the
constraint does not allow is never reported as complete. A text cut off by `max_tokens` ends with "length".
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Follower(Protocol):
    """Follows one continuation."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which ids may come next: entry i is true if id i may, [n_ids] with n_ids at most the vocabulary's size.

        Ids beyond the end of the array may not. When the text is complete, allow only the end-of-text token.
        """
        ...

    def advance(self, token: int) -> None:
        """Accept the token drawn, one of those allowed."""
        ...


class Constraint(Protocol):
    """Limits the continuations of a request."""

    def begin(self) -> Follower:
        """A new follower at the start of a continuation, one per sample."""
        ...
