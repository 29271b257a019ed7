"""Contact sheets: ways to look inside a network, each with its figures, tables and a page of all.

Here networks run: what is shown is not kept with a run.
"""

from emergence_ext.report.look.sheet import Scene, Sheet
from emergence_ext.report.look.sheets import TECHNIQUES, Looked, look, some_images

__all__ = ["TECHNIQUES", "Looked", "Scene", "Sheet", "look", "some_images"]
