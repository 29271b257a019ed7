"""Named arrays on disk, whole or not at all: the one room that knows how results lie in files.

It knows nothing of what the arrays mean.
"""

from emergence_ext.store.arrays import load_arrays, save_arrays, save_rows
from emergence_ext.store.digest import digest
from emergence_ext.store.documents import StoreError, read_document, write_document
from emergence_ext.store.estimators import Estimator, NotFittedError
from emergence_ext.store.files import locked, replace_file, write_file
from emergence_ext.store.filling import SHARD_BYTES, Part, fill_rows, rows_per_shard
from emergence_ext.store.manifests import (
    content_digest,
    differences,
    exists,
    in_words,
    made_from,
    require_made_from,
)
from emergence_ext.store.objects import Saved, kept, once
from emergence_ext.store.shards import ShardStore

__all__ = [
    "SHARD_BYTES",
    "Estimator",
    "NotFittedError",
    "Part",
    "Saved",
    "ShardStore",
    "StoreError",
    "content_digest",
    "differences",
    "digest",
    "exists",
    "fill_rows",
    "in_words",
    "kept",
    "load_arrays",
    "locked",
    "made_from",
    "once",
    "read_document",
    "replace_file",
    "require_made_from",
    "rows_per_shard",
    "save_arrays",
    "save_rows",
    "write_document",
    "write_file",
]
