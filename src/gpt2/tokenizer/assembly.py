"""From names, ids and merges, as files hold them, to a `Vocabulary`, or to a clear answer why that cannot be.

Files are not trusted. What passes here is a vocabulary that byte-pair learning can have made: the 256 bytes, then
one token per merge, each made of earlier ones, ids in the order of the merges. For such a vocabulary, merging by ids
alone, as the core does, equals merging by the list of merges, which is what the files mean.
"""

from collections.abc import Iterable, Mapping, Sequence

from gpt2.errors import TokenizerError
from gpt2.tokenizer.alphabet import bytes_of
from gpt2.tokenizer.vocabulary import Vocabulary, published_vocabulary

_UNMADE, _BYTE = -2, -1  # ranks of a token that no merge has made yet, and of one that needs none


def assemble(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Mapping[str, int]) -> Vocabulary:
    """A vocabulary from what its files say.

    Args:
        ids: name in letters to id. Names that no merge makes are special tokens if they look so: `<…>` or `[…]`.
        merges: the names of left and right part, first learned first.
        special: name in plain text to id; may repeat what `ids` has.

    Raises:
        TokenizerError: it is no such vocabulary; the message says why.
    """
    ids = {**ids, **special}
    names = _names_by_id(ids)
    products = [left + right for left, right in merges]
    made = set(products)
    special_ids = {name: ids[name] for name in names if name in special or (_looks_special(name) and name not in made)}
    ordinary = [name for name in names if name not in special_ids]
    token_of = dict(zip(ordinary, bytes_of(ordinary), strict=True))
    special_tokens = {name: _utf8(name) for name in special_ids}
    vocabulary = Vocabulary(
        tokens=[*map((token_of | special_tokens).__getitem__, names)],
        lefts=[len(left) for left, _ in merges],
        special=special_ids,
    )
    if not _is_published(vocabulary) or products != ordinary[256:]:
        _check_bytes(token_of.values())
        _check_merges({name: ids[name] for name in ordinary}, merges)
    return vocabulary


def _names_by_id(ids: Mapping[str, int]) -> list[str]:
    if set(map(type, ids.values())) != {int}:
        name = next((name for name, i in ids.items() if type(i) is not int), "")
        raise TokenizerError(f"the id of {name!r} is not a whole number" if ids else "it holds no tokens")
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


def _looks_special(name: str) -> bool:
    return len(name) > 2 and name[0] + name[-1] in ("<>", "[]")


def _utf8(name: str) -> bytes:
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError(f"the name {name!r} of a special token holds a surrogate") from None


def _is_published(vocabulary: Vocabulary) -> bool:
    published = published_vocabulary()
    return vocabulary.tokens == published.tokens and vocabulary.lefts == list(published.lefts)


def _check_bytes(tokens: Iterable[bytes]) -> None:
    present = {token for token in tokens if len(token) == 1}
    for byte in range(256):
        if bytes((byte,)) not in present:
            raise TokenizerError(f"no token stands for the byte 0x{byte:02X}, so not every text would have ids")


def _check_merges(id_of: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """Refuse merges that do not make every token of two bytes or more, in the order of ids, or that cannot happen."""
    ranks = [_UNMADE] * (max(id_of.values()) + 1)
    for name, i in id_of.items():
        if len(name) == 1:
            ranks[i] = _BYTE
    parts_of: dict[int, tuple[int, int]] = {}
    made_of: dict[tuple[int, int], int] = {}
    last = -1
    for number, (left, right) in enumerate(merges, 1):
        left_id, right_id, product = id_of.get(left), id_of.get(right), id_of.get(left + right)
        if left_id is None or ranks[left_id] == _UNMADE:
            raise TokenizerError(f"merge {number} uses {left!r}, which no earlier merge makes")
        if right_id is None or ranks[right_id] == _UNMADE:
            raise TokenizerError(f"merge {number} uses {right!r}, which no earlier merge makes")
        if product is None:
            raise TokenizerError(f"merge {number} makes {left + right!r}, which has no id")
        if product <= last:
            raise TokenizerError(f"merge {number} makes id {product} after id {last}: the merges are out of order")
        if not _stay_apart(left_id, right_id, product, ranks, parts_of, made_of):
            raise TokenizerError(
                f"merge {number}, {left!r} with {right!r}, can never happen: an earlier one prevents it"
            )
        ranks[product] = last = product
        parts_of[product] = left_id, right_id
        made_of[left_id, right_id] = product
    if len(merges) + 256 != len(id_of):
        name = next(name for name, i in id_of.items() if ranks[i] == _UNMADE)
        raise TokenizerError(f"no merge makes the token {name!r}: merges are missing, or of another vocabulary")


def _stay_apart(
    left: int,
    right: int,
    product: int,
    ranks: Sequence[int],
    parts_of: Mapping[int, tuple[int, int]],
    made_of: Mapping[tuple[int, int], int],
) -> bool:
    """Whether, merging the bytes of `product` by the merges before it, its two parts come to stand side by side.

    Each part alone is known to come about. So take the merges back, latest first, and look at the two tokens that
    then touch at the border of the parts: no merge of those two may have had its turn while they touched.
    """
    limit = product  # the merges below it have had their turn
    while made_of.get((left, right), limit) >= limit:
        if ranks[left] == ranks[right] == _BYTE:
            return True
        if ranks[left] > ranks[right]:
            limit, left = left, parts_of[left][1]
        else:  # of two equal tokens the left one is made first, so at the border that merge, too, has had its turn
            limit, right = right + 1, parts_of[right][0]
    return False
