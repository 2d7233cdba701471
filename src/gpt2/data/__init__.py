"""Data: text to documents, documents to token shards, shards to batches.

`read_documents` yields documents from files of many kinds, `prepare` turns them into token shards with a manifest,
`TokenStream` opens a folder of shards, and `Loader` draws batches from a mixture of such folders.
"""

from gpt2.data.documents import Document, ReadOptions, find_sources, read_documents
from gpt2.data.loader import Batch, Cursor, Loader, Source, batches_in_order
from gpt2.data.prepare import PrepareConfig, Progress, prepare
from gpt2.data.shards import TokenStream, read_shard, verify, write_shard

__all__ = [
    "Batch",
    "Cursor",
    "Document",
    "Loader",
    "PrepareConfig",
    "Progress",
    "ReadOptions",
    "Source",
    "TokenStream",
    "batches_in_order",
    "find_sources",
    "prepare",
    "read_documents",
    "read_shard",
    "verify",
    "write_shard",
]
