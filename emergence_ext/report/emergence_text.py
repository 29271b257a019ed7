"""What the report says of a run: its sections in reading order, and how to read each figure."""

from __future__ import annotations

from emergence_ext.report import learning
from emergence_ext.report.words import FigureText, SectionText, TableText

SECTIONS = (
    SectionText(
        "samples",
        "The samples",
        "The network's own view of whole images: each image's feature is projected to three "
        "dimensions so that its direction tells the category and its length tells how sure the "
        "network is.",
        (
            FigureText(
                "samples",
                "Samples and category directions",
                "Projected sample features g = M f of the held-out images in the last checkpoint, "
                "seen from two sides; the revised von Mises-Fisher mixture of Eq. 1-6 and 15.",
                "Every mark is an image. The closer it lies to a ray, the more the network takes "
                "it for that category; the farther from the centre, the surer it is. The bold "
                "part of a ray is the mean strength of its category, the grey sphere the scale of "
                "strengths. Dashed rays point away from you. Images between two rays are those "
                "that the network is unsure about.",
            ),
            FigureText(
                "confidence_map",
                "What a sample feature says, wherever it lies",
                "The classification probability p(y|g) of the frame (after Fig. 17), with the "
                "held-out images in the last checkpoint. Of three dimensions the whole sphere of "
                "one strength, the median of those images, is shown as a map that keeps areas; "
                "images lie on it by their direction alone.",
                "The colour is that of the most probable category, lines join places of equal "
                "probability. Neighbours on the map are what the network can mix up; a category "
                "with much room is one that few others come near. A mark on ground of another "
                "colour is an image that its feature does not speak for.",
            ),
            FigureText(
                "category_similarity",
                "Which categories are alike",
                "Cosines between the category directions mu.",
                "+1: the two categories lie in the same direction, the network hardly tells them "
                "apart; 0: unrelated; below 0: opposite. In three dimensions ten directions cannot "
                "all be far from each other, so compare the pairs, not the single values.",
            ),
        ),
        (
            TableText(
                "similarity",
                "Similarity of categories",
                "The figure's numbers, and regions that both share.",
            ),
        ),
    ),
    SectionText(
        "training",
        "When: through training",
        "The same frame is held fixed for all checkpoints, so whatever moves here is learning and "
        "not a turn of the picture.",
        (
            FigureText(
                "samples_through_epochs",
                "Samples, checkpoint by checkpoint",
                "Projected sample features of the held-out images in the frame of the last "
                "checkpoint (after Fig. 11). The share beside a title is the network's accuracy "
                "on all images analysed.",
                "The last checkpoint sets the scale of all panels; images that are stronger than "
                "it are drawn on the sphere, and counted. A heap at the centre: the network says "
                "nothing yet. As it learns, images move out, each along its category's ray.",
            ),
            FigureText(
                "regions_through_epochs",
                "Regions, checkpoint by checkpoint",
                "Projected regional features h = Lambda F of the last analysed layer, on held-out "
                "images (after Fig. 3; Eq. 7-10). Each ellipsoid holds half of the Gaussian fitted "
                "to a category's regions.",
                "Every mark is one region of one image. Ellipsoids that come apart and stretch "
                "along their rays say that parts of the image alone have become enough to tell "
                "the category. Regions that are stronger than the scale are drawn on the sphere, "
                "and counted. The last panel follows the means on a scale of its own; the "
                "thicker, the later.",
            ),
            FigureText(
                "knowledge_through_epochs",
                "Knowledge points through training",
                "Regions of held-out images with max p(y|h) above tau, those among them that are "
                "right, their ratio, and regions whose two best categories are within 0.1 of each "
                "other; with 95 % bootstrap intervals over images (after Fig. 6; Sec. 3.4).",
                "More points: more regions speak for some category. A higher reliable ratio: they "
                "speak for the right one more often. A cross on the axis marks a checkpoint "
                "without any knowledge point, where no ratio exists.",
            ),
        ),
    ),
    SectionText(
        "learning",
        "How fast: the way to the points",
        "How early the points of an image are there, how simultaneously those of all images, and "
        "how steadily training kept its direction.",
        (learning.FIGURE,),
        (learning.TABLE,),
    ),
    SectionText(
        "layers",
        "Where in depth: through the layers",
        "All layers are brought to the same number of regions and the same mean strength before "
        "they are compared.",
        (
            FigureText(
                "regions_through_layers",
                "Regions, layer by layer",
                "Regions of held-out images in the last checkpoint, only those that are reliable "
                "knowledge points in the last layer (after Fig. 4).",
                "The floor is the plane in which the categories' directions spread most, the "
                "height is the probability of the true category. Regions that lie low in early "
                "layers and high in late ones became discriminative on the way. The dashed ring "
                "is tau. All regions end above it because they were chosen so; what tells is how "
                "early they rise.",
            ),
            FigureText(
                "knowledge_through_layers",
                "Knowledge points through the layers",
                "The counts and the ratio on held-out images, along depth (after Fig. 6).",
                "A line is a checkpoint, the stronger the later. Where a line begins to rise is "
                "the depth at which the regions start to carry the category.",
            ),
        ),
        (
            TableText(
                "knowledge",
                "Knowledge points",
                "Counts and ratios by checkpoint and layer, with 95 % bootstrap intervals over "
                "images in brackets; on held-out images and, for comparison, on fitted ones.",
            ),
        ),
    ),
    SectionText(
        "regions",
        "Where in the image",
        "The same regions, back on the images they come from.",
        (
            FigureText(
                "point_regions",
                "The image regions of knowledge points",
                "Held-out images, each beside its regions in the last analysed layer of the last "
                "checkpoint; knowledge points have max p(y|h) above tau (after Fig. 6).",
                "The stronger the colour, the more a region says the true category. Outlined "
                "regions are knowledge points for the true category, hatched ones for another; "
                "the rest are none. A region sees more of the image than its own square, so the "
                "outlines are centres rather than borders.",
            ),
            FigureText(
                "shared_regions",
                "Regions that two categories share",
                "Held-out images with regions in the last analysed layer that are knowledge points "
                "for one category and nearly as much for another: within 0.1 (after Fig. 2, 10).",
                "What is not veiled says both categories alike. Pairs with many such regions and a "
                "cosine near 1 are those that the network sees as similar; the regions show what "
                "the two have in common.",
            ),
            FigureText(
                "importance_maps",
                "Region importance",
                "The importance w of every region in the last analysed layer (Eq. 11 and 12), on "
                "images that it was learned on: it exists for no others.",
                "1 (white) is the share of a region if all mattered equally. Regions above it are "
                "those by which the network tells which images are alike, regions below it "
                "count for less. Nearly white maps: no region stands out.",
            ),
        ),
    ),
    SectionText(
        "certainty",
        "How certain",
        "Two checks that the pictures mean what they seem to mean, and how much the counts depend "
        "on the threshold.",
        (
            FigureText(
                "strength_entropy",
                "Strength and certainty",
                "Entropy of the network's output over the strength |g|, beside the distance from "
                "the mean in as many principal components (Table 1). Every image is drawn as a "
                "projection sees it that was not fitted to it.",
                "If strength stands for certainty, the marks fall from the upper left to the "
                "lower right and r is near minus one. A network that is sure of everything leaves "
                "nothing to correlate: read r together with the mean entropy (dashed). r is that "
                "of the entropy itself, on a logarithmic axis too.",
            ),
            FigureText(
                "importance_strength",
                "Strength and importance",
                "Strength |h| of the regions over their importance w, and Pearson's r within "
                "each image, in the last layer and on the images that w was learned on (Table 2).",
                "The farther right the histogram, the more strength and importance agree on which "
                "regions matter. The dashed one is the strength |F| of the network's own features "
                "before any projection: what the projection adds is the distance between the two. "
                "h was learned with the regions weighed by w, so this is no independent test.",
            ),
            FigureText(
                "tau_curve",
                "Knowledge points over the threshold",
                "Counts and ratio on held-out images of the last checkpoint for every tau; the "
                "dashed line is the one used elsewhere.",
                "If the order of the layers is the same along the whole curve, the conclusion "
                "does not hang on the choice of tau.",
            ),
        ),
        (
            TableText(
                "correlations",
                "Correlations",
                "Pearson's r of strength and entropy at several temperatures of the network's "
                "softmax, beside that of principal components and the mean entropy: on images "
                "left out of the fit (every image once, by folds) and on fitted ones.",
            ),
            TableText(
                "importance",
                "Strength and importance",
                "Pearson's r of strength and importance within each image, mean and standard "
                "deviation over the images that w was learned on, by layer of the last checkpoint "
                "and weight alpha of the alignment (Table 2); beside it that of the network's own "
                "features F.",
            ),
        ),
    ),
    SectionText(
        "fits",
        "The fits",
        "Every projection is the result of an optimisation. These are their courses.",
        (
            FigureText(
                "losses",
                "Losses",
                "The best loss so far by evaluation, of the sample projection (Eq. 4), the region "
                "importance (Eq. 12) and the regional projection (Eq. 7-10).",
                "A curve that is flat at its end has converged; one that still falls was stopped "
                "by its limit of evaluations, which the table says too. Compare the course of the "
                "curves rather than their heights: each checkpoint has other similarities to fit.",
            ),
        ),
        (
            TableText(
                "fits",
                "Fits",
                "Evaluations, first and last loss, seconds, why each fit stopped, and the parts of "
                "its last loss.",
            ),
        ),
    ),
)

IMAGES_TABLE = TableText(
    "images",
    "Images",
    "Every image that was analysed, as the last checkpoint and its last analysed layer see it: the "
    "misread first, the surest of them first, then those that the network is the least sure of. Of "
    "a run that streamed its images some thousand are here; emergence export writes all.",
)
