"""The network beside people who labelled the images."""

from __future__ import annotations

from typing import Final

import torch

from emergence_ext import figures
from emergence_ext.lookinside.annotators import PEOPLE, Agreement, Labels, agreement, read_labels
from emergence_ext.report.files import Row, interval
from emergence_ext.report.look.attributes import AMONG, network_logits
from emergence_ext.report.look.sheet import Scene, Sheet, pictures

SHOWN: Final = 12
"""Images that network and people see most differently."""


def annotators(scene: Scene) -> Sheet:
    """Compare the network with labels of annotators.

    Raises:
        ValueError: no file of labels, or one that does not fit the images and categories.
        ImportError: scikit-learn is absent.
    """
    if "annotators" not in scene.files:
        raise ValueError(
            "annotators: no labels of people are given; --annotators takes a CSV file with the "
            "columns name, annotator, label, or name and a column for each annotator"
        )
    dataset = scene.subject.dataset
    labels = read_labels(scene.files["annotators"], dataset.names, dataset.categories)
    p = network_logits(scene)[labels.index].double().softmax(1)
    compared = agreement(labels, p, torch.tensor(dataset.labels)[labels.index])
    most_apart = compared.ranked()[:SHOWN]
    return Sheet(
        "Network and people",
        f"The network beside {len(labels.annotators)} annotators on the {len(labels.index)} images "
        "that they labelled. Kappa is agreement beyond chance: Cohen's of two, Fleiss' of all "
        "annotators together. Two see an image as far apart as the network's probabilities are "
        f"from the shares of the votes (total variation). {AMONG}",
        {
            "confusion": figures.confusions(
                compared.confusion, ["network", "all labels of people"], dataset.categories
            ),
            "agreement": figures.agreement(compared.cohen, compared.raters),
            "seen_apart": figures.seen_apart(
                pictures(scene.pixels(labels.index[most_apart].tolist())),
                compared.p[most_apart],
                compared.votes[most_apart],
                compared.distance[most_apart],
                compared.y[most_apart],
                dataset.categories,
            ),
        },
        {
            "raters": _raters(compared),
            "kappa": _kappas(compared),
            "images": _images(scene, compared),
        },
        _notes(compared, labels),
    )


def _raters(compared: Agreement) -> list[Row]:
    rows: list[Row] = []
    for k, name in enumerate(compared.raters):
        accuracy, images = compared.accuracy(k)
        rows.append({"rater": name, "labels": images, **interval("accuracy", accuracy)})
    accuracy, labels = compared.human()
    return [*rows, {"rater": PEOPLE, "labels": labels, **interval("accuracy", accuracy)}]


def _kappas(compared: Agreement) -> list[Row]:
    names = compared.raters
    pairs: list[Row] = [
        {
            "kappa": "Cohen",
            "raters": f"{names[a]}, {names[b]}",
            "value": float(compared.cohen[a, b]),
        }
        for a in range(len(names))
        for b in range(a + 1, len(names))
    ]
    return [
        *pairs,
        {"kappa": "Fleiss", "raters": "people", "value": compared.fleiss},
        {"kappa": "Fleiss", "raters": "people, network", "value": compared.fleiss_with_network},
    ]


def _images(scene: Scene, compared: Agreement) -> list[Row]:
    dataset = scene.subject.dataset
    names = dataset.categories
    return [
        {
            "rank": rank,
            "image": dataset.names[int(compared.index[m])],
            "category": names[int(compared.y[m])],
            "distance": float(compared.distance[m]),
            "network says": names[int(compared.p[m].argmax())],
            "p": float(compared.p[m].max()),
            "people say most": names[int(compared.votes[m].argmax())],
            "votes for it": int(compared.votes[m].max()),
            "votes": int(compared.votes[m].sum()),
        }
        for rank, m in enumerate(compared.ranked().tolist(), start=1)
    ]


def _notes(compared: Agreement, labels: Labels) -> list[str]:
    network, images = compared.accuracy(0)
    people, count = compared.human()
    with_people = compared.cohen[0, 1:].nanmean()
    pairs = compared.cohen[1:, 1:].nanmean()
    notes = [
        f"Accuracy: network {network.value:.1%} ({network.low:.1%} to {network.high:.1%}) of "
        f"{images} images; people {people.value:.1%} ({people.low:.1%} to {people.high:.1%}) of "
        f"{count} labels.",
        f"Fleiss' kappa of the people {_text(compared.fleiss)}, with the network as one of them "
        f"{_text(compared.fleiss_with_network)}.",
        f"Cohen's kappa, mean over pairs: network and person {_text(float(with_people))}, two "
        f"people {_text(float(pairs))}.",
    ]
    if labels.unknown:
        notes.append(f"{labels.unknown} labels are of images that are not looked at: left out.")
    return notes


def _text(kappa: float) -> str:
    return f"{kappa:.2f}" if kappa == kappa else "undefined"
