"""Where a corpus comes from: each kind of source is a small adapter that yields pages.

An adapter tells what it could not read, by file and place, and goes on; the pages it gives say where they came from.
"""

from gpt2.data.corpus.sources.fetch_settings import FetchSettings
from gpt2.data.corpus.sources.inputs import FETCHED, KINDS, Input, SourceSpec, find_inputs, read_input

__all__ = ["FETCHED", "KINDS", "FetchSettings", "Input", "SourceSpec", "find_inputs", "read_input"]
