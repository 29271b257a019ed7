"""Score images against each other by the best matches of their regions, and follow the gradient.

python examples/best_matches.py
"""

import torch

import emergence_ext as ee

generator = torch.Generator().manual_seed(0)
q = torch.randn(5, 49, 3, generator=generator, requires_grad=True)  # 5 images of 49 regions
d = torch.randn(4, 49, 3, generator=generator)  # 4 images to be matched with
T, matches = ee.maxsim_indices(q, d)
print(f"scores {list(T.shape)}: image 0 against image 2 is {T[2, 0]:.2f}")
print(f"its region 7 matches region {matches[2, 0, 7]} there")
T[2, 0].backward()
assert torch.equal(q.grad[0, 7], d[2, matches[2, 0, 7]])  # what it matches is where it is pulled
