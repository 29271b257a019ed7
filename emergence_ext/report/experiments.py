"""What the report says of experiments that were done with a run, each in a folder of its own."""

from __future__ import annotations

from .sections import FigureText, SectionText, TableText

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
                "Mean Pearson's r of |h| with w over images, one choice changed at a time "
                "(Table 2); beside it that of the network's own |F|.",
                "A choice that moves the mark much is one on which Table 2 depends.",
            ),
        ),
        (
            TableText("methods", "Table 1", "The figure's numbers, and the paper's range."),
            TableText("importance", "Table 2", "By layer, at the run's own settings."),
            TableText("ablation", "Table 2 under other choices", "The figure's numbers."),
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
                "Knowledge points, reliable ones and their ratio on held-out images, by layer.",
                "The distance between the network's line and those of the controls is what the "
                "network adds to what fits can make of noise.",
            ),
        ),
        (TableText("controls", "Controls", "The figure's numbers."),),
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
                "Regions important for the true and for the adversarial category before and "
                "after, change of direction and of strength, and the four types of region, with "
                "95 % intervals over images.",
                "Where the changes grow with depth, the attack works in the high layers.",
            ),
            FigureText(
                "utility",
                "What important adversarial regions said before",
                "p(true category) in the original image of regions that are important for the "
                "adversarial category after the attack (Fig. 8).",
                "Much weight on the left: the attack takes regions that said little before.",
            ),
            FigureText(
                "images",
                "Regions on images before and after",
                "Images that were led astray, what was added to them (enlarged), and their "
                "important regions (Fig. 7).",
                "Regions vanish from the true category's picture and appear in the other one.",
            ),
            FigureText(
                "paths",
                "Paths of regions during the attack",
                "Regional features step by step in the fixed frame (Fig. 7).",
                "A path leads from the ring, the clean image, to the filled mark, the end of the "
                "attack.",
            ),
            FigureText(
                "types",
                "The four types of region",
                "Examples of regions that go from the original to the adversarial category, come "
                "to it from neither, or fall to neither (Fig. 15).",
                "Below each, the probabilities of both categories step by step; a mark and its "
                "line are one region.",
            ),
        ),
        (
            TableText("success", "Success of the attack", ""),
            TableText("changes", "Changes by layer", "With 95 % intervals over images."),
            TableText("points", "Important regions before and after", ""),
            TableText("types", "Types of region", ""),
            TableText("utility", "Utility before the attack", ""),
            TableText("images", "Attacked images", ""),
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
                "Correlation within each image of the Shapley values with w, |F|, Grad-CAM and a "
                "random w.",
                "Right of the random one: better than chance. Where an average and a linear map "
                "follow the layer, Grad-CAM is the Shapley value.",
            ),
        ),
        (
            TableText("shapley", "Correlation with Shapley values", "Mean and 95 % interval."),
            TableText("shapley_images", "Correlation with Shapley values, by image", ""),
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
                "Points, reliable ones and their ratio by layer, held-out images.",
                "A student below the teacher lacks what the teacher knows in that layer.",
            ),
            FigureText(
                "regions",
                "Regions of the students beside the teacher's",
                "Difference in direction and in strength, region by region, in one layer.",
                "At 0 the student's region says what the teacher's says.",
            ),
        ),
        (
            TableText("networks", "Teacher and students", ""),
            TableText("knowledge", "Knowledge points by layer", ""),
            TableText("regions", "Differences of regions", ""),
        ),
    ),
    SectionText(
        "foreground",
        "Experiment: points on the object",
        "The share of knowledge points that lie on the annotated object (emergence foreground; "
        "Fig. 6, 14).",
        tables=(TableText("foreground", "Points on the object", "By layer."),),
    ),
)
"""The anchor of each is the name of its folder."""
