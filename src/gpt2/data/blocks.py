"""Documents to blocks to ids, in order: the parallel half of `prepare`.

This process reads documents and cuts them into blocks, always at the same places; worker processes encode the blocks;
the ids come back in order. So the number of workers cannot change what is written.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.data.documents import ReadOptions, read_documents
from gpt2.data.shards import dtype_of, version_for
from gpt2.data.workers import deaf_children, spawned
from gpt2.errors import DataError
from gpt2.tokenizer import Tokenizer

TRAIN, VALIDATION = SPLITS = ("train", "validation")
BLOCK_CHARACTERS = 1 << 20
BLOCK_DOCUMENTS = 4096
SPLIT_CHARACTERS = 1 << 20  # the part of a document that decides its split; the first piece of a long one has more

Encoded = dict[str, NDArray[Any]]
"""Ids by split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The unit of encoding: a document, or part of a very long one."""

    text: str
    begins: bool
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some documents in a row: one task of a worker.

    Attributes:
        pieces: what to encode.
        documents: how many begin here, by split.
        empty: documents skipped since the last block because they hold only white space.
        text_bytes: of the pieces, as UTF-8.
        chain: a hash of every document up to here, in order; equal chains mean equal documents.
        source: the file that the last piece came from.
    """

    pieces: list[Piece]
    documents: dict[str, int]
    empty: int
    text_bytes: int
    chain: str
    source: str


def cut_blocks(
    sources: Sequence[str],
    options: ReadOptions,
    *,
    validation: float,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[Block]:
    """The documents of all sources, in blocks; about a fraction `validation` of them is marked for that split."""
    limit = validation * 2.0**64
    chain, split, source = b"", TRAIN, ""
    pieces: list[Piece] = []
    documents, empty, text_bytes, characters = _none(), 0, 0, 0

    def block() -> Block:
        return Block(
            pieces=pieces, documents=documents, empty=empty, text_bytes=text_bytes, chain=chain.hex(), source=source
        )

    for source in sources:
        for document in read_documents(source, options, on_read=on_read):
            if document.begins and document.ends and (not document.text or document.text.isspace()):
                empty += 1
                continue
            data = document.text.encode("utf-8")
            digest = hashlib.blake2b(data, digest_size=8).digest()
            chain = hashlib.blake2b(chain + digest, digest_size=16).digest()
            if document.begins:
                split = VALIDATION if _number(document.text[:SPLIT_CHARACTERS]) < limit else TRAIN
                documents[split] += 1
            pieces.append(Piece(text=document.text, begins=document.begins, split=split))
            characters += len(document.text)
            text_bytes += len(data)
            if characters >= BLOCK_CHARACTERS or len(pieces) >= BLOCK_DOCUMENTS:
                yield block()
                pieces = []
                documents, empty, text_bytes, characters = _none(), 0, 0, 0
    if pieces or empty:
        yield block()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _none() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


def encode_block(block: list[Piece], tokenizer: Tokenizer) -> Encoded:
    """The ids of a block by split; every document begins with <|endoftext|>, if the vocabulary has it."""
    dtype = dtype_of(version_for(tokenizer.vocab_size))
    mark = np.array([] if tokenizer.eot is None else [tokenizer.eot], dtype)
    ids: dict[str, list[NDArray[Any]]] = {split: [mark[:0]] for split in SPLITS}
    for piece in block:
        ids[piece.split] += [mark] * piece.begins + [tokenizer.encode_array(piece.text).astype(dtype)]
    return {split: np.concatenate(parts) for split, parts in ids.items()}


def encode_blocks(blocks: Iterator[Block], tokenizer: Tokenizer, workers: int) -> Generator[tuple[Block, Encoded]]:
    """Every block with its ids, in order; reads blocks only a little ahead of the encoding.

    One worker is this process itself; several are new processes ("spawn").

    Raises:
        DataError: a worker died.
    """
    if workers <= 1:
        for block in blocks:
            yield block, encode_block(block.pieces, tokenizer)
        return
    waiting: deque[tuple[Block, Future[Encoded]]] = deque()
    try:
        with spawned(workers, _start_worker, tokenizer) as pool:
            for block in blocks:
                with deaf_children():
                    waiting.append((block, pool.submit(_encode_in_worker, block.pieces)))
                if len(waiting) > 2 * workers:
                    first, ids = waiting.popleft()
                    yield first, ids.result()
            for first, ids in waiting:
                yield first, ids.result()
    except BrokenProcessPool as error:
        raise DataError(
            "The sources cannot be encoded: a worker process died, perhaps for lack of memory. "
            "What was finished is kept; run again to go on, with fewer workers if it happens again."
        ) from error


_tokenizer_here: list[Tokenizer] = []  # a worker process's own, opened once at its start


def _start_worker(tokenizer: Tokenizer) -> None:
    _tokenizer_here[:] = [tokenizer]


def _encode_in_worker(block: list[Piece]) -> Encoded:
    return encode_block(block, _tokenizer_here[0])
