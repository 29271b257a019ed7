"""What the report says of experiments that were done with a run, each in a folder of its own."""

from __future__ import annotations

from emergence_ext.report.html.sections import FigureText, SectionText, TableText

EXPERIMENTS = (
    SectionText(
        "paper_tables",
        "Experiment: other projections, other choices",
        "The paper's two tables for this network, and what the second depends on "
        "(emergence tables).",
        (
            FigureText(
                "methods",
                "Strength and entropy, by method",
                "Pearson's r of strength with the entropy of the output (Table 1), for ours and "
                "five other projections, each with the best of its configurations; mean and 95 % "
                "interval over seeds. Images were not fitted where a method can map new ones.",
                "The lower, the more strength tells how sure the network is. Compare methods at "
                "one temperature; the mean entropy says how unsure the network is there.",
            ),
            FigureText(
                "ablation",
                "What strength and importance depend on",
                "Pearson's r of |h| with w in the last layer, mean and 95 % interval over the "
                "images that w was learned on, one choice changed at a time (Table 2); beside it "
                "that of the network's own |F|.",
                "A choice that moves the mark much is one on which Table 2 depends.",
            ),
        ),
        (
            TableText(
                "methods",
                "Table 1",
                "The figure's numbers with 95 % intervals over seeds, and the paper's range.",
            ),
            TableText(
                "importance",
                "Table 2",
                "By layer, at the run's own settings, on the images that w was learned on.",
            ),
            TableText(
                "ablation",
                "Table 2 under other choices",
                "The figure's numbers, with 95 % intervals over images.",
            ),
            TableText("paper", "The paper's own numbers", "As it prints them in Tables 1 and 2."),
            TableText(
                "configurations",
                "Configurations that were searched",
                "For Table 1, every method with the same number of them.",
            ),
        ),
    ),
    SectionText(
        "controls",
        "Experiment: controls",
        "The same fits for a network with random weights, and for outputs that belong to other "
        "images (emergence controls). What they show too is no finding.",
        (
            FigureText(
                "controls",
                "The network beside its controls",
                "Knowledge points, reliable ones and their ratio on held-out images, by layer, "
                "with 95 % intervals over images.",
                "The distance between the network's line and those of the controls is what the "
                "network adds to what fits can make of noise.",
            ),
        ),
        (
            TableText(
                "controls",
                "Controls",
                "On held-out images, with 95 % intervals over them; but accuracy is of all images, "
                "and the correlation of |h| with w of those that w was learned on.",
            ),
        ),
    ),
    SectionText(
        "attack",
        "Experiment: attack",
        "Projected gradient descent leads images astray in small steps; the regions are followed "
        "(emergence attack; Fig. 7, 8, 15).",
        (
            FigureText(
                "curves",
                "What the attack changes, by layer",
                "Regions of the images that were led astray: those important for the original "
                "and for the adversarial category before and after, change of direction and of "
                "strength, and the four types of region, with 95 % intervals over images "
                "(Fig. 8, 15).",
                "Where the changes grow with depth, the attack works in the high layers.",
            ),
            FigureText(
                "utility",
                "What important adversarial regions said before",
                "p(original category) before the attack of regions that are important for the "
                "adversarial category after it, in all images that were led astray (Fig. 8).",
                "Much weight on the left: the attack takes regions that said little before.",
            ),
            FigureText(
                "images",
                "Regions on images before and after",
                "Examples of images that were led astray, what was added to them (black and white: "
                "all that was allowed), and their important regions in the last layer (Fig. 7).",
                "From before to after, regions of the original category give way to those of the "
                "adversarial one.",
            ),
            FigureText(
                "paths",
                "Paths of regions during the attack",
                "Regional features of the same images in the last layer, step by step in the "
                "fixed frame (Fig. 7).",
                "A path leads from the ring, the clean image, to the filled mark, the end of the "
                "attack.",
            ),
            FigureText(
                "types",
                "The four types of region",
                "Examples of regions of the last layer that go from the original to the "
                "adversarial category, come to it from neither, or fall to neither (Fig. 15).",
                "Below each, the probabilities of both categories step by step; a mark and its "
                "line are one region.",
            ),
        ),
        (
            TableText(
                "success",
                "Success of the attack",
                "Of the images that were right before, with a 95 % interval (Wilson).",
            ),
            TableText(
                "changes",
                "Changes by layer",
                "Of all regions of the images led astray, with 95 % intervals over images.",
            ),
            TableText(
                "points",
                "Important regions before and after",
                "In the images led astray, with 95 % intervals over images.",
            ),
            TableText(
                "types",
                "Types of region",
                "In the images led astray, with 95 % intervals over images.",
            ),
            TableText(
                "utility",
                "What important adversarial regions said before",
                "Their number by tenth of p(original category), in the images led astray.",
            ),
            TableText("images", "Attacked images", "All that the network had right before."),
        ),
    ),
    SectionText(
        "shapley",
        "Experiment: Shapley values",
        "What each region adds to the network's own output, beside its importance w "
        "(emergence shapley; Fig. 5, 16).",
        (
            FigureText(
                "correlations",
                "Importance and Shapley values",
                "Correlation of the Shapley values of regions with w, |F|, Grad-CAM and a random "
                "w, in the images that w was learned on. A dot is an image, the mark their mean "
                "with its 95 % interval.",
                "Right of the random one: better than chance. Where an average and a linear map "
                "follow the layer, Grad-CAM is the Shapley value.",
            ),
            FigureText(
                "maps_*",
                "Shapley values and importance on images",
                "Examples of the images that w was learned on: what each region adds to the "
                "logit of the true category, and its importance w (Fig. 5, 16).",
                "Each map is scaled by its own largest value, for w named above it: a nearly "
                "uniform w is enlarged as much as a pronounced one. Where both maps have the same "
                "shape, rho is near 1.",
            ),
        ),
        (
            TableText(
                "shapley",
                "Correlation with Shapley values",
                "Mean and 95 % interval over the images that w was learned on.",
            ),
            TableText(
                "shapley_images",
                "Correlation with Shapley values, by image",
                "Every image of the figure.",
            ),
        ),
    ),
    SectionText(
        "distill",
        "Experiment: distillation",
        "Students that learned the features of this network, seen in its frame "
        "(emergence distill; Fig. 9).",
        (
            FigureText(
                "knowledge",
                "Knowledge points of teacher and students",
                "Points, reliable ones and their ratio by layer, on held-out images with 95 % "
                "intervals over them.",
                "A student below the teacher lacks what the teacher knows in that layer.",
            ),
            FigureText(
                "regions",
                "Regions of the students beside the teacher's",
                "Difference in direction and in strength, region by region of the held-out "
                "images, in one layer.",
                "At 0 the student's region says what the teacher's says. What the teacher fitted "
                "again differs by, fits alone make.",
            ),
        ),
        (
            TableText("networks", "Teacher and students", "On all images of the run."),
            TableText(
                "knowledge",
                "Knowledge points by layer",
                "With 95 % intervals over images; on held-out and on fitted ones.",
            ),
            TableText(
                "regions",
                "Differences of regions",
                "Student less teacher, on held-out images, with 95 % intervals over them.",
            ),
        ),
    ),
    SectionText(
        "foreground",
        "Experiment: points on the object",
        "The share of knowledge points that lie on the annotated object (emergence foreground; "
        "Fig. 6, 14).",
        tables=(
            TableText(
                "foreground",
                "Points on the object",
                "By layer, on the held-out images that have a box or mask, with 95 % intervals "
                "over them; beside it the object's share of the area, which is chance.",
            ),
        ),
    ),
)
"""The anchor of each is the name of its folder; a figure `name_*` stands for one of each layer."""
