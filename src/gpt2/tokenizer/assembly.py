"""Builds a `Vocabulary` from the names, ids and merges in files, or says clearly why that is impossible.

Files are not trusted. Only a vocabulary that byte-pair learning can produce passes: the 256 bytes, then one token
per merge, each made of earlier ones, with ids in merge order. For such a vocabulary, merging by ids alone, as the
core does, equals merging by the list of merges, which is what the files mean.
"""

from collections.abc import Mapping, Sequence

from gpt2.errors import TokenizerError
from gpt2.tokenizer.alphabet import BYTE_ORDER, bytes_of, letters
from gpt2.tokenizer.vocabulary import Vocabulary, looks_special, published_vocabulary

MOST_TOKENS = 1 << 18  # five times the published vocabulary; refusing a larger one would take long
_BYTE, _UNKNOWN = -1, -2  # rank of a token that no merge makes; id of a name without one
_BYTE_NAMES = frozenset(letters(BYTE_ORDER))


def assemble(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Mapping[str, int]) -> Vocabulary:
    """A vocabulary from the contents of its files.

    Args:
        ids: name in letters to id. Names that no merge makes are special tokens if they look like it: `<…>` or `[…]`.
        merges: the names of left and right part, in the order learned.
        special: name in plain text to id; may repeat entries of `ids`.

    Raises:
        TokenizerError: it is not such a vocabulary; the message says why.
    """
    ids = {**ids, **special}
    if max(len(ids), len(merges)) > MOST_TOKENS:
        raise TokenizerError(f"{max(len(ids), len(merges)):,} tokens are more than the {MOST_TOKENS:,} that are read")
    _check_bytes(ids)
    names = _names_by_id(ids)
    products = [left + right for left, right in merges]
    special_ids = _special_ids(ids, products, special)
    ordinary = [name for name in names if name not in special_ids]
    token_of = dict(zip(ordinary, bytes_of(ordinary), strict=True)) | {name: _utf8(name) for name in special_ids}
    vocabulary = Vocabulary(
        tokens=[token_of[name] for name in names],
        lefts=[len(left) for left, _ in merges],
        special=special_ids,
    )
    if len(set(vocabulary.tokens)) < len(names):
        raise TokenizerError("a special token has the bytes of another token")
    if not _is_published(vocabulary) or products != ordinary[256:]:
        _check_merges({name: ids[name] for name in ordinary}, merges)
    return vocabulary


def _check_bytes(ids: Mapping[str, int]) -> None:
    for byte in BYTE_ORDER:
        if letters(bytes((byte,))) not in ids:
            raise TokenizerError(f"no token stands for the byte 0x{byte:02X}, so not every text would have ids")


def _names_by_id(ids: Mapping[str, int]) -> list[str]:
    if set(map(type, ids.values())) != {int}:
        name = next(name for name, i in ids.items() if type(i) is not int)
        raise TokenizerError(f"the id of {name!r:.100} is not a whole number")
    names = sorted(ids, key=ids.__getitem__)
    if [ids[name] for name in names] != list(range(len(names))):
        position, name = next((n, name) for n, name in enumerate(names) if ids[name] != n)
        raise TokenizerError(
            f"{len(names)} tokens must have the ids 0 to {len(names) - 1}, each once; "
            f"{name!r:.100} has {ids[name]!r:.40} where {position} was to come"
        )
    if "" in ids:
        raise TokenizerError("the name of a token is empty")
    return names


def _special_ids(ids: Mapping[str, int], products: Sequence[str], special: Mapping[str, int]) -> dict[str, int]:
    """Special tokens by name, in id order: the given ones, and those that look special and that no merge makes."""
    unmade = ids.keys() - set(products) - _BYTE_NAMES
    for name in special.keys() - unmade:
        raise TokenizerError(f"{name!r:.100} is a special token and an ordinary one")
    found = {name for name in unmade if looks_special(name)} | special.keys()
    for name in sorted(unmade - found, key=ids.__getitem__):
        bytes_of([name])  # raises if it is not written in letters
        raise TokenizerError(f"no merge makes the token {name!r:.100}: merges are missing, or another vocabulary's")
    return {name: ids[name] for name in sorted(found, key=ids.__getitem__)}


def _utf8(name: str) -> bytes:
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError(f"the name {name!r:.100} of a special token holds a surrogate") from None


def _is_published(vocabulary: Vocabulary) -> bool:
    published = published_vocabulary()
    return vocabulary.tokens == published.tokens and vocabulary.lefts == list(published.lefts)


def _check_merges(id_of: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """Refuse merges that are out of id order, use tokens that are not made yet, or can never happen."""
    rank_of = {i: _BYTE if len(name) == 1 else i for name, i in id_of.items()}
    parts = [(id_of.get(left, _UNKNOWN), id_of.get(right, _UNKNOWN)) for left, right in merges]
    made = [id_of.get(left + right, _UNKNOWN) for left, right in merges]

    last = -1
    for number, (names, pair, product) in enumerate(zip(merges, parts, made, strict=True), 1):
        if product == _UNKNOWN:
            raise TokenizerError(f"merge {number} makes {names[0] + names[1]!r:.100}, which has no id")
        for name, part in zip(names, pair, strict=True):
            if rank_of.get(part, product) >= product:
                raise TokenizerError(f"merge {number} uses {name!r:.100}, which no earlier merge makes")
        if product <= last:
            raise TokenizerError(f"merge {number} makes id {product} after id {last}: the merges are out of order")
        last = product

    parts_of = dict(zip(made, parts, strict=True))
    made_of = dict(zip(parts, made, strict=True))
    for number, (product, (left, right)) in enumerate(parts_of.items(), 1):
        if not _stay_apart(left, right, product, rank_of, parts_of, made_of):
            names = " with ".join(f"{name!r:.100}" for name in merges[number - 1])
            raise TokenizerError(f"merge {number}, {names}, can never happen: an earlier one prevents it")


def _stay_apart(
    left: int,
    right: int,
    product: int,
    rank_of: Mapping[int, int],
    parts_of: Mapping[int, tuple[int, int]],
    made_of: Mapping[tuple[int, int], int],
) -> bool:
    """Whether merging the bytes of `product` by earlier merges leaves its two parts side by side.

    Each part alone is known to arise. So undo the merges, latest first, and look at the two tokens that touch at
    the border of the parts: no merge of those two may have had its turn while they touched.
    """
    limit = product  # merges below it have had their turn
    while made_of.get((left, right), limit) >= limit:
        if rank_of[left] == rank_of[right] == _BYTE:
            return True
        if rank_of[left] > rank_of[right]:
            limit, left = left, parts_of[left][1]
        else:  # of two equal tokens the left is made first, so that merge had its turn at the border too
            limit, right = right + 1, parts_of[right][0]
    return False
