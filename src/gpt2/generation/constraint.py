"""The seam for constrained output: whoever knows a grammar says, token by token, what may come next.

Nothing here knows any grammar. A `Constraint` belongs to a request; each of its samples begins a `Follower`, which
is asked for the allowed tokens before each draw and told each token that was drawn. Drafts never reach it: a draft
is compared with the token that was drawn, so a follower sees the continuation in order and never goes back.

It fails closed. A follower that raises, or that allows no token, ends its request with an error; a text that the
constraint does not allow is never given out as complete. What `max_tokens` cuts off ends with "length".
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Follower(Protocol):
    """Follows one continuation."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which ids may come next: true where id i may, [n_ids] with n_ids at most the vocabulary's size.

        Ids beyond the end of the array may not. Where the text is complete, allow the end-of-text token alone.
        """
        ...

    def advance(self, token: int) -> None:
        """The token that came: one of those allowed."""
        ...


class Constraint(Protocol):
    """What the continuations of a request may be."""

    def begin(self) -> Follower:
        """A follower at the beginning of a continuation; each sample has its own."""
        ...
