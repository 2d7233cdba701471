"""From names, ids and merges, as files hold them, to a `Vocabulary`, or to a clear answer why that cannot be.

Files are not trusted. What passes here is a vocabulary that byte-pair learning can have made: the 256 bytes, then
one token per merge, each made of earlier ones, ids in the order of the merges. For such a vocabulary, merging by ids
alone, as the core does, equals merging by the list of merges, which is what the files mean.
"""

from collections.abc import Iterable, Mapping, Sequence

from gpt2.errors import TokenizerError
from gpt2.tokenizer.alphabet import bytes_of
from gpt2.tokenizer.vocabulary import Vocabulary

_BYTE_RANK = -1  # of a token that no merge makes


def assemble(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Mapping[str, int]) -> Vocabulary:
    """A vocabulary from what its files say.

    Args:
        ids: name in letters to id. Names that no merge makes are special tokens if they look so: `<…>` or `[…]`.
        merges: the names of left and right part, first learned first.
        special: name in plain text to id; may repeat what `ids` has.

    Raises:
        TokenizerError: it is no such vocabulary; the message says why.
    """
    names = _names_by_id({**ids, **special})
    made = {left + right for left, right in merges}
    special_ids = {
        name: i for i, name in enumerate(names) if name in special or (_looks_special(name) and name not in made)
    }
    ordinary = [name for name in names if name not in special_ids]
    token_of = dict(zip(ordinary, bytes_of(ordinary), strict=True))
    _check_bytes(token_of.values())
    lefts = _check_merges({name: i for i, name in enumerate(names) if name in token_of}, merges)
    return Vocabulary(
        tokens=[token_of[name] if name in token_of else name.encode("utf-8") for name in names],
        lefts=lefts,
        special=special_ids,
    )


def _names_by_id(ids: Mapping[str, int]) -> list[str]:
    for name, i in ids.items():
        if type(i) is not int:
            raise TokenizerError(f"the id of {name!r} is {i!r}, which is not a whole number")
    names = sorted(ids, key=ids.__getitem__)
    for position, name in enumerate(names):
        if ids[name] != position:
            raise TokenizerError(
                f"{len(names)} tokens must have the ids 0 to {len(names) - 1}, each once; "
                f"{name!r} has {ids[name]} where {position} was to come"
            )
    for name in names:
        if not name or any("\ud800" <= character <= "\udfff" for character in name):
            raise TokenizerError(f"{name!r} is the name of a token")
    return names


def _looks_special(name: str) -> bool:
    return len(name) > 2 and name[0] + name[-1] in ("<>", "[]")


def _check_bytes(tokens: Iterable[bytes]) -> None:
    present = {token for token in tokens if len(token) == 1}
    for byte in range(256):
        if bytes((byte,)) not in present:
            raise TokenizerError(f"no token stands for the byte 0x{byte:02X}, so not every text would have ids")


def _check_merges(id_of: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[int]:
    """The length of every left part, if the merges make every token of more than one byte, in the order of ids."""
    rank_of = {i: _BYTE_RANK for name, i in id_of.items() if len(name) == 1}
    parts_of: dict[int, tuple[int, int]] = {}
    made_of: dict[tuple[int, int], int] = {}
    last = _BYTE_RANK
    for number, (left, right) in enumerate(merges, 1):
        parts = id_of.get(left, _BYTE_RANK), id_of.get(right, _BYTE_RANK)
        product = id_of.get(left + right)
        for name, part in zip((left, right), parts, strict=True):
            if part not in rank_of:
                raise TokenizerError(f"merge {number} uses {name!r}, which no earlier merge makes")
        if product is None:
            raise TokenizerError(f"merge {number} makes {left + right!r}, which has no id")
        if product <= last:
            raise TokenizerError(f"merge {number} makes id {product} after id {last}: the merges are out of order")
        if not _stay_apart(parts, product, rank_of, parts_of, made_of):
            raise TokenizerError(
                f"merge {number}, {left!r} with {right!r}, can never happen: an earlier one prevents it"
            )
        rank_of[product] = last = product
        parts_of[product] = parts
        made_of[parts] = product
    for name, i in id_of.items():
        if i not in rank_of:
            raise TokenizerError(f"no merge makes the token {name!r}: merges are missing, or of another vocabulary")
    return [len(left) for left, _ in merges]


def _stay_apart(
    parts: tuple[int, int],
    product: int,
    rank_of: Mapping[int, int],
    parts_of: Mapping[int, tuple[int, int]],
    made_of: Mapping[tuple[int, int], int],
) -> bool:
    """Whether, merging the bytes of `product` by the merges before it, its two parts come to stand side by side.

    Each part alone is known to come about. So take the merges back, latest first, and look at the two tokens that
    then touch at the border of the parts: no merge of those two may have had its turn while they touched.
    """
    left, right = parts
    limit = product  # the merges below it have had their turn
    while made_of.get((left, right), limit) >= limit:
        if rank_of[left] == rank_of[right] == _BYTE_RANK:
            return True
        if rank_of[left] > rank_of[right]:
            limit, left = left, parts_of[left][1]
        else:  # of two equal tokens the left one is made first; so the border saw even that merge have its turn
            limit, right = right + 1, parts_of[right][0]
    return False
