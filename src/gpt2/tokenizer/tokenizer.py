"""The tokenizer: text to ids and ids to text, for the published vocabulary or another of its kind."""

import codecs
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2.config import truth_of
from gpt2.errors import TokenizerError
from gpt2.files import path_of
from gpt2.tokenizer import plain
from gpt2.tokenizer.core import Core, build_core
from gpt2.tokenizer.cuts import blocks
from gpt2.tokenizer.vocabulary import END_OF_TEXT, Vocabulary, published_vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Longer texts go to the core in blocks: its pattern engine fails on a run of about a million spaces.
_BLOCK_CHARACTERS = 1 << 16


class Tokenizer:
    """GPT-2's byte-level BPE over one vocabulary. Immutable, safe to share between threads, and picklable.

    Tokenizers with the same vocabulary are equal, and hash alike. Every text encodes to ids that decode to the same
    text, and some ids decode to any byte string.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if not isinstance(vocabulary, Vocabulary):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls this
            raise TokenizerError(
                f"A tokenizer is not made of {vocabulary!r:.60}. Tokenizer.published() is that of every published "
                f"model, Tokenizer.from_folder reads another."
            )
        self.vocabulary = vocabulary

    @staticmethod
    def published() -> "Tokenizer":
        """The tokenizer of every published GPT-2: 50,257 ids; `<|endoftext|>` is 50256."""
        return Tokenizer(published_vocabulary())

    @staticmethod
    def from_folder(folder: str | Path) -> "Tokenizer":
        """The tokenizer of a model folder: `vocab.json` with `merges.txt`, `encoder.json` with `vocab.bpe`, or
        `tokenizer.json`.

        Raises:
            TokenizerError: the folder has no vocabulary, or one that is damaged or of another kind.
            OSError: a file cannot be read.
        """
        from gpt2.tokenizer.folder import read_folder  # not needed for the published vocabulary

        return Tokenizer(read_folder(path_of(folder, "A vocabulary", TokenizerError)))

    def save(self, folder: str | Path) -> None:
        """Write `vocab.json`, `merges.txt`, `tokenizer.json` and `tokenizer_config.json` for any GPT-2 reader.

        Raises:
            OSError: the folder cannot be written; no file is left half written.
        """
        from gpt2.tokenizer.folder import write_folder

        write_folder(path_of(folder, "A vocabulary", TokenizerError), self.vocabulary)

    @property
    def vocab_size(self) -> int:
        """Number of ids; they run from 0."""
        return len(self.vocabulary.tokens)

    @property
    def eot(self) -> int | None:
        """The id of `<|endoftext|>`, None in a vocabulary without it."""
        return self.vocabulary.special.get(END_OF_TEXT)

    @property
    def hash(self) -> str:
        """SHA-256 of the vocabulary: equal for tokenizers that give equal ids."""
        return self.vocabulary.hash

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of a text.

        Args:
            text: any text; the empty text has no ids.
            allow_special: read `<|endoftext|>` as the special token. Otherwise it is text like any other, so that
                no input can end a document.

        Raises:
            TokenizerError: not a text, or a text with a surrogate, which is no character; the message names its place.
        """
        ids: list[int] = []
        for part, special_id in self._parts(text, allow_special=allow_special):
            try:
                for block in blocks(part, _BLOCK_CHARACTERS):
                    ids += self._encode_block(block)
            except UnicodeEncodeError:
                raise _surrogate_error(text) from None
            if special_id is not None:
                ids.append(special_id)
        return ids

    def encode_array(self, text: str, *, allow_special: bool = False) -> "NDArray[np.uint32]":
        """The ids of a text as an array, which for long texts is faster and smaller than a list."""
        import numpy as np

        return np.frombuffer(self.encode_buffer(text, allow_special=allow_special), dtype=np.uint32)

    def encode_buffer(self, text: str, *, allow_special: bool = False) -> bytes:
        """The ids of a text as unsigned 32-bit numbers in the machine's byte order."""
        buffers: list[bytes] = []
        for part, special_id in self._parts(text, allow_special=allow_special):
            try:
                buffers += (self._core.encode_to_tiktoken_buffer(b, set()) for b in blocks(part, _BLOCK_CHARACTERS))
            except UnicodeEncodeError:
                raise _surrogate_error(text) from None
            if special_id is not None:
                buffers.append(special_id.to_bytes(4, sys.byteorder))
        return b"".join(buffers)

    def encode_batch(self, texts: Iterable[str], *, allow_special: bool = False) -> list[list[int]]:
        """The ids of each text. Raises as `encode` does."""
        if not isinstance(texts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls this
            raise TokenizerError(f"What is encoded is a list of texts: got {texts!r:.60}. For one text take encode.")
        return [self.encode(text, allow_special=allow_special) for text in texts]

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of ids.

        Args:
            ids: token ids; special tokens decode to their names.
            errors: how to handle bytes that are not UTF-8, as in `bytes.decode`. A token may be part of a
                character, so ids cut anywhere may begin or end with such bytes.

        Raises:
            TokenizerError: the vocabulary has no such id, or Python no such error handler.
            UnicodeDecodeError: the bytes are not UTF-8 and `errors` is "strict".
        """
        if not _is_way_with_errors(errors):
            raise TokenizerError(
                f"Bytes that are no text cannot be met by {errors!r:.60}: say replace, ignore or strict."
            )
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, joined. Raises as `pieces` does."""
        return b"".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each id.

        Raises:
            TokenizerError: the vocabulary has no such id.
        """
        if not isinstance(ids, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls this
            raise TokenizerError(f"What is decoded is a list of ids: got {ids!r:.60}. Give one id as [id].")
        ids = list(ids)
        tokens = self.vocabulary.tokens
        try:
            if ids and min(ids) < 0:
                raise IndexError
            return [tokens[i] for i in ids]
        except (IndexError, TypeError):
            position = next(n for n, i in enumerate(ids) if not _is_id(i, len(tokens)))
            raise TokenizerError(
                f"The ids cannot be decoded: {ids[position]!r} at position {position} is not an id of this "
                f"vocabulary, whose ids are 0 to {len(tokens) - 1}."
            ) from None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one id. Raises as `pieces` does."""
        return self.pieces((token_id,))[0]

    def offsets(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Where each id begins and ends in `decode_bytes(ids)`, in bytes. Raises as `pieces` does."""
        ends = list(accumulate(map(len, self.pieces(ids)), initial=0))
        return list(pairwise(ends))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, eot={self.eot}, hash='{self.hash[:8]}…')"

    def __getstate__(self) -> dict[str, Vocabulary]:
        return {"vocabulary": self.vocabulary}  # the compiled core is rebuilt when needed

    def _encode_block(self, text: str) -> list[int]:
        # A program that encodes once, like `gpt2 generate`, finishes before the core would be built.
        is_first = "_ranks" not in self.__dict__ and "_core" not in self.__dict__
        return (
            plain.encode(text, self._ranks) if is_first and plain.can_encode(text) else self._core.encode_ordinary(text)
        )

    @cached_property
    def _ranks(self) -> dict[bytes, int]:
        return self.vocabulary.ranks()

    @cached_property
    def _core(self) -> Core:
        return build_core(self._ranks)

    def _parts(self, text: str, *, allow_special: bool) -> Iterator[tuple[str, int | None]]:
        """Pairs of ordinary text and the special token named after it, until the text ends."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls this
            advice = "Decode them, as by .decode('utf-8')." if isinstance(text, bytes) else "Give a string."
            raise TokenizerError(f"Only text can be encoded: got {text!r:.60}. {advice}")
        named = self.vocabulary.named(allow_special=truth_of("allow_special", allow_special, TokenizerError))
        if not named:
            yield text, None
            return
        names = "|".join(re.escape(name) for name in sorted(named, key=len, reverse=True))
        parts = [*re.split(f"({names})", text), None]
        for part, name in zip(parts[::2], parts[1::2], strict=True):
            assert part is not None
            yield part, None if name is None else named[name]


def _is_id(value: Any, vocab_size: int) -> bool:
    try:
        return 0 <= index(value) < vocab_size
    except TypeError:
        return False


def _is_way_with_errors(name: object) -> bool:
    try:
        return isinstance(name, str) and "\0" not in name and callable(codecs.lookup_error(name))
    except (LookupError, UnicodeEncodeError):
        return False


def _surrogate_error(text: str) -> TokenizerError:
    position = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    return TokenizerError(
        f"The text cannot be encoded: the character at position {position} is the surrogate "
        f"U+{ord(text[position]):04X}, which no UTF-8 text holds. "
        f"Read the text anew with errors='replace', or remove it."
    )
