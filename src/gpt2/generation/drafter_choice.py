"""Chooses the drafter that the caller named."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpt2.errors import GenerationError

if TYPE_CHECKING:
    from gpt2.generation.draft_model import Named
    from gpt2.generation.drafting import Drafter


def choose_drafter(
    draft: object, model: "Named", *, opened: "Callable[[str], Named]", warned: set[str]
) -> "Drafter | None":
    """The drafter for `model`; None for no drafting.

    Args:
        draft: "auto", "ngram", "none", or a smaller model, by name or loaded. "auto" is "ngram" on the native engine,
            where drafts leave the text the same to the byte, and "none" elsewhere.
        model: draws the tokens.
        opened: opens a smaller model by name.
        warned: as for `drafter_of`.

    Raises:
        GenerationError: none of these, or a model with another vocabulary.
        ModelNotFoundError: no model has that name.
    """
    name = draft if isinstance(draft, str) else ""
    if name == "auto":
        name = "ngram" if model.backend.name == "native" else "none"
    if name == "none":
        return None
    if name == "ngram":
        from gpt2.generation.ngram import NgramDrafter

        return NgramDrafter()
    from gpt2.generation.draft_model import Named, drafter_of

    if isinstance(draft, str | os.PathLike):
        return drafter_of(opened(os.fspath(draft)), model, warned=warned)
    if not isinstance(draft, Named):
        raise GenerationError(
            f"What drafts is 'auto', 'ngram', 'none', or a smaller model, its name or loaded: got {draft!r:.60}."
        )
    return drafter_of(draft, model, warned=warned)
