"""What images have in common in a layer, from a folder or a run to figures, tables and films.

Here a network runs: what is shown is optimised, and not kept with a run.
"""

from emergence_ext.report.mindseye.directions import direction_sheet
from emergence_ext.report.mindseye.facets import facet_sheet, film_frames
from emergence_ext.report.mindseye.images import ImageSet, folder_images
from emergence_ext.report.mindseye.write import directions_of_run, facets_of_folder, facets_of_run

__all__ = [
    "ImageSet",
    "direction_sheet",
    "directions_of_run",
    "facet_sheet",
    "facets_of_folder",
    "facets_of_run",
    "film_frames",
    "folder_images",
]
