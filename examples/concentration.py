"""How sure a direction is, by the length of the feature: exact, and drawn as in the paper.

python examples/concentration.py concentration.png
"""

import sys

import torch
from matplotlib.figure import Figure

import emergence_ext as ee

strength = torch.logspace(-1, 1.5, 100)
figure = Figure(figsize=(5, 3.5), layout="constrained")
axes = figure.subplots()
for dim in (2, 3, 10):
    line = axes.loglog(strength, ee.ExactKappa(dim)(strength), label=f"{dim} dimensions")[0]
    drawn = ee.MonteCarloKappa(dim, samples=1000)(strength[::9])
    axes.loglog(strength[::9], drawn, "o", color=line.get_color(), markersize=3)
axes.set(xlabel="strength l", ylabel="concentration kappa(l)")
axes.legend(title="lines: exact; dots: 1,000 draws")
figure.savefig(sys.argv[1], dpi=150)
