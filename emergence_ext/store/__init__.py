"""Named arrays on disk, whole or not at all: the one room that knows how results lie in files.

It knows nothing of what the arrays mean.
"""

from emergence_ext.store.arrays import (
    Saved,
    StoreError,
    exists,
    load_arrays,
    once,
    save_arrays,
    write_file,
)

__all__ = [
    "Saved",
    "StoreError",
    "exists",
    "load_arrays",
    "once",
    "save_arrays",
    "write_file",
]
