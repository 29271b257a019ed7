"""What people look at: tables, figures, films and pages, from a finished run alone.

It fits nothing and loads no network, but for the contact sheets in `look`.
"""

from emergence_ext.report import film, look
from emergence_ext.report.film import animate
from emergence_ext.report.write import update, write, write_comparison

__all__ = ["animate", "film", "look", "update", "write", "write_comparison"]
