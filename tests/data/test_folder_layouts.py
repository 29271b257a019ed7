"""Splits are no categories in any spelling, and labels count as people do."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from emergence_ext.data import ImageFolder, held_out, image_set, splits
from emergence_ext.data.layout import in_order


def images(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(root / folder / "0.png")
    return root


def of(root: Path, *names: str) -> Path:
    """Folders that hold the categories cat and dog."""
    return images(root, *(f"{name}/{category}" for name in names for category in ("cat", "dog")))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("train", "valid", "test"), "valid"),
        (("training", "validation"), "validation"),
        (("Train", "VAL", "Test"), "VAL"),
        (("train", "dev", "test"), "dev"),
        (("train", "eval"), "eval"),
        (("train", "validate"), "validate"),
        (("train", "evaluation"), "evaluation"),
        (("train", "test"), "test"),
        (("training_set", "test_set"), "test_set"),
        (("train2017", "val2017"), "val2017"),
        (("valid", "test"), "valid"),
        (("testing",), "testing"),
        (("train", "val", "dev"), "val"),
        (("seg_train", "seg_test"), "seg_test"),
        (("X_train", "X_val", "X_test"), "X_val"),
        (("train-80", "test-20"), "test-20"),
        (("1_train", "2_val"), "2_val"),
        (("trainval", "test"), "test"),
        (("trn", "tst"), "tst"),
    ],
)
def test_splits_are_known_in_every_spelling(
    tmp_path: Path, names: tuple[str, ...], chosen: str
) -> None:
    of(tmp_path, *names)
    assert held_out(tmp_path) == chosen
    assert ImageFolder(tmp_path, split=chosen, size=8).names == ["cat/0.png", "dog/0.png"]
    with pytest.raises(ValueError, match="choose one of them"):
        ImageFolder(tmp_path, size=8)


def test_a_split_is_asked_for_by_its_role_or_its_folder(tmp_path: Path) -> None:
    of(tmp_path, "Training", "valid")
    assert splits(tmp_path) == {"train": "Training", "val": "valid"}
    for split in ("train", "training", "Training", "val", "valid", "dev"):
        assert len(ImageFolder(tmp_path, split=split, size=8)) == 2
    with pytest.raises(ValueError, match=r"no folder 'test' in .*; it holds Training and valid"):
        ImageFolder(tmp_path, split="test", size=8)


def test_training_images_alone_have_to_be_asked_for(tmp_path: Path) -> None:
    of(tmp_path, "train")
    with pytest.raises(ValueError, match="--split train"):
        held_out(tmp_path)


def test_what_lies_beside_splits_is_no_category(tmp_path: Path) -> None:
    of(tmp_path, "train", "test")
    images(tmp_path, "images to predict")
    (tmp_path / "labels").mkdir()
    assert splits(tmp_path) == {"train": "train", "test": "test"}


def test_splits_inside_of_the_categories_are_splits_too(tmp_path: Path) -> None:
    images(tmp_path, "cat/train", "cat/val", "dog/train", "dog/validation")
    assert held_out(tmp_path) == "val"
    samples = ImageFolder(tmp_path, split="val", size=8)
    assert samples.categories == ["cat", "dog"]
    assert samples.names == ["cat/val/0.png", "dog/validation/0.png"]


def test_as_archives_unpack(tmp_path: Path) -> None:
    of(tmp_path, "pets/train/train", "pets/test")
    with pytest.raises(ValueError, match=r"holds only pets/, .*; give"):
        ImageFolder(tmp_path, size=8)
    assert ImageFolder(tmp_path / "pets", split="train", size=8).categories == ["cat", "dog"]


def test_a_folder_inside_of_a_split_is_no_category(tmp_path: Path) -> None:
    of(tmp_path, "train/images", "val/images")
    for split in splits(tmp_path):
        assert ImageFolder(tmp_path, split=split, size=8).categories == ["cat", "dog"]
    of(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    assert ImageFolder(tmp_path, split="seg_test", size=8).categories == ["cat", "dog"]
    of(tmp_path, "test/version")
    with pytest.raises(ValueError, match="say --split test/version if"):
        ImageFolder(tmp_path, split="test", size=8)
    assert ImageFolder(tmp_path, split="test/version", size=8).categories == ["cat", "dog"]


def test_images_that_are_in_no_folder_of_a_category_are_no_category(tmp_path: Path) -> None:
    images(of(tmp_path, "train"), "val/images")
    with pytest.raises(ValueError, match="holds images/ and none of the 2 categories of train/"):
        ImageFolder(tmp_path, split="val", size=8)


def test_categories_of_a_split_may_hold_folders(tmp_path: Path) -> None:
    images(tmp_path, "train/cat/indoor", "train/dog/indoor", "val/cat/indoor")
    images(tmp_path, "test/train", "test/cat")
    assert ImageFolder(tmp_path, split="train", size=8).categories == ["cat", "dog"]
    assert ImageFolder(tmp_path, split="test", size=8).categories == ["cat", "train"]
    assert ImageFolder(tmp_path, split="val", size=8).categories == ["cat"]


def test_a_category_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    images(tmp_path, "bus", "car", "train", "train/old")
    assert splits(tmp_path) == {} and held_out(tmp_path) is None
    assert ImageFolder(tmp_path, size=8).categories == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train", "test"), "hold no folders; expected test/CATEGORY/"),
        (("train",), "hold no folders"),
        (("train/cat", "train/dog", "unlabeled/1"), "beside unlabeled/; say --split train"),
        (("cat", "dog", "test/cat", "test/dog"), "test is a split and no category"),
    ],
)
def test_a_layout_that_is_none_is_refused(
    tmp_path: Path, folders: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        ImageFolder(images(tmp_path, *folders), size=8)
    assert "\n" not in str(error.value)


def test_a_folder_of_images_alone_says_what_is_missing(tmp_path: Path) -> None:
    images(tmp_path, ".")
    with pytest.raises(ValueError, match="one folder of images per category; it holds 1 images"):
        ImageFolder(tmp_path, size=8)
    assert len(image_set(tmp_path, size=8)) == 1


def test_other_categories_than_those_of_training_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(of(tmp_path, "train"), "val/cat", "val/cow")
    with caplog.at_level(logging.WARNING):
        ImageFolder(tmp_path, split="val", size=8)
    assert "other categories than the training images (cow, dog)" in caplog.text
    caplog.clear()
    images(tmp_path, *(f"val/{k}" for k in "123456"))
    with caplog.at_level(logging.WARNING):
        ImageFolder(tmp_path, split="val", size=8)
    assert "(1, 2, 3, 4, 5):" in caplog.text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([str(k) for k in range(12)], [str(k) for k in range(12)]),
        (["00", "01", "10", "2"], ["00", "01", "2", "10"]),
        (["-1", "1", "0", "-10"], ["-10", "-1", "0", "1"]),
        (["0.5", "10.0", "2.0"], ["0.5", "2.0", "10.0"]),
        (["10", "9", "cat"], ["10", "9", "cat"]),
        (["10_cat", "2_dog"], ["10_cat", "2_dog"]),
        (["n02085620", "n01440764"], ["n01440764", "n02085620"]),
    ],
)
def test_numbers_are_counted_where_all_are_numbers(names: list[str], expected: list[str]) -> None:
    assert in_order(names) == expected


def test_an_order_that_people_might_not_expect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        in_order(["0", "1", "2", "n1", "n2"])
        assert not caplog.text
        in_order(["1", "2", "10"])
        assert "output 1 is '2'" in caplog.text and "--class-map" in caplog.text
        caplog.clear()
        in_order(["1_cat", "2_dog", "10_cow"])
        assert "output 0 is '10_cow', not '1_cat'" in caplog.text
        in_order(["I", "II", "III", "IV", "V", "IX", "X"])
    assert "output 4 is 'IX', not 'V'" in caplog.text


def test_labels_follow_the_numbers(tmp_path: Path) -> None:
    samples = ImageFolder(images(tmp_path, *map(str, range(12))), size=8)
    assert samples.categories == [str(k) for k in range(12)]
    assert all(name == f"{k}/0.png" for name, k in zip(samples.names, samples.labels, strict=True))


def test_a_folder_around_the_categories_is_none(tmp_path: Path) -> None:
    of(tmp_path, "download/dataset/cat", "download/dataset/dog")
    with pytest.raises(ValueError, match=rf"holds only download/, .*; give {tmp_path}/download/da"):
        ImageFolder(tmp_path, size=8)
    assert len(ImageFolder(tmp_path / "download" / "dataset", size=8).categories) == 2


def test_one_folder_in_one_folder_is_one_category(tmp_path: Path) -> None:
    samples = ImageFolder(images(tmp_path, "cat/indoor"), size=8)
    assert samples.categories == ["cat"] and samples.names == ["cat/indoor/0.png"]


@pytest.mark.parametrize("other", ["holdout", "train_2", "mine"])
def test_what_holds_the_folders_of_a_split_is_one(other: str, tmp_path: Path) -> None:
    of(tmp_path, "train/cat", "train/dog", f"{other}/cat", f"{other}/dog")
    with pytest.raises(ValueError, match=r"with the same folders in each \(cat, dog\)"):
        ImageFolder(tmp_path, size=8)
    assert ImageFolder(tmp_path, split=other, size=8).categories == ["cat", "dog"]


def test_splits_at_the_end_of_names_are_refused(tmp_path: Path) -> None:
    of(tmp_path, "cat_train", "cat_val", "dog_train", "dog_val")
    with pytest.raises(ValueError, match="splits of categories and no categories"):
        ImageFolder(tmp_path, size=8)


def test_categories_whose_names_end_alike_are_categories(tmp_path: Path) -> None:
    images(tmp_path, "cat_train", "dog_train")
    assert ImageFolder(tmp_path, size=8).categories == ["cat_train", "dog_train"]


def test_folders_that_hold_the_same_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of(tmp_path, "fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog")
    assert ImageFolder(tmp_path, size=8).categories == ["fold1", "fold2"]
    assert "fold1 and fold2 hold the same folders (cat, dog)" in caplog.text


def test_of_many_folders_the_first_four_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path, *(f"fold{k}/{name}" for k in range(6) for name in "abcdef"))
    ImageFolder(tmp_path, size=8)
    (line,) = [text for text in caplog.messages if "the same folders" in text]
    assert line.startswith("fold0 and fold1 and fold2 and fold3 hold the same folders (a, b, c, d)")
    assert line.endswith("choose one of the former, as --split fold0")


def test_one_split_in_each_category_is_a_folder_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path, "cat/train", "dog/train")
    assert splits(tmp_path) == {}
    assert ImageFolder(tmp_path, size=8).names == ["cat/train/0.png", "dog/train/0.png"]
    assert "cat and dog hold the same folders (train) and are taken" in caplog.text


def test_folders_without_folders_are_not_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path, "cat", "dog", "one/only/cow")
    ImageFolder(tmp_path, size=8)
    ImageFolder(tmp_path / "one" / "only", size=8)
    assert "the same folders" not in caplog.text
