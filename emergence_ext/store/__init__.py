"""Named arrays on disk, whole or not at all: the one room that knows how results lie in files.

It knows nothing of what the arrays mean.
"""

from emergence_ext.store.arrays import StoreError, exists, load_arrays, save_arrays, write_file
from emergence_ext.store.digest import digest
from emergence_ext.store.objects import Estimator, Saved, once

__all__ = [
    "Estimator",
    "Saved",
    "StoreError",
    "digest",
    "exists",
    "load_arrays",
    "once",
    "save_arrays",
    "write_file",
]
