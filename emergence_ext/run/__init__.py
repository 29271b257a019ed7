"""One analysis: a network, its checkpoints and images in, saved results out, and opened again.

It ends at what is saved: tables, figures and pages are the report's.
"""

from emergence_ext.run.analyse import run
from emergence_ext.run.emerging import Checkpoint, Emergence, emergence, stacked
from emergence_ext.run.finished import FinishedRun, Learned, require_same_network, settings_of
from emergence_ext.run.fixed_frame import FixedFrame, claim_folder, file_name
from emergence_ext.run.strength import ImportanceStrength, StrengthEntropy
from emergence_ext.run.subject import DIGITS, Subject, SubjectSpec
from emergence_ext.settings import Settings

__all__ = [
    "DIGITS",
    "Checkpoint",
    "Emergence",
    "FinishedRun",
    "FixedFrame",
    "ImportanceStrength",
    "Learned",
    "Settings",
    "StrengthEntropy",
    "Subject",
    "SubjectSpec",
    "claim_folder",
    "emergence",
    "file_name",
    "require_same_network",
    "run",
    "settings_of",
    "stacked",
]
