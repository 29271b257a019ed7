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
    found = agreement(labels, p, torch.tensor(dataset.labels)[labels.index])
    shown = found.ranked()[:SHOWN]
    return Sheet(
        "Network and people",
        f"The network beside {len(labels.annotators)} annotators on the {len(labels.index)} images "
        "that they labelled. Kappa is agreement beyond chance: Cohen's of two, Fleiss' of all "
        "annotators together. Two see an image as far apart as the network's probabilities are "
        f"from the shares of the votes (total variation). {AMONG}",
        {
            "confusion": figures.confusions(
                found.confusion, ["network", "all labels of people"], dataset.categories
            ),
            "agreement": figures.agreement(found.cohen, found.raters),
            "seen_apart": figures.seen_apart(
                pictures(scene.pixels(labels.index[shown].tolist())),
                found.p[shown],
                found.votes[shown],
                found.distance[shown],
                found.y[shown],
                dataset.categories,
            ),
        },
        {"raters": _raters(found), "kappa": _kappas(found), "images": _images(scene, found)},
        _notes(found, labels),
    )


def _raters(found: Agreement) -> list[Row]:
    rows: list[Row] = []
    for k, name in enumerate(found.raters):
        accuracy, images = found.accuracy(k)
        rows.append({"rater": name, "labels": images, **interval("accuracy", accuracy)})
    accuracy, labels = found.human()
    return [*rows, {"rater": PEOPLE, "labels": labels, **interval("accuracy", accuracy)}]


def _kappas(found: Agreement) -> list[Row]:
    names = found.raters
    pairs: list[Row] = [
        {"kappa": "Cohen", "raters": f"{names[a]}, {names[b]}", "value": float(found.cohen[a, b])}
        for a in range(len(names))
        for b in range(a + 1, len(names))
    ]
    return [
        *pairs,
        {"kappa": "Fleiss", "raters": "people", "value": found.fleiss},
        {"kappa": "Fleiss", "raters": "people, network", "value": found.fleiss_with_network},
    ]


def _images(scene: Scene, found: Agreement) -> list[Row]:
    dataset = scene.subject.dataset
    names = dataset.categories
    return [
        {
            "rank": rank,
            "image": dataset.names[int(found.index[m])],
            "category": names[int(found.y[m])],
            "distance": float(found.distance[m]),
            "network says": names[int(found.p[m].argmax())],
            "p": float(found.p[m].max()),
            "people say most": names[int(found.votes[m].argmax())],
            "votes for it": int(found.votes[m].max()),
            "votes": int(found.votes[m].sum()),
        }
        for rank, m in enumerate(found.ranked().tolist(), start=1)
    ]


def _notes(found: Agreement, labels: Labels) -> list[str]:
    network, images = found.accuracy(0)
    people, count = found.human()
    with_people = found.cohen[0, 1:].nanmean()
    pairs = found.cohen[1:, 1:].nanmean()
    notes = [
        f"Accuracy: network {network.value:.1%} ({network.low:.1%} to {network.high:.1%}) of "
        f"{images} images; people {people.value:.1%} ({people.low:.1%} to {people.high:.1%}) of "
        f"{count} labels.",
        f"Fleiss' kappa of the people {_told(found.fleiss)}, with the network as one of them "
        f"{_told(found.fleiss_with_network)}.",
        f"Cohen's kappa, mean over pairs: network and person {_told(float(with_people))}, two "
        f"people {_told(float(pairs))}.",
    ]
    if labels.unknown:
        notes.append(f"{labels.unknown} labels are of images that are not looked at: left out.")
    return notes


def _told(kappa: float) -> str:
    return f"{kappa:.2f}" if kappa == kappa else "undefined"
