"""From raw pages and other sources to a corpus: cleaned, without duplicates, shuffled, and accounted for.

`build` turns sources (`SourceSpec`) into a folder of JSON Lines shards as a `CorpusConfig` says, with an account of
every step; `read_stats` reads that account. docs/corpus.md describes the steps and the folder.
"""

from gpt2.data.corpus.build import build
from gpt2.data.corpus.config import CorpusConfig, read_config
from gpt2.data.corpus.finished import read_samples, read_stats, write_page
from gpt2.data.corpus.minhash import MinHash
from gpt2.data.corpus.sources import FetchSettings, SourceSpec

__all__ = [
    "CorpusConfig",
    "FetchSettings",
    "MinHash",
    "SourceSpec",
    "build",
    "read_config",
    "read_samples",
    "read_stats",
    "write_page",
]
