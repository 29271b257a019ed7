"""A user's network: loaded, described, looked into by hooks that are gone afterwards.

Batches in, features and facts out; the network comes back as it was. It knows nothing of runs or
figures.
"""

from emergence_ext.network.above import Above, above, grad_cam, region_cells
from emergence_ext.network.batches import in_batches
from emergence_ext.network.checkpoints import (
    CheckpointFile,
    find_state,
    keep_state,
    load_checkpoints,
    restore_state,
    save_checkpoint,
    write_index,
)
from emergence_ext.network.doctor import format_environment, format_report, inspect_model
from emergence_ext.network.features import (
    FeatureSet,
    ForwardPass,
    check_finite,
    extract,
    flat_features,
    moved_to,
)
from emergence_ext.network.hooks import (
    Record,
    as_map,
    find_head,
    find_layers,
    logits,
    recorder,
    regions,
)
from emergence_ext.network.layers import last_reached, suggest_layers
from emergence_ext.network.layout import Layout, read_layouts
from emergence_ext.network.models import LoadedModel, load_model
from emergence_ext.network.preprocessing import preprocess
from emergence_ext.network.receptive import receptive_field, region_boxes
from emergence_ext.network.rectifiers import AsModules, Watch
from emergence_ext.network.trace import Call, check_open, observed, preserved
from emergence_ext.network.weights import load_weights, randomise
from emergence_ext.settings import Precision

__all__ = [
    "Above",
    "AsModules",
    "Call",
    "CheckpointFile",
    "FeatureSet",
    "ForwardPass",
    "Layout",
    "LoadedModel",
    "Precision",
    "Record",
    "Watch",
    "above",
    "as_map",
    "check_finite",
    "check_open",
    "extract",
    "find_head",
    "find_layers",
    "find_state",
    "flat_features",
    "format_environment",
    "format_report",
    "grad_cam",
    "in_batches",
    "inspect_model",
    "keep_state",
    "last_reached",
    "load_checkpoints",
    "load_model",
    "load_weights",
    "logits",
    "moved_to",
    "observed",
    "preprocess",
    "preserved",
    "randomise",
    "read_layouts",
    "receptive_field",
    "recorder",
    "region_boxes",
    "region_cells",
    "regions",
    "restore_state",
    "save_checkpoint",
    "suggest_layers",
    "write_index",
]
