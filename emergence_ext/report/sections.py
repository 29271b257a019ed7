"""What the report says: its sections in reading order, and how to read each figure and table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureText:
    """The words around one figure."""

    name: str  # the file is figures/NAME.png
    title: str
    caption: str
    reading: str


@dataclass(frozen=True)
class TableText:
    """The words around one table."""

    name: str  # the file is tables/NAME.csv
    title: str
    caption: str


@dataclass(frozen=True)
class SectionText:
    """One section: an introduction, then its figures and tables."""

    anchor: str
    title: str
    intro: str
    figures: tuple[FigureText, ...] = ()
    tables: tuple[TableText, ...] = ()


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
                "Projected sample features g = M f of the last checkpoint, seen from two sides; "
                "the revised von Mises-Fisher mixture of Eq. 1-6 and 15.",
                "Every mark is an image. The closer it lies to a ray, the more the network takes "
                "it for that category; the farther from the centre, the surer it is. The bold "
                "part of a ray is the mean strength of its category. Dashed rays point away from "
                "you. Images between two rays are those that the network confuses.",
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
        (TableText("similarity", "Cosines of category directions", "The figure's numbers."),),
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
                "Projected sample features in the frame of the last checkpoint (after Fig. 11).",
                "Early on, the images lie in one heap near the centre: the network knows nothing "
                "of them yet. They leave it in the direction of their category as it learns.",
            ),
            FigureText(
                "regions_through_epochs",
                "Regions, checkpoint by checkpoint",
                "Projected regional features h = Lambda F of the last analysed layer (after "
                "Fig. 3; Eq. 7-10). Each ellipsoid holds half of the Gaussian fitted to a "
                "category's regions.",
                "Every mark is one region of one image. Ellipsoids that come apart and stretch "
                "along their rays say that parts of the image alone have become enough to tell "
                "the category. The last panel follows the means; the thicker, the later.",
            ),
            FigureText(
                "knowledge_through_epochs",
                "Knowledge points through training",
                "Regions with max p(y|h) above tau, those among them that are right, and their "
                "ratio, with bootstrap intervals over images (after Fig. 6; Sec. 3.4).",
                "More points: more regions speak for some category. A higher reliable ratio: they "
                "speak for the right one more often. A cross on the axis marks a checkpoint "
                "without any knowledge point, where no ratio exists.",
            ),
        ),
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
                "Only regions that are reliable knowledge points in the last layer (after Fig. 4).",
                "The floor is the space of directions seen from above, the height is the "
                "probability of the true category. Regions that lie low in early layers and high "
                "in late ones became discriminative on the way. The dashed ring is tau.",
            ),
            FigureText(
                "knowledge_through_layers",
                "Knowledge points through the layers",
                "The counts and the ratio of the section above, along depth (after Fig. 6).",
                "A line is a checkpoint, the darker the later. Where a line begins to rise is the "
                "depth at which the regions start to carry the category.",
            ),
        ),
        (
            TableText(
                "knowledge",
                "Knowledge points",
                "Counts and ratios by checkpoint and layer, with their intervals.",
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
                "Regions of the last analysed layer with max p(y|h) above tau (after Fig. 6).",
                "Regions in colour are knowledge points; the dark rest says little about the "
                "category. A yellow solid outline: for the true category. A white dashed one: for "
                "another. The number is the highest p in the image. A region sees more of the "
                "image than its own square, so the outlines are centres rather than borders.",
            ),
            FigureText(
                "importance_maps",
                "Region importance",
                "The importance w of every region (Eq. 11 and 12).",
                "1 is the share of a region if all mattered equally. Bright regions are those by "
                "which the network tells this image's neighbours from the others.",
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
                "Entropy of the network's output over the strength |g| (Table 1).",
                "If strength stands for certainty, the marks fall from the upper left to the "
                "lower right and r is near minus one. A network that is sure of everything leaves "
                "nothing to correlate: read r together with the mean entropy (dashed).",
            ),
            FigureText(
                "importance_strength",
                "Strength and importance",
                "Strength |h| of the regions over their importance w, and Pearson's r within "
                "each image (Table 2).",
                "Strength and importance are learned apart from each other. The farther right the "
                "histogram, the more they agree on which regions matter.",
            ),
            FigureText(
                "tau_curve",
                "Knowledge points over the threshold",
                "Counts and ratio for every tau; the dashed line is the one used elsewhere.",
                "If the order of the layers is the same along the whole curve, the conclusion "
                "does not hang on the choice of tau.",
            ),
        ),
        (
            TableText(
                "correlations",
                "Correlations",
                "Pearson's r with its interval, beside the baselines' and the mean entropy.",
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
                "Loss by iteration of the sample projection (Eq. 4), the region importance "
                "(Eq. 12) and the regional projection (Eq. 7-10).",
                "A curve that is flat at its end has converged; one that still falls was stopped "
                "by its limit of iterations, which the table says too.",
            ),
        ),
        (
            TableText(
                "fits",
                "Fits",
                "Iterations, last loss, seconds, and why each fit stopped.",
            ),
        ),
    ),
)

IMAGES_TABLE = TableText("images", "Images", "Every image that was analysed.")
