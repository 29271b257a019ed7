"""A network beside people: accuracy, confusion, agreement, and the images that they see apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from emergence_ext.data import read_csv
from emergence_ext.lookup import nearest, optional, require_kind
from emergence_ext.method import Interval, proportion, takes_numpy

NETWORK: Final = "network"
PEOPLE: Final = "all people"
COLUMNS: Final = ("name", "annotator", "label")


@dataclass(frozen=True, eq=False)
class Labels:
    """What annotators said of `M` images.

    Attributes:
        annotators: names, `[A]`.
        index: of the images in the data set, `[M]`, rising.
        said: category, `[M, A]`, -1 where an annotator said nothing.
        unknown: labels in the file that are of other images.
    """

    annotators: list[str]
    index: Tensor
    said: Tensor
    unknown: int = 0


@dataclass(frozen=True, eq=False)
class Agreement:
    """A network and `A` annotators on `M` images.

    Attributes:
        raters: the network, then the annotators, `[1 + A]`.
        index: of the images in the data set, `[M]`.
        votes: how many annotators said each category, `[M, C]`.
        p: probabilities of the network, `[M, C]`.
        said: category of each rater, `[M, 1 + A]`, -1 where there is none.
        y: true categories, `[M]`.
        confusion: true against said by the network, and by all annotators together, `[2, C, C]`.
        cohen: Cohen's kappa of all pairs of raters on the images that both labelled,
            `[1 + A, 1 + A]`, NaN where it is undefined.
        fleiss: Fleiss' kappa of the annotators, NaN where it is undefined; of the images with two
            of their labels at least.
        fleiss_with_network: the same with the network as one more of them, of the same images.
        distance: between the network's probabilities and the shares of the annotators' votes, half
            the sum of absolute differences (total variation), `[M]` in 0..1.
    """

    raters: list[str]
    index: Tensor
    votes: Tensor
    p: Tensor
    said: Tensor
    y: Tensor
    confusion: Tensor
    cohen: Tensor
    fleiss: float
    fleiss_with_network: float
    distance: Tensor

    def accuracy(self, rater: int) -> tuple[Interval, int]:
        """Share of the images that a rater labelled and got right, and how many those are."""
        known = self.said[:, rater] >= 0
        right = self.said[known, rater] == self.y[known]
        return proportion(int(right.sum()), len(right)), len(right)

    def human(self) -> tuple[Interval, int]:
        """Accuracy of all labels of annotators together, and their number."""
        right = self.votes.gather(1, self.y[:, None]).sum()
        return proportion(int(right), int(self.votes.sum())), int(self.votes.sum())

    def ranked(self) -> Tensor:
        """Images by distance, the farthest first, as places in `[0, M)`."""
        return self.distance.argsort(descending=True, stable=True)


def read_labels(path: Path, names: Sequence[str], categories: Sequence[str]) -> Labels:
    r"""Read labels by annotators from a CSV file, long or wide.

    Long: a line for each label, with the columns name, annotator and label. Wide: a line for each
    image, with a column name and one for each annotator; a cell may be empty. Labels are names of
    categories. Labels of images that the data set lacks are counted and left out.

    Args:
        path: the file.
        names: of the images of the data set.
        categories: names, `[C]`.

    Raises:
        ValueError: other columns; an unknown category; two labels of an annotator for an image; an
            annotator who is called like the network; no label of any image; or what `read_csv`
            says.
        FileNotFoundError: no such file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import lookinside
        >>> _ = Path("said.csv").write_text("name,Ann,Bob\na.png,cat,dog\n")
        >>> lookinside.annotators.read_labels(Path("said.csv"), ["a.png"], ["cat", "dog"]).said
        tensor([[0, 1]])
    """
    place = {name: n for n, name in enumerate(names)}
    category = {name: c for c, name in enumerate(categories)}
    given: dict[tuple[int, str], int] = {}
    unknown = 0
    for where, name, annotator, label in _given(path):
        if not annotator:
            raise ValueError(f"{where}: a label without an annotator")
        if annotator in (NETWORK, PEOPLE):
            raise ValueError(
                f"{where}: an annotator is called {annotator!r}, which stands for others in the "
                "results; give another name"
            )
        if label not in category:
            raise ValueError(f"{where}: no category {label!r}.{nearest(label, category)}")
        if name not in place:
            unknown += 1
            continue
        key = (place[name], annotator)
        if key in given:
            raise ValueError(f"{where}: {annotator!r} labels {name!r} again")
        given[key] = category[label]
    if not given:
        raise ValueError(
            f"annotators: {path} holds no label of any of the {len(place)} images; names are as "
            f"{names[0]!r}"
        )
    index = sorted({n for n, _ in given})
    annotators = list(dict.fromkeys(annotator for _, annotator in given))
    said = [[given.get((n, annotator), -1) for annotator in annotators] for n in index]
    return Labels(annotators, torch.tensor(index), torch.tensor(said), unknown)


def _given(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Where it stands, image, annotator and label of each label in a file."""
    file = read_csv(path, "annotators")
    columns = set(file.columns)
    long = columns == set(COLUMNS)
    if "name" not in columns or len(columns) < 2 or ("label" in columns and not long):
        raise ValueError(
            f"annotators: {path} must have the columns {', '.join(COLUMNS)}, or name and a "
            f"column for each annotator; it has {', '.join(file.columns) or 'none'}"
        )
    for where, row in file.rows:
        name = row.pop("name")
        for annotator, label in [(row["annotator"], row["label"])] if long else row.items():
            if label:
                yield where, name, annotator, label


def agreement(labels: Labels, p: Tensor, y: Tensor) -> Agreement:
    r"""Hold a network against annotators, on the images that they labelled.

    Args:
        labels: what annotators said of `M` images.
        p: probabilities of the network for these, `[M, C]`.
        y: their true categories, `[M]`.

    Raises:
        ValueError: shapes that do not fit, or an image without a label.
        ImportError: scikit-learn is absent.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import lookinside
        >>> _ = Path("all.csv").write_text("name,Ann,Bob\na.png,cat,cat\nb.png,dog,dog\n")
        >>> labels = lookinside.annotators.read_labels(
        ...     Path("all.csv"), ["a.png", "b.png"], ["cat", "dog"]
        ... )
        >>> found = lookinside.annotators.agreement(
        ...     labels, torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
        ... )
        >>> found.cohen[0]
        tensor([nan, 1., 1.], dtype=torch.float64)
    """
    require_kind(labels=(labels, Labels))
    if p.ndim != 2:
        raise ValueError(f"p must be [M, C], got {list(p.shape)}")
    M, C = p.shape
    if len(labels.said) != M or y.shape != (M,):
        raise ValueError(
            f"p must be [M, C] and y [M] of the M = {len(labels.said)} labelled images, got "
            f"{list(p.shape)} and {list(y.shape)}"
        )
    votes = counts(labels.said, C)
    if not votes.any(1).all():
        raise ValueError("labels: expected at least one label an image")
    said = torch.cat([p.argmax(1)[:, None], labels.said], dim=1)
    truth = torch.nn.functional.one_hot(y, C)
    network = truth.T @ counts(said[:, :1], C)
    shares = votes / votes.sum(1, keepdim=True)
    # With the network there are two labels of every image, but of other images no comparison.
    several = votes.sum(1) > 1
    return Agreement(
        raters=[NETWORK, *labels.annotators],
        index=labels.index,
        votes=votes,
        p=p,
        said=said,
        y=y,
        confusion=torch.stack([network, truth.T @ votes]),
        cohen=_cohen(said, C),
        fleiss=fleiss_kappa(votes),
        fleiss_with_network=fleiss_kappa(counts(said[several], C)),
        distance=(p.double() - shares).abs().sum(1) / 2,
    )


@takes_numpy
def counts(said: Tensor, C: int) -> Tensor:
    """How many raters said each category, `[M, C]` of `[M, A]`, where -1 counts for nothing.

    Raises:
        ValueError: another shape, or a category outside of `[0, C)`.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.annotators.counts(torch.tensor([[0, 1, 1], [2, 2, -1]]), C=3)
        tensor([[1, 2, 0],
                [0, 0, 2]])
    """
    if said.ndim != 2 or bool(((said < -1) | (said >= C)).any()):
        raise ValueError(
            f"said: expected categories [M, A] in 0..{C - 1}, or -1 for none, got {said!r:.80}"
        )
    return torch.stack([(said == c).sum(1) for c in range(C)], dim=1)


@takes_numpy
def fleiss_kappa(votes: Tensor) -> float:
    """Agreement of raters beyond chance (Fleiss, Psychological Bulletin 76, 1971).

    `kappa = (P - P_e) / (1 - P_e)`, P the mean over images of the share of pairs of raters that
    agree, `P_e = sum_c p_c^2` of the shares of all labels. Images with fewer than two labels say
    nothing of agreement and are left out. Fleiss has as many labels for every image; where they
    differ, every image has the same weight in P and every label in p.

    Args:
        votes: how many raters said each category, `[M, C]`.

    Returns:
        NaN where it is undefined: no image with two labels, or only one category.

    Raises:
        ValueError: another shape.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.annotators.fleiss_kappa(torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
        1.0
    """
    if votes.ndim != 2:
        raise ValueError(f"votes: expected [M, C], got {list(votes.shape)}")
    votes = votes[votes.sum(1) > 1].double()
    if not len(votes):
        return float("nan")
    n = votes.sum(1)
    agreed = ((votes.square().sum(1) - n) / (n * (n - 1))).mean()
    chance = (votes.sum(0) / votes.sum()).square().sum()
    # One category alone: agreement is certain by chance.
    return float("nan") if chance == 1 else float((agreed - chance) / (1 - chance))


def _cohen(said: Tensor, C: int) -> Tensor:
    """Cohen's kappa of all pairs of columns of `[M, raters]`, by scikit-learn."""
    cohen_kappa_score = optional("sklearn.metrics", "Cohen's kappa").cohen_kappa_score
    raters = said.shape[1]
    kappa = torch.full((raters, raters), torch.nan, dtype=torch.float64)
    for a in range(raters):
        for b in range(a):
            both = (said[:, a] >= 0) & (said[:, b] >= 0)
            one, other = said[both, a], said[both, b]
            # Undefined where nobody labelled both, or both always say the same category.
            if len(one) and not (torch.cat([one, other]) == one[0]).all():
                kappa[a, b] = kappa[b, a] = cohen_kappa_score(one, other, labels=range(C))
    return kappa
