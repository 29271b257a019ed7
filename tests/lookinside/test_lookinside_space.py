"""Codes in the plane and on a grid, and regions of one image found in another."""

from itertools import permutations

import pytest
import torch
from torch.nn.functional import normalize

from emergence_ext.data.annotations import read_boxes
from emergence_ext.data.csv_files import read_csv
from emergence_ext.lookinside.codes import embed, lay_out, rectangle
from emergence_ext.lookinside.correspondence import (
    correspond,
    enlarged,
    read_keypoints,
    region_centres,
    shared_keypoints,
    transfer,
)

# --- codes


def test_planted_groups_are_apart_in_the_plane():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    f = 6 * torch.eye(3)[y].repeat(1, 4) + torch.rand(60, 12, generator=generator)
    before = torch.random.get_rng_state()
    found = embed(f)
    assert torch.equal(before, torch.random.get_rng_state())
    apart = torch.cdist(found.points, found.points)
    apart.fill_diagonal_(torch.inf)
    assert torch.equal(y[apart.argmin(1)], y)
    assert found.perplexity == pytest.approx(59 / 3) and 0 < found.variance <= 1


def test_the_same_seed_gives_the_same_plane():
    f = torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(embed(f, random_state=1).points, embed(f, random_state=1).points)


@pytest.mark.parametrize("f", [torch.ones(9, 3), torch.rand(3, 3), torch.full((9, 3), torch.nan)])
def test_codes_that_cannot_be_embedded_are_refused(f):
    with pytest.raises(ValueError, match="f: expected"):
        embed(f)


@pytest.mark.parametrize("count", [*range(1, 40), 500, 997, 1000, 4000])
def test_a_grid_has_no_holes_and_leaves_few_images_out(count):
    rows, columns = rectangle(count)
    assert 1 <= rows <= columns <= 2 * rows
    assert rows * columns <= count < rows * columns + max(2, columns)


def test_points_on_a_shuffled_grid_find_back_to_their_cells():
    H, W = 4, 6
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(H * W, generator=generator)
    points = torch.stack([(order % W).float(), -(order // W).float()], dim=1)  # upwards
    noise = 0.2 * torch.rand(H * W, 2, generator=generator)
    cells = lay_out(10 * points + noise, (H, W))
    assert torch.equal(order[cells.flatten()], torch.arange(H * W))


def test_the_assignment_costs_no_more_than_any_other_of_few_points():
    points = torch.rand(6, 2, generator=torch.Generator().manual_seed(2))
    low, high = points.amin(0), points.amax(0)
    unit = (points - low) / (high - low)
    at = torch.stack([2 * unit[:, 0], 1 - unit[:, 1]], dim=1)
    cells = torch.tensor([[c, r] for r in range(2) for c in range(3)], dtype=torch.float32)

    def cost(order):
        return float((at[list(order)] - cells).square().sum())

    found = lay_out(points, (2, 3)).flatten().tolist()
    assert sorted(found) == list(range(6))
    assert cost(found) == pytest.approx(min(cost(order) for order in permutations(range(6))))


def test_a_grid_that_does_not_hold_the_points_is_refused():
    with pytest.raises(ValueError, match=r"expected \[6, 2\]"):
        lay_out(torch.rand(5, 2), (2, 3))


# --- correspondence


def test_a_permuted_image_is_matched_region_by_region():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(12, 9, generator=generator)
    order = torch.randperm(12, generator=generator)
    b = 3.0 * a[order]  # strength plays no part
    found = correspond(a, b)
    assert torch.equal(order[found.region], torch.arange(12))
    assert torch.allclose(found.cosine, torch.ones(12)) and found.mutual.all()


def test_matches_are_the_highest_cosines_and_ties_go_to_the_lowest_region():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(7, 5, generator=generator), torch.randn(11, 5, generator=generator)
    cosines = normalize(a, dim=1) @ normalize(b, dim=1).t()
    found = correspond(a, b)
    assert torch.equal(found.region, cosines.argmax(1))
    assert torch.allclose(found.cosine, cosines.amax(1), atol=1e-6)
    assert torch.equal(found.mutual, cosines.argmax(0)[found.region] == torch.arange(7))
    assert correspond(a, b[[3, 3, 3]]).region.tolist() == [0] * 7
    with pytest.raises(ValueError, match="expected regional features"):
        correspond(a, b[:, :4])


def test_transferred_keypoints_and_their_score_by_hand():
    grid = (2, 2)
    identity = correspond(torch.eye(4), torch.eye(4))
    a = torch.tensor([[0.2, 0.1], [0.9, 0.9], [1.0, 1.0]])
    b = torch.tensor([[0.25, 0.3], [0.25, 0.25], [0.75, 0.75]])
    found = transfer(identity, a, b, grid, alpha=0.1)
    assert found.place.tolist() == [[0.25, 0.25], [0.75, 0.75], [0.75, 0.75]]
    assert torch.allclose(found.distance, torch.tensor([0.05, 0.5**0.5, 0.0]), atol=1e-6)
    assert found.near.tolist() == [True, False, True]
    assert found.chance.tolist() == [0.25] * 3 and found.possible.all()
    with pytest.raises(ValueError, match=r"keypoints_b: expected \[n, 2\] in 0..1"):
        transfer(identity, a, b + 1, grid)
    with pytest.raises(ValueError, match="grid: 2 x 3 holds 6 regions"):
        transfer(identity, a, b, (2, 3))


def test_an_enlarged_part_is_found_by_what_it_shows_and_not_by_absolute_places():
    grid = (6, 6)
    # Every place shows something of its own, and the part shows it enlarged.
    x, y = region_centres(grid).t()
    part = torch.stack([torch.ones(36), 0.5 * x, 0.5 * y], dim=1)
    whole = torch.stack([torch.ones(36), x, y], dim=1)
    found = enlarged(part, whole, grid, share=0.5, alpha=0.13)
    assert found.near.all() and torch.allclose(found.chance, torch.tensor(1 / 36))
    places = torch.eye(36)  # the same feature at the same place, whatever it shows
    unmoved = enlarged(places, places, grid, share=0.5, alpha=0.13)
    expected = (0.5 * region_centres(grid)).norm(dim=1) <= 0.13
    assert torch.equal(unmoved.near, expected) and expected.float().mean() < 0.2
    with pytest.raises(ValueError, match="share: expected"):
        enlarged(places, places, grid, share=1.5)


def test_keypoints_are_read_and_paired_by_name(tmp_path):
    path = tmp_path / "keypoints.csv"
    path.write_text("name,keypoint,x,y\na.png,eye,0.5,0.25\na.png,nose,0,1\nb.png,eye,0.1,0.2\n")
    found = read_keypoints(path)
    assert found == {
        "a.png": {"eye": (0.5, 0.25), "nose": (0.0, 1.0)},
        "b.png": {"eye": (0.1, 0.2)},
    }
    a, b = shared_keypoints(found, ["a.png", "b.png"])
    assert a.tolist() == [[0.5, 0.25]] and torch.allclose(b, torch.tensor([[0.1, 0.2]]))
    assert shared_keypoints(found, ["a.png", "c.png"])[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,x,y\n", "must have the columns name, keypoint, x, y"),
        ("name,keypoint,x,y\na,eye,left,0\n", "line 2 of .* holds no numbers"),
        ("name,keypoint,x,y\na,eye,1,1\na,eye,0,0\n", "line 3 of .* names a keypoint twice"),
        ("name,keypoint,x,y\na,eye,112,30\n", "in shares of it, 0..1"),
        ("name,keypoint,x,y\na,left eye,upper,1,1\n", "line 2 of .* has more cells than the 4"),
        ("name,keypoint,x,x\n", "names the column 'x' twice"),
        ("name,keypoint,x,y\n\na,eye,1,2\n", "line 3 of .* is not in the image"),
    ],
)
def test_a_file_that_holds_no_keypoints_is_refused(tmp_path, text, told):
    path = tmp_path / "keypoints.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_keypoints(path)


@pytest.mark.parametrize("read", [read_keypoints, read_boxes])
def test_files_as_other_programs_write_them(tmp_path, read):
    path = tmp_path / "file.csv"
    plain = "name,keypoint,x,y,left,top,right,bottom\na.png,eye,0.5,0.25,0,0,1,1\n"
    path.write_text(plain)
    expected = read(path)
    path.write_bytes(b"\xef\xbb\xbf" + plain.replace(",", " , ").replace("\n", "\r\n").encode())
    assert read(path) == expected and "a.png" in expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name,a\nx,1\n\xe9,2\n", "what: line 3 of .* is not in UTF-8"),
        (b"\xef\xbb\xbfname,a\n\xe9,2\n", "what: line 2 of .* is not in UTF-8"),
        (b"name,a\nx," + 200_000 * b"y", r"what: line 2 of .* is no CSV \(field larger"),
    ],
)
def test_what_is_no_csv_is_refused_with_its_line(tmp_path, content, told):
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_csv(path, "what")
