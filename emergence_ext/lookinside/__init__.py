"""What ConvNets learn, looked at by the techniques of CS231n: a batch in, named arrays out.

A file a technique. It draws nothing and knows nothing of runs.
"""

from emergence_ext.lookinside import (
    activations,
    annotators,
    attributes,
    codes,
    correspondence,
    excite,
    filters,
    fooling,
    gradients,
    inversion,
    occlusion,
    stream,
    targets,
)

__all__ = [
    "activations",
    "annotators",
    "attributes",
    "codes",
    "correspondence",
    "excite",
    "filters",
    "fooling",
    "gradients",
    "inversion",
    "occlusion",
    "stream",
    "targets",
]
