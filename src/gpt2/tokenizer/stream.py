"""Encodes texts larger than memory: reads them, cuts them safely, encodes parts in sequence or in several processes.

The ids always equal those of encoding the whole text at once (cuts.py says why).
"""

import codecs
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from gpt2.config import truth_of
from gpt2.errors import TokenizerError
from gpt2.tokenizer.cuts import last_cut, regroup
from gpt2.tokenizer.tokenizer import Tokenizer

Errors = Literal["strict", "replace"]

_BLOCK_CHARACTERS = 1 << 16
_BLOCK_BYTES = 1 << 22
_WINDOW_BYTES = 1 << 12
_IN_FLIGHT = 3  # parts handed out per process: one in work, the others waiting


def read_text(stream: BinaryIO, *, source: str, errors: Errors = "strict") -> Iterator[str]:
    """The text of a byte stream, in parts; line ends stay as they are.

    Args:
        stream: opened for reading bytes.
        source: its name, for messages.
        errors: "strict" refuses bytes that are not UTF-8, "replace" reads them as U+FFFD.

    Raises:
        TokenizerError: the bytes are not UTF-8; the message has the offset of the first wrong one.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    begun = 0  # offset of the first byte not decoded yet
    while True:
        data = stream.read(_BLOCK_CHARACTERS)
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _not_utf8(source, begun + error.start, error.object[error.start :]) from None
        begun += waiting + len(data) - len(decoder.getstate()[0])
        if text:
            yield text
        if not data:
            return


def encode_stream(tokenizer: Tokenizer, texts: Iterable[str], *, allow_special: bool = False) -> Iterator[list[int]]:
    """The ids of a text that comes in arbitrary parts, as soon as they are certain, in bounded memory.

    (A single word or run of spaces is one part of any length, held whole.)

    Raises:
        TokenizerError: as `Tokenizer.encode`.
    """
    allow_special = truth_of("allow_special", allow_special, TokenizerError)
    keep = tuple(tokenizer.vocabulary.named(allow_special=allow_special))
    for part in regroup(texts, _BLOCK_CHARACTERS, keep):
        yield tokenizer.encode(part, allow_special=allow_special)


def encode_file(
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    processes: int = 1,
    errors: Errors = "strict",
    allow_special: bool = False,
    block_bytes: int = _BLOCK_BYTES,
) -> Generator[memoryview]:
    """The ids of a UTF-8 file, in order, in parts of about `block_bytes` of text.

    Args:
        tokenizer: gives the ids.
        path: the file; it must not change meanwhile.
        processes: how many encode in parallel. More than one starts new interpreters, so the caller's main module
            must be importable (`if __name__ == "__main__":`).
        errors: "strict" refuses bytes that are not UTF-8, "replace" reads them as U+FFFD.
        allow_special: read the names of special tokens as these tokens.
        block_bytes: text per part; memory is a few times this per process.

    Yields:
        One-dimensional views of unsigned 32-bit ids, which NumPy takes without a copy.

    Raises:
        TokenizerError: the bytes are not UTF-8 (the message has the offset of the first wrong one), `processes` is
            below 1, or a process died.
        OSError: the file cannot be read.
    """
    if processes < 1:
        raise TokenizerError(f"processes must be at least 1: got {processes}.")
    path = Path(path)
    allow_special = truth_of("allow_special", allow_special, TokenizerError)
    keep = tuple(tokenizer.vocabulary.named(allow_special=allow_special))
    jobs = (
        _Span(path=path, start=start, end=end, errors=errors, allow_special=allow_special)
        for start, end in spans(path, block_bytes, keep)
    )
    if processes == 1:
        yield from (_as_ids(_encode_span(tokenizer, job)) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_worker, initargs=(tokenizer,))
    waiting: deque[Future[bytes]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(_encode_in_worker, job))
            if len(waiting) >= _IN_FLIGHT * processes:
                yield _as_ids(waiting.popleft().result())
        while waiting:
            yield _as_ids(waiting.popleft().result())
    except BrokenProcessPool as error:
        raise TokenizerError(
            f"{path} cannot be encoded: a process that encodes it died, perhaps for lack of memory. "
            f"Try again with fewer processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def spans(path: Path, block_bytes: int, keep: Iterable[str] = ()) -> Iterator[tuple[int, int]]:
    """Parts of a UTF-8 file as (start, end) in bytes: safe cuts about `block_bytes` apart, found in a small window
    before each, so that only the encoding process reads the whole file.

    `keep` as in `cuts.last_cut`.
    """
    keep = tuple(keep)
    size = path.stat().st_size
    reach = max(map(len, keep), default=0) + 5
    window_bytes = min(_WINDOW_BYTES, block_bytes)
    with path.open("rb") as file:
        start, probe = 0, block_bytes
        while probe < size:
            window_start = max(start, probe - window_bytes)
            file.seek(window_start)
            cut = window_start + _cut_in(file.read(probe - window_start), reach, keep)
            if cut > window_start:
                yield start, cut
                start, probe = cut, cut + block_bytes
            else:
                probe += window_bytes
        if start < size:
            yield start, size


def _cut_in(window: bytes, reach: int, keep: Iterable[str]) -> int:
    """The last safe cut in a window of a file, as an offset; 0 if there is none.

    The window may begin and end inside a character. Bytes that are not UTF-8 decode to surrogates, and no cut is made
    beside them; cuts also stay `reach` characters away from the window's edges, where up to three bytes may belong to
    a cut character.
    """
    text = window.decode("utf-8", "surrogateescape")
    cut = last_cut(text, reach, len(text) - reach, keep)
    return len(text[:cut].encode("utf-8", "surrogateescape")) if cut > reach else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """A part of a file to encode: bytes `start` to `end`."""

    path: Path
    start: int
    end: int
    errors: Errors
    allow_special: bool


def _encode_span(tokenizer: Tokenizer, span: _Span) -> bytes:
    with span.path.open("rb") as file:
        file.seek(span.start)
        data = file.read(span.end - span.start)
    try:
        text = data.decode("utf-8", span.errors)
    except UnicodeDecodeError as error:
        raise _not_utf8(str(span.path), span.start + error.start, data[error.start :]) from None
    return tokenizer.encode_buffer(text, allow_special=span.allow_special)


def _as_ids(buffer: bytes) -> memoryview:
    return memoryview(buffer).cast("I")


_worker_tokenizer: Tokenizer | None = None  # of a worker process, set once at its start


def end_with_parent() -> None:
    """End this pool worker as soon as its parent is gone: a killed parent cannot shut it down."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _start_worker(tokenizer: Tokenizer) -> None:
    global _worker_tokenizer
    end_with_parent()
    _worker_tokenizer = tokenizer


def _encode_in_worker(span: _Span) -> bytes:
    assert _worker_tokenizer is not None
    return _encode_span(_worker_tokenizer, span)


def _not_utf8(source: str, offset: int, data: bytes) -> TokenizerError:
    """The error for bytes `data` at `offset`."""
    if not offset and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return TokenizerError(
            f"{source} cannot be read as text: it begins with 0x{data[0]:02X} 0x{data[1]:02X}, as UTF-16 does. "
            f"Save it as UTF-8."
        )
    return TokenizerError(
        f"{source} cannot be read as text: byte 0x{data[0]:02X} at offset {offset} is not UTF-8. "
        f"Convert it to UTF-8, or have such bytes read as U+FFFD with errors='replace' (--errors replace)."
    )
