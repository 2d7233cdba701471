"""Safe cuts: where a text may be cut so that the ids of the parts, joined, are the ids of the whole.

GPT-2 splits text into pieces before any merge (Radford et al. 2019, section 2.2), by the pattern

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

and merges never cross pieces. A cut is safe if a piece ends there whatever follows, and if the piece before it stays
the same when the text ends there. The pattern never looks back, so nothing else can change. With S white space,
L letters, N numbers and O the rest, these places qualify:

- before white space that follows L, N or O: no piece continues from those into white space;
- before the last of several white spaces, if L, N or O follows: the piece of white space leaves the last one to
  what follows (it may be the space before a word), and takes everything if the text ends there;
- between two of L, N, O that differ, except from an apostrophe to a letter: that may be `'s`.

A character's class depends on the version of Unicode. White space has not changed since 2013 and is listed here;
characters unassigned in Python's tables count as unknown, and no cut is made beside them.
"""

import unicodedata
from collections.abc import Iterable, Iterator

# The White_Space property of Unicode, which is \s in the pattern. str.isspace() also counts U+001C to U+001F.
WHITE_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_UNKNOWN = {"Cn", "Cs"}  # unassigned in this Python's Unicode; surrogates


def is_cut(text: str, i: int) -> bool:
    """Whether `text` may be cut before character `i`, 0 < i < len(text); False if in doubt."""
    before, after = text[i - 1], text[i]
    if after in WHITE_SPACE:
        return before not in WHITE_SPACE or (i + 1 < len(text) and text[i + 1] not in WHITE_SPACE)
    if before == after or before in WHITE_SPACE:
        return False
    left, right = _character_class(before), _character_class(after)
    return left != "" and right != "" and left != right and not (before == "'" and right == "L")


def last_cut(text: str, start: int, stop: int, keep: Iterable[str] = ()) -> int:
    """The last place i with start < i <= stop where `text` may be cut, or `start` if there is none.

    Args:
        keep: names of special tokens that are read as such. No cut is made in or beside one, since the rules above
            would take the text that ends there for text that continues.
    """
    reach = max(map(len, keep), default=0)
    for i in range(min(stop, len(text) - 1), start, -1):
        if is_cut(text, i) and not any(name in text[max(0, i - reach) : i + reach + 1] for name in keep):
            return i
    return start


def blocks(text: str, block_characters: int) -> Iterator[str]:
    """The text in parts of about `block_characters`, cut safely; a part without a safe cut is longer."""
    start = 0
    while len(text) - start > block_characters:
        stop = start + block_characters
        cut = last_cut(text, start, stop)
        if cut == start:
            cut = next((i for i in range(stop + 1, len(text)) if is_cut(text, i)), len(text))
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def regroup(texts: Iterable[str], block_characters: int, keep: Iterable[str] = ()) -> Iterator[str]:
    """Regroup a text from arbitrary parts into parts of about `block_characters` or more, cut safely.

    Holds one part in memory; `keep` as in `last_cut`.
    """
    reach = max(map(len, keep), default=0)
    pending, seen = "", 0
    for text in texts:
        pending += text
        if len(pending) < block_characters:
            continue
        stop = len(pending) - reach - 2  # so that a special token after the cut is visible
        cut = last_cut(pending, seen, stop, keep)
        if cut > seen:
            yield pending[:cut]
            pending = pending[cut:]
            seen = stop - cut
        else:
            seen = max(seen, stop)
    if pending:
        yield pending


def _character_class(character: str) -> str:
    """L, N or O; empty for a character whose class may differ in another version of Unicode."""
    category = unicodedata.category(character)
    if category in _UNKNOWN:
        return ""
    return category[0] if category[0] in "LN" else "O"
