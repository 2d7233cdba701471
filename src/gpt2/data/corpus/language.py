"""Which language a text is in, by py3langid: 97 languages, 4.5 MB, NumPy alone."""

import functools
from typing import Any

from gpt2.data.corpus.page import Dropped, Page, Step
from gpt2.errors import DataError, MissingExtraError

_SAMPLE_CHARACTERS = 600


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            "Languages cannot be told: this needs the extra `corpus` (the package py3langid). "
            "pip install 'gpt2kit[corpus]', or from a checkout pip install '.[corpus]'."
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """The codes (ISO 639-1) that can be told."""
    return sorted(set(_identifier().labels))


def identify(text: str) -> tuple[str, float]:
    """The likeliest language, as a code of ISO 639-1, and a confidence from 0 to 1."""
    language, confidence = _identifier().classify(text)
    return str(language), float(confidence)


def sample_of(text: str) -> str:
    """The longest lines of a text, up to about six hundred characters: prose rather than menus."""
    if len(text) <= _SAMPLE_CHARACTERS:
        return text
    taken: list[str] = []
    size = 0
    for line in sorted(text.split("\n"), key=len, reverse=True):
        taken.append(line[: _SAMPLE_CHARACTERS // 2])
        size += len(taken[-1])
        if size >= _SAMPLE_CHARACTERS:
            break
    return "\n".join(taken)


def language_gate(languages: tuple[str, ...], confidence: float) -> Step:
    """Drop what is not in one of these languages, or not surely so; none means all.

    Raises:
        DataError: a language that cannot be told.
    """
    if unknown := set(languages) - set(known_languages() if languages else ()):
        raise DataError(
            f"The language {min(unknown)!r} cannot be told apart. Known are {', '.join(known_languages())}."
        )

    def gate(page: Page) -> Page | Dropped:
        if page.html is not None:
            return page
        language, sure = identify(sample_of(page.text))
        page = page.measured(language=language, language_confidence=round(sure, 4))
        if languages and (language not in languages or sure < confidence):
            return Dropped(page=page, reason="language", detail=f"{language} at {sure:.2f}")
        return page

    return gate
