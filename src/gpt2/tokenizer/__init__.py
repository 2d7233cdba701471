"""Text to token ids and back: GPT-2's byte-level BPE, exactly; vocabulary files; learning a new vocabulary."""

from gpt2.tokenizer.incremental import IncrementalDecoder
from gpt2.tokenizer.tokenizer import Tokenizer

__all__ = ["IncrementalDecoder", "Tokenizer"]
