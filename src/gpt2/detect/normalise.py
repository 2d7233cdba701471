"""Normalises text to what readers see: undoes look-alike letters and invisible characters, and counts them.

A letter of another script that looks Latin does not disturb a reader but ruins a language model's prediction, so it is
the cheapest way around a detector. Greek and Russian text stays: only words that mix scripts change, and, in a text
without other Cyrillic letters, words that look entirely Latin.
"""

import re
import unicodedata

_CYRILLIC = str.maketrans("АВЕЅІЈКМНОРСТУХаеіјорсѕухԁԛԝһ", "ABESIJKMHOPCTYXaeijopcsyxdqwh")
_OTHER_CYRILLIC = re.compile(f"(?![{''.join(map(chr, _CYRILLIC))}])[\u0400-\u052f]")
_GREEK = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονυιακρ", "ABEZHIKMNOPTYXovuiakp")
_WORD = re.compile(r"\w+")
_LATIN = re.compile(r"[A-Za-z]")
_ALWAYS = {0x261: "g", **dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F), " ")}
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")


def normalise(text: str) -> tuple[str, int]:
    """The text with look-alikes replaced, and the number of characters changed or removed.

    Compatibility forms (full-width letters, ligatures: NFKC) and all kinds of space become plain; invisible characters
    are removed.
    """
    visible, n_invisible = _INVISIBLE.subn("", text)
    plain, n_changed = visible, 0
    if not visible.isascii():
        pieces = [unicodedata.normalize("NFKC", c) if _is_letter_form(c) else c for c in visible]
        n_changed = sum(piece != c for piece, c in zip(pieces, visible, strict=True))
        plain = "".join(pieces)
    found = plain.translate(_ALWAYS)
    if not _OTHER_CYRILLIC.search(found):
        found = found.translate(_CYRILLIC)
    found = _WORD.sub(lambda word: _one_script(word[0]), found)
    return found, n_invisible + n_changed + sum(a != b for a, b in zip(found, plain, strict=True))


def _is_letter_form(character: str) -> bool:
    """Full-width, mathematical, circled letters and ligatures; not spaces, ellipses and fractions, which are common."""
    return ord(character) > 0x2000 and unicodedata.category(character) in ("Lu", "Ll", "Lo", "So", "Lm", "Nl")


def _one_script(word: str) -> str:
    return word.translate(_CYRILLIC).translate(_GREEK) if not word.isascii() and _LATIN.search(word) else word
