"""For notebooks and training loops: from a network and images at hand to answers, in one call.

It computes and draws nothing by itself.
"""

from emergence_ext.notebook.analysis import Analysis, analyze
from emergence_ext.notebook.watch import Watch

__all__ = ["Analysis", "Watch", "analyze"]
