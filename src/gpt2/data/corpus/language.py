"""Language identification: py3langid (140 languages, needs only NumPy), and CLD2 where py3langid is in doubt.

If py3langid is unsure, or does not know the language at all, a clear answer of CLD2 counts, but never for English: so
nothing passes as English that py3langid would not pass. Together they are right as often as the best detector measured,
at a twentieth of its cost (benchmarks/languages.py).
"""

import functools
from typing import Any

from gpt2.data.corpus.page import Dropped, Page, Step
from gpt2.errors import DataError, MissingExtraError

_SAMPLE_CHARACTERS = 600
_UNSURE = 0.7  # below this confidence of py3langid's, ask CLD2
_CLEAR = 0.8  # of the text, the share that CLD2 finds in one language
_ONLY_CLD2 = ("mi", "tn", "ts")  # languages that py3langid does not know
_SAME = {"iw": "he", "jw": "jv", "zh-Hant": "zh"}  # CLD2's codes


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of("Languages cannot be told", package="py3langid", extra="corpus") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(_identifier().labels)


def known_languages() -> list[str]:
    """The ISO 639-1 codes of the languages that can be identified."""
    return sorted({*_known(), *_ONLY_CLD2})


def identify(text: str) -> tuple[str, float]:
    """The likeliest language, as a code of ISO 639-1, and a confidence from 0 to 1."""
    language, confidence = _identifier().classify(text)
    other, share = _second_opinion(text)
    if share >= _CLEAR and (other in _ONLY_CLD2 or (confidence < _UNSURE and other != "en" and other in _known())):
        return other, share
    return str(language), float(confidence)


def _second_opinion(text: str) -> tuple[str, float]:
    """CLD2's answer and its share of the text; none if CLD2 is not sure."""
    try:
        import pycld2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError.of("Languages cannot be told", package="pycld2", extra="corpus") from error
    try:
        is_reliable, _, found = pycld2.detect(text.encode("utf-8", "replace"))
    except pycld2.error:  # characters that it does not accept
        return "", 0.0
    code, percent = str(found[0][1]), int(found[0][2])
    return (_SAME.get(code, code), percent / 100) if is_reliable else ("", 0.0)


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
    """Drop texts that are not, or not surely, in one of these languages; none means all languages.

    Raises:
        DataError: a language cannot be identified.
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
