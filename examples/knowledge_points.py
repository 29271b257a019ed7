"""From stored features to knowledge points and a first figure.

python examples/knowledge_points.py FEATURES samples.png

FEATURES is one of those that a run keeps, without its ending: what `ls runs/demo/features` shows.
"""

import sys

import emergence_ext as ee

features = ee.FeatureSet.load(sys.argv[1])
F = list(features.layers.values())[-1]
samples = ee.SampleProjection().fit(features.f, features.z)
g = samples.transform(features.f)
P = ee.image_similarity(features.z, ee.solve_kappa_p(features.z))
w = ee.RegionImportance().fit(F, P).w_
h = ee.RegionalProjection(samples.frame_).fit(F, w, P, g).transform(F)
print(ee.knowledge_points(h, samples.frame_, features.y).count())
figure = ee.figures.samples(g, features.y, samples.directions_, features.categories)
figure.savefig(sys.argv[2])
