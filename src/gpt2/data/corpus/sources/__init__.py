"""The sources of a corpus: each kind has a small adapter that yields pages.

An adapter reports what it could not read, by file and place, and continues; its pages say where they came from.
"""

from gpt2.data.corpus.sources.fetch_settings import FetchSettings
from gpt2.data.corpus.sources.inputs import FETCHED, KINDS, Input, SourceSpec, find_inputs, read_input, skipped

__all__ = ["FETCHED", "KINDS", "FetchSettings", "Input", "SourceSpec", "find_inputs", "read_input", "skipped"]
