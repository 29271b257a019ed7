"""Named arrays on disk, whole or not at all: the one room that knows how results lie in files.

It knows nothing of what the arrays mean.
"""

from emergence_ext.store.arrays import (
    StoreError,
    content_digest,
    differences,
    exists,
    load_arrays,
    made_from,
    require_made_from,
    save_arrays,
)
from emergence_ext.store.digest import digest
from emergence_ext.store.files import locked, write_file
from emergence_ext.store.objects import Estimator, Saved, once

__all__ = [
    "Estimator",
    "Saved",
    "StoreError",
    "content_digest",
    "differences",
    "digest",
    "exists",
    "load_arrays",
    "locked",
    "made_from",
    "once",
    "require_made_from",
    "save_arrays",
    "write_file",
]
