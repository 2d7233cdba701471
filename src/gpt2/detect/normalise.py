"""Text as its readers see it: look-alike letters and invisible characters put back, and how many there were.

A letter of another script that looks like a Latin one costs a reader nothing and a language model everything, so
it is the cheapest way around a detector. Only words that mix scripts are changed: Greek and Russian stay.
"""

import re
import unicodedata

_CYRILLIC = str.maketrans("АВЕЅІЈКМНОРСТУХаеіјорсѕухԁԛԝһ", "ABESIJKMHOPCTYXaeijopcsyxdqwh")
_GREEK = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονυιακρ", "ABEZHIKMNOPTYXovuiakp")
_WORD = re.compile(r"\w+")
_LATIN = re.compile(r"[A-Za-z]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")


def normalise(text: str) -> tuple[str, int]:
    """The text with look-alikes put back, and how many characters that changed or removed.

    Compatibility forms (full-width letters, ligatures: NFKC) become plain ones; invisible characters go.
    """
    visible, n_invisible = _INVISIBLE.subn("", text)
    plain, n_changed = visible, 0
    if not visible.isascii():
        pieces = [unicodedata.normalize("NFKC", c) if _is_letter_form(c) else c for c in visible]
        n_changed = sum(piece != c for piece, c in zip(pieces, visible, strict=True))
        plain = "".join(pieces)
    found = _WORD.sub(lambda word: _one_script(word[0]), plain)
    return found, n_invisible + n_changed + sum(a != b for a, b in zip(found, plain, strict=True))


def _is_letter_form(character: str) -> bool:
    """Full-width, mathematical, circled letters and ligatures; not spaces, ellipses and fractions, which people use."""
    return ord(character) > 0x2000 and unicodedata.category(character) in ("Lu", "Ll", "Lo", "So", "Lm")


def _one_script(word: str) -> str:
    return word.translate(_CYRILLIC).translate(_GREEK) if not word.isascii() and _LATIN.search(word) else word
