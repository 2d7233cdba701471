"""Learns a new vocabulary from text: byte-level byte-pair encoding, as for GPT-2."""

import json
import logging
from collections.abc import Iterable, Iterator

from gpt2.errors import MissingExtraError, TokenizerError
from gpt2.tokenizer.assembly import assemble
from gpt2.tokenizer.cuts import blocks, regroup
from gpt2.tokenizer.tokenizer import Tokenizer
from gpt2.tokenizer.vocabulary import END_OF_TEXT

SMALLEST_VOCABULARY = 257  # the bytes and <|endoftext|>
LARGEST_VOCABULARY = 1 << 24  # a model's limit too
_PART_CHARACTERS = 1 << 16
_LONGEST = 1 << 12  # characters of a word: the library's time is quadratic in them, and no language has longer words

_log = logging.getLogger("gpt2")


def learn(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer whose merges are the most frequent in `texts`.

    The ids are in GPT-2's order: the 256 bytes, the merges as learned, `<|endoftext|>` last. A merge must occur at
    least twice, so a small text gives fewer tokens than `vocab_size`: check the result's. The same texts give the same
    vocabulary. Runs of more than 4,096 characters without a word boundary are split into pieces of that length.

    Args:
        texts: one text, in parts; `<|endoftext|>` in it separates documents and is not learned from.
        vocab_size: the number of ids wanted, from 257 to 16,777,216.

    Raises:
        TokenizerError: the size is too small or too large, or the text is empty or holds a surrogate.
        MissingExtraError: the `tokenizers` library is not installed.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"A vocabulary of {vocab_size} ids cannot be learned: the 256 bytes and {END_OF_TEXT} alone "
            f"need {SMALLEST_VOCABULARY}. Ask for more."
        )
    if vocab_size > LARGEST_VOCABULARY:
        raise TokenizerError(
            f"A vocabulary of {vocab_size:,} ids cannot be learned: a model has at most {LARGEST_VOCABULARY:,}. "
            f"Ask for fewer."
        )
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError.of("A vocabulary cannot be learned", package="tokenizers", extra="train") from error

    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_documents(texts), trainer)
    model = json.loads(learner.to_str())["model"]
    ids: dict[str, int] = model["vocab"]
    merges = [(left, right) for left, right in model["merges"]]
    return Tokenizer(assemble({**ids, END_OF_TEXT: len(ids)}, merges, {END_OF_TEXT: len(ids)}))


def _documents(texts: Iterable[str]) -> Iterator[str]:
    empty, told = True, False
    for part in regroup(texts, _PART_CHARACTERS, (END_OF_TEXT,)):
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"A vocabulary cannot be learned from this text: it holds the surrogate {error.object[error.start]!r}, "
                f"which is no character. Read the text anew with errors='replace'."
            ) from None
        for document in filter(None, part.split(END_OF_TEXT)):
            empty = False
            for block in blocks(document, _LONGEST):
                if len(block) > _LONGEST and not told:
                    told = True
                    _log.info(
                        "%r… runs on for %s characters: words above %s are learned from in pieces of so many",
                        block[:20],
                        f"{len(block):,}",
                        f"{_LONGEST:,}",
                    )
                yield from (block[start : start + _LONGEST] for start in range(0, len(block), _LONGEST))
    if empty:
        raise TokenizerError(
            "A vocabulary cannot be learned: there is no text. Give at least one file that is not empty."
        )
