"""Optimise an image: what it is made of, what for, what is done to it, and the loop.

from emergence_ext import render

start = render.noise(1, 3, 112)
objective = -render.channel("features.29", 7) + 0.5 * render.total_variation()
result = render.render(net, start, objective, steps=200, learning_rate=0.02)
"""

from emergence_ext.render.image import Pixels, check_images, noise
from emergence_ext.render.loop import Rendering, measure, render, require_octaves
from emergence_ext.render.objectives import (
    Objective,
    alpha_norm,
    channel,
    code,
    direction,
    l1,
    like_maps,
    log_probability,
    logit,
    total_variation,
    unit,
)
from emergence_ext.render.ramps import Number, Ramp, ends, require_number, value
from emergence_ext.render.seen import Seen, maps_of, seeing
from emergence_ext.render.transforms import (
    CentreMask,
    Crop,
    GaussianBlur,
    Jitter,
    Smoothing,
    SplitBregman,
    View,
)

__all__ = [
    "CentreMask",
    "Crop",
    "GaussianBlur",
    "Jitter",
    "Number",
    "Objective",
    "Pixels",
    "Ramp",
    "Rendering",
    "Seen",
    "Smoothing",
    "SplitBregman",
    "View",
    "alpha_norm",
    "channel",
    "check_images",
    "code",
    "direction",
    "ends",
    "l1",
    "like_maps",
    "log_probability",
    "logit",
    "maps_of",
    "measure",
    "noise",
    "render",
    "require_number",
    "require_octaves",
    "seeing",
    "total_variation",
    "unit",
    "value",
]
