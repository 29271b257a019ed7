"""What people look at: tables, figures, films and pages, from a finished run alone.

It fits nothing and loads no network, but for the sheets in `look` and `mindseye`.
"""

from emergence_ext.report import emergence, exporting, film, look, mindseye
from emergence_ext.report.exporting import export
from emergence_ext.report.film import animate
from emergence_ext.report.framed import Framed, show
from emergence_ext.report.verify import verify_run
from emergence_ext.report.write import is_current, refresh, update, write

__all__ = [
    "Framed",
    "animate",
    "emergence",
    "export",
    "exporting",
    "film",
    "is_current",
    "look",
    "mindseye",
    "refresh",
    "show",
    "update",
    "verify_run",
    "write",
]
