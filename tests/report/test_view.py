"""What feeds the view: exact where numbers are counted, rounded where they are drawn, bounded."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from emergence_ext.report import view
from emergence_ext.report.beside import Experiments
from emergence_ext.report.findings import findings
from emergence_ext.report.html.write import write_page
from emergence_ext.report.planes import BITS, quantised
from emergence_ext.report.view import chosen_images, view_data
from emergence_ext.studies.compare import compare
from emergence_ext.studies.foreground import Objects, share_of_points
from tests.report.planted import planted, planted_attack, planted_page, planted_shapley


def read(text: str) -> tuple[dict[str, Any], list[bytes]]:
    data = json.loads(text)
    return data, [zlib.decompress(b64decode(frame["data"])) for frame in data["frames"]]


def shown_images(e: Any, data: dict[str, Any]) -> torch.Tensor:
    places = {name: i for i, name in enumerate(e.names)}
    return torch.tensor([places[row[0]] for row in data["images"][: data["shown"]]])


@pytest.mark.parametrize("tau", [0.4, 0.437])
def test_counts_at_every_threshold_are_those_of_the_run(tau: float) -> None:
    run = planted(tau=tau)
    e = run.emergence
    data, frames = read(view_data(run))
    assert data["taus"][data["tau"]] == pytest.approx(tau)
    images = shown_images(e, data)
    n = data["shown"] * e.grid[0] * e.grid[1]
    for t, k in ((0, 0), (2, 1)):
        content = frames[t * len(e.layers) + k][2 * 3 * n :]
        passed, category = (torch.tensor(list(content[i * n : (i + 1) * n])) for i in (0, 1))
        points = e.points(t, k).subset(images)
        assert torch.equal(category, points.category.flatten())
        for place, threshold in enumerate(data["taus"]):
            expected = points.confidence.flatten() > (tau if place == data["tau"] else threshold)
            # The list shows thresholds with six digits, the comparison had all of them.
            near = (points.confidence.flatten() - threshold).abs() < 1e-5
            assert torch.equal((passed > place)[~near], expected[~near])


def test_positions_are_rounded_by_less_than_is_seen() -> None:
    x = torch.randn(1000, 3) * 5
    scale, q = quantised(x)
    middle = 2 ** (BITS - 1)
    assert int(q.min()) >= 0 and int(q.max()) < 2**BITS
    assert ((q - middle) * scale / (middle - 1) - x).abs().max() <= 0.51 * scale / (middle - 1)
    assert quantised(torch.zeros(2, 3))[0] == 0
    assert quantised(torch.tensor([[float("nan"), float("inf"), 1.0]]))[0] == 1


def test_held_out_images_of_every_category_come_first_and_those_with_a_w_last() -> None:
    e = planted(images=60).emergence
    chosen = chosen_images(e, 6)
    assert sorted(chosen.tolist()) == list(range(60))
    weighed = torch.isin(chosen, e.region_images)
    assert weighed.any() and not weighed[: -int(weighed.sum())].any()
    few = planted(images=3000, grid=(2, 2), checkpoints=1, layers=1).emergence
    chosen = chosen_images(few, 1)
    assert len(chosen) == view.IMAGES == len(chosen.unique())
    others = chosen[~torch.isin(chosen, few.region_images)]
    assert bool(few.held_out[others].all())
    counts = torch.bincount(few.y[others])
    assert int(counts.max() - counts.min()) <= 1


def test_the_room_bounds_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted(images=300, grid=(5, 5))
    whole = view_data(run)
    monkeypatch.setattr(view, "ROOM", len(whole) // 6)
    data, _ = read(view_data(run))
    assert 8 <= data["shown"] < 300 == data["total"]
    frames = sum(len(frame["data"]) for frame in data["frames"])
    assert frames < len(whole) // 6


def test_misread_images_are_listed_though_their_regions_are_not_shown() -> None:
    run = planted(images=1500, grid=(1, 2), checkpoints=1, layers=1)
    data, _ = read(view_data(run))
    assert len(data["images"]) == data["shown"] + view.LISTED
    assert all(y != says for _, y, says, *_ in data["images"][data["shown"] :])
    names = [row[0] for row in data["images"]]
    assert len(names) == len(set(names))


def test_more_than_three_dimensions_keep_what_regions_say() -> None:
    run = planted(dim=5)
    data, _ = read(view_data(run))
    mu, turned = run.emergence.frame.directions, torch.tensor(data["directions"])
    assert turned.shape == mu.shape
    assert torch.allclose(turned @ turned.t(), mu @ mu.t(), atol=1e-4)
    spread = turned.square().sum(0)
    assert bool((spread[:-1] >= spread[1:] - 1e-4).all())


def positions(frame: dict[str, Any], n: int, dim: int = 3) -> torch.Tensor:
    content = torch.tensor(list(zlib.decompress(b64decode(frame["data"]))))
    low, high = content[: 2 * dim * n].view(dim, 2, n).unbind(1)
    middle = 2 ** (BITS - 1)
    return ((low + (high << 8) - middle) * frame["scale"] / (middle - 1)).t()


def test_attacked_images_and_another_run_stand_beside_the_run() -> None:
    run, other = planted(), planted(checkpoints=1)
    e, attack = run.emergence, planted_attack(run)
    other.emergence = replace(other.emergence, h=other.emergence.h + 0.5)
    compared = compare(e, other.emergence, names=("mine epoch 4", "theirs epoch 0"))
    own = compare(e, e, 0, 1, names=("epoch 0", "epoch 2"))
    data, _ = read(view_data(run, Experiments(attack, None, [own, compared])))
    # Of one run's own checkpoints the page has the positions already.
    assert [each["label"] for each in data["beside"]] == ["attacked, eps 0.1", "theirs epoch 0"]
    images = shown_images(e, data)
    attacked, theirs = data["beside"]
    astray = [attack.names[i] for i in attack.astray]
    assert [e.names[images[n]] for n in attacked["images"]] == [
        e.names[i] for i in images if e.names[i] in astray
    ]
    at = positions(attacked["frames"][-1], data["shown"] * 12).view(-1, 12, 3)
    clean = e.h[-1, -1, images]
    known = torch.zeros(len(images), dtype=torch.bool)
    known[attacked["images"]] = True
    assert torch.allclose(at[known], -clean[known], atol=0.02)
    assert not at[~known].any() or float(at[~known].abs().max()) < 0.02
    assert attacked["says"][attacked["images"][0]] != data["images"][attacked["images"][0]][1]
    assert theirs["images"] == list(range(data["shown"])) and theirs["of"] == 2
    at = positions(theirs["frames"][0], data["shown"] * 12).view(-1, 12, 3)
    assert torch.allclose(at, other.emergence.h[-1, 0, images], atol=0.02)


def test_shapley_values_are_on_the_page_where_there_are_some() -> None:
    run = planted()
    s = planted_shapley(run)
    data, _ = read(view_data(run, Experiments(shapley=s)))
    images = shown_images(run.emergence, data)
    assert data["shapley"]["layers"][0] is None
    found = positions(data["shapley"]["layers"][1], len(data["shapley"]["images"]) * 12, dim=1)
    names = [run.emergence.names[images[n]] for n in data["shapley"]["images"]]
    rows = [s.names.index(name) for name in names]
    assert torch.allclose(found.view(-1, 12), s.values[0, rows], atol=0.01)
    assert read(view_data(run))[0]["shapley"] is None


def test_names_cannot_leave_the_data() -> None:
    evil = "</script><script>alert(1)</script>"
    text = view_data(planted(categories=(evil, "b\u202ec", "<!--"), names=(evil,)))
    assert not set("<>&") & set(text)
    data = json.loads(text)
    assert data["categories"][0] == evil and evil in [row[0] for row in data["images"]]
    assert "\u202e" not in data["categories"][1]


def test_findings_say_what_the_numbers_say() -> None:
    run = planted(images=90)
    e = run.emergence
    found = findings(run)
    texts = [x.text.replace("\u00a0", " ") for x in found]
    begins = "The network gets 67 % (56 to 76) of the 90 images right and misreads 30, most often "
    assert texts[0].startswith(begins)
    last = e.held_out_counts[-1][-1].ratio
    assert last is not None
    said = f"{100 * last.value:.0f} % ({100 * last.low:.0f} to {100 * last.high:.0f})"
    assert any(said in text and "conv2" in text for text in texts)
    assert any(" right between these two" in text for text in texts)
    assert all("\u00a0%" in x.text for x in found if "%" in x.text)  # which no line ends before
    attack = planted_attack(run)
    told = findings(run, attack)[-1]
    assert f"lead {len(attack.astray)} of {len(attack.names)} images astray" in told.text
    assert "\u22121.00 (\u22121.00 to \u22121.00)" in told.text and told.view == "beside=x0"
    pairs = Counter(zip(attack.original.tolist(), attack.adversarial.tolist(), strict=True))
    most = max(pairs.values())
    names = [[attack.categories[c] for c in pair] for pair, n in pairs.items() if n == most]
    assert any(f"most often {' to '.join(x)} ({most} times)" in told.text for x in names)
    single = findings(planted(checkpoints=1, layers=1))
    assert not any("epoch" in x.text for x in single)


def test_findings_say_where_points_lie_once_that_is_known() -> None:
    run = planted(images=90)
    e = run.emergence
    question = "Do knowledge points lie on the object?"
    assert question not in [x.question for x in findings(run)]
    objects = Objects(e.names, torch.rand(90, 12, generator=torch.manual_seed(0)) < 0.25)
    (told,) = [x for x in findings(run, objects=objects) if x.question == question]
    share = share_of_points(e, objects)
    assert share.points is not None and told.view == "l=1"
    assert told.text.startswith(f"conv2: {100 * share.points.value:.0f}\u00a0% (")
    assert f"by chance {100 * share.area:.0f}\u00a0%, its share of the area. In conv1 " in told.text


def test_the_title_says_what_was_analysed(tmp_path: Any) -> None:
    page = planted_page(tmp_path / "run", planted()).read_text(encoding="utf-8")
    assert "<title>tiny on animals</title>" in page
    assert "3 categories, 1 checkpoint, 2 layers. The finished network gets 66.7\u00a0%" in page
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text('{"format_version": 1}')
    page = write_page(tmp_path / "plain").read_text(encoding="utf-8")
    assert "<title>What the network learned, where and when</title>" in page
    assert 'id="view"' not in page and "view-data" not in page
    (tmp_path / "plain" / "config.json").write_text(
        '{"format_version": 1, "categories": ["a cat", "a dog", "c", "d", "e"]}'
    )
    page = write_page(tmp_path / "plain").read_text(encoding="utf-8")
    assert "<title>What a network learned of a cat, a dog, c and 2 more</title>" in page
