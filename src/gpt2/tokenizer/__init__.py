"""Text to token ids and back: GPT-2's byte-level BPE, exactly; vocabulary files; learning a new vocabulary.

Code that reads files or starts processes is imported on first use, so encoding starts in milliseconds.
"""

from typing import TYPE_CHECKING, Any

from gpt2.tokenizer.incremental import IncrementalDecoder
from gpt2.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt2.tokenizer.learning import learn
    from gpt2.tokenizer.stream import encode_file, encode_stream, read_text

__all__ = ["IncrementalDecoder", "Tokenizer", "encode_file", "encode_stream", "learn", "read_text"]

_LAZY = {"encode_file": "stream", "encode_stream": "stream", "learn": "learning", "read_text": "stream"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
