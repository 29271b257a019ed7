"""The experiments of the paper, a file each: a finished run in, a saved result out.

They draw nothing.
"""

from emergence_ext.studies import (
    ablation,
    apply,
    attack,
    compare,
    controls,
    distill,
    drpr,
    foreground,
    likeness,
    methods,
    paper_tables,
    pgd,
    published,
    shapley,
    students,
)

__all__ = [
    "ablation",
    "apply",
    "attack",
    "compare",
    "controls",
    "distill",
    "drpr",
    "foreground",
    "likeness",
    "methods",
    "paper_tables",
    "pgd",
    "published",
    "shapley",
    "students",
]
