"""A byte-level BPE vocabulary: the bytes of every token, the merges that make them, the special tokens.

GPT-2's vocabulary (Radford et al. 2019, section 2.2) starts from the 256 bytes, so that any text has ids, and adds
one token per merge in the order learned, which is also the merges' priority.

The published vocabulary is stored beside this file in the form that loads fastest: for each of the 50,000 merges
one byte, the length of its left part; then the bytes of the merged tokens, separated by 0xFF, a byte that no UTF-8
text and so no learned token contains. `published/README.md` states its source and licence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gpt2.tokenizer.alphabet import BYTE_ORDER

END_OF_TEXT = "<|endoftext|>"

_PUBLISHED_FILE = Path(__file__).parent / "published" / "merges.bin"
_PUBLISHED_N_MERGES = 50000


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens by id.

    Attributes:
        tokens: the bytes of each id; for a special token, its name in UTF-8.
        lefts: by id, for each token of two or more bytes that is not special, the bytes of the left part of its merge.
        special: name to id of the tokens that no merge makes. Text means them only on request, except `words`.
    """

    tokens: Sequence[bytes]
    lefts: Sequence[int]
    special: Mapping[str, int]

    @cached_property
    def words(self) -> Mapping[str, int]:
        """The special tokens that do not look special: words added to a vocabulary, which text always means."""
        return {name: i for name, i in self.special.items() if not looks_special(name)}

    def named(self, *, allow_special: bool) -> Mapping[str, int]:
        """The special tokens that a text can mean by name."""
        return self.special if allow_special else self.words

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides ids: every token's length and bytes, and the special tokens."""
        import hashlib  # only needed here, and encoding should start at once
        import struct

        digest = hashlib.sha256(struct.pack(f"<{len(self.tokens)}I", *map(len, self.tokens)))
        digest.update(b"".join(self.tokens))
        for name, special_id in sorted(self.special.items()):
            digest.update(struct.pack("<I", special_id) + name.encode("utf-8"))
        return digest.hexdigest()

    def ranks(self) -> dict[bytes, int]:
        """Bytes to id of all tokens except special ones; a lower id is merged first."""
        ranks = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        for name in self.special:
            del ranks[name.encode("utf-8")]
        return ranks

    def merges(self) -> Iterator[tuple[bytes, bytes]]:
        """The merges in the order learned, each as its left and right part."""
        special_ids = set(self.special.values())
        merged = (token for i, token in enumerate(self.tokens) if len(token) > 1 and i not in special_ids)
        for token, left in zip(merged, self.lefts, strict=True):
            yield token[:left], token[left:]


def looks_special(name: str) -> bool:
    """Whether a token's name is unlikely in ordinary text: `<…>` or `[…]`."""
    return len(name) > 2 and name[0] + name[-1] in ("<>", "[]")


def published_vocabulary() -> Vocabulary:
    """The vocabulary of every published GPT-2: 256 bytes, 50,000 merges, `<|endoftext|>`."""
    data = _PUBLISHED_FILE.read_bytes()
    tokens = [bytes((byte,)) for byte in BYTE_ORDER]
    tokens += data[_PUBLISHED_N_MERGES:].split(b"\xff")
    tokens.append(END_OF_TEXT.encode("utf-8"))
    return Vocabulary(tokens=tokens, lefts=data[:_PUBLISHED_N_MERGES], special={END_OF_TEXT: len(tokens) - 1})
