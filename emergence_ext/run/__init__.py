"""One analysis: a network, its checkpoints and images in, saved results out, and opened again.

It ends at what is saved: tables, figures and pages are the report's.
"""

from emergence_ext.run.address import open_at, split_address
from emergence_ext.run.analyse import run
from emergence_ext.run.emerging import Checkpoint, emergence, stacked
from emergence_ext.run.estimators import (
    compared,
    frame_of_regions,
    image_similarities,
    region_importance,
    regional_projection,
    sample_projection,
    settled_kappa_p,
)
from emergence_ext.run.finished import FinishedRun, Learned, require_same_network
from emergence_ext.run.fixed_frame import Fitted, FixedFrame, claim_folder
from emergence_ext.run.folder import (
    Config,
    FitsFolder,
    RunFolder,
    StateFolder,
    check_place,
    file_name,
)
from emergence_ext.run.forecast import Forecast, Stage, forecast
from emergence_ext.run.given import subject_of
from emergence_ext.run.identity import file_digest, identity
from emergence_ext.run.plan import free_space
from emergence_ext.run.results import Emergence
from emergence_ext.run.sources import InMemory, in_state
from emergence_ext.run.strength import ImportanceStrength, StrengthEntropy
from emergence_ext.run.subject import Subject, SubjectSpec
from emergence_ext.run.thumbnails import Thumbnails
from emergence_ext.run.verify import Verification, recompute, verify
from emergence_ext.settings import Settings

__all__ = [
    "Checkpoint",
    "Config",
    "Emergence",
    "FinishedRun",
    "FitsFolder",
    "Fitted",
    "FixedFrame",
    "Forecast",
    "ImportanceStrength",
    "InMemory",
    "Learned",
    "RunFolder",
    "Settings",
    "Stage",
    "StateFolder",
    "StrengthEntropy",
    "Subject",
    "SubjectSpec",
    "Thumbnails",
    "Verification",
    "check_place",
    "claim_folder",
    "compared",
    "emergence",
    "file_digest",
    "file_name",
    "forecast",
    "frame_of_regions",
    "free_space",
    "identity",
    "image_similarities",
    "in_state",
    "open_at",
    "recompute",
    "region_importance",
    "regional_projection",
    "require_same_network",
    "run",
    "sample_projection",
    "settled_kappa_p",
    "split_address",
    "stacked",
    "subject_of",
    "verify",
]
