"""Images with labels, boxes and masks, from folders, data sets and files.

Pixels in 0..1 out. It knows nothing of networks.
"""

from emergence_ext.data.annotations import Box, boxes_on_grid, find_masks, mask_on_grid, read_boxes
from emergence_ext.data.csv_files import read_csv
from emergence_ext.data.folders import (
    ImageFolder,
    class_map,
    coco2014,
    cub200,
    digits,
    image_set,
    splits,
)
from emergence_ext.data.samples import (
    MAX_MEMORY,
    ArraySamples,
    ImageFiles,
    MapStyle,
    Samples,
    as_samples,
    balanced_order,
    subset,
)

__all__ = [
    "MAX_MEMORY",
    "ArraySamples",
    "Box",
    "ImageFiles",
    "ImageFolder",
    "MapStyle",
    "Samples",
    "as_samples",
    "balanced_order",
    "boxes_on_grid",
    "class_map",
    "coco2014",
    "cub200",
    "digits",
    "find_masks",
    "image_set",
    "mask_on_grid",
    "read_boxes",
    "read_csv",
    "splits",
    "subset",
]
