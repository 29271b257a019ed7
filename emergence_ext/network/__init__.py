"""A user's network: loaded, described, looked into by hooks that are gone afterwards.

Batches in, features and facts out; the network comes back as it was. It knows nothing of runs or
figures.
"""

from emergence_ext.network.above import Above, above, grad_cam, region_cells
from emergence_ext.network.batches import in_batches, read_ahead
from emergence_ext.network.calling import (
    classify,
    first_logits,
    forward,
    input_channels,
    logits,
    preserved,
    require_module,
    select_output,
)
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
    FeatureStream,
    StreamOptions,
    extract,
    feature_stream,
)
from emergence_ext.network.forward_pass import (
    ForwardPass,
    autocast,
    check_finite,
    flat_features,
    moved_to,
)
from emergence_ext.network.hooks import (
    Record,
    as_map,
    find_head,
    find_layers,
    recorder,
    regions,
)
from emergence_ext.network.identity import code_digest, weights_digest
from emergence_ext.network.layers import last_reached, suggest_layers
from emergence_ext.network.layout import Layout, read_layouts
from emergence_ext.network.models import LoadedModel, load_model, taken
from emergence_ext.network.origin import Origin, read_origin
from emergence_ext.network.preprocessing import preprocess, require_preprocess
from emergence_ext.network.pretrained import load_pretrained
from emergence_ext.network.published import DEFAULT, imagenet_names, published_size, weights_file
from emergence_ext.network.receptive import receptive_field, region_boxes
from emergence_ext.network.rectifiers import AsModules, RectifierMode
from emergence_ext.network.trace import Call, check_open, observed, trace
from emergence_ext.network.weights import check_fits, load_weights, output_rows, randomise
from emergence_ext.settings import Precision

__all__ = [
    "DEFAULT",
    "Above",
    "AsModules",
    "Call",
    "CheckpointFile",
    "FeatureSet",
    "FeatureStream",
    "ForwardPass",
    "Layout",
    "LoadedModel",
    "Origin",
    "Precision",
    "Record",
    "RectifierMode",
    "StreamOptions",
    "above",
    "as_map",
    "autocast",
    "check_finite",
    "check_fits",
    "check_open",
    "classify",
    "code_digest",
    "extract",
    "feature_stream",
    "find_head",
    "find_layers",
    "find_state",
    "first_logits",
    "flat_features",
    "format_environment",
    "format_report",
    "forward",
    "grad_cam",
    "imagenet_names",
    "in_batches",
    "input_channels",
    "inspect_model",
    "keep_state",
    "last_reached",
    "load_checkpoints",
    "load_model",
    "load_pretrained",
    "load_weights",
    "logits",
    "moved_to",
    "observed",
    "output_rows",
    "preprocess",
    "preserved",
    "published_size",
    "randomise",
    "read_ahead",
    "read_layouts",
    "read_origin",
    "receptive_field",
    "recorder",
    "region_boxes",
    "region_cells",
    "regions",
    "require_module",
    "require_preprocess",
    "restore_state",
    "save_checkpoint",
    "select_output",
    "suggest_layers",
    "taken",
    "trace",
    "weights_digest",
    "weights_file",
    "write_index",
]
