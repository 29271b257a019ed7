"""How a folder of images is laid out: its splits, its categories, and the order of these."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Final

from emergence_ext.data.decode import EXTENSIONS
from emergence_ext.data.scan import is_result, listed, subfolders
from emergence_ext.lookup import path_named

__all__ = ["categories_of", "held_out", "in_order", "splits"]

logger = logging.getLogger(__name__)

_SPELLINGS: Final = {
    "train": ("train", "training", "trainval", "train_val", "trn", "tr"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "te"),
}
_ROLE: Final = {word: role for role, words in _SPELLINGS.items() for word in words}
_HOLDERS: Final = ("set", "data", "dataset", "images", "image", "imgs", "img", "split")
_SPLIT: Final = re.compile(
    rf"({'|'.join(_ROLE)})[ _.-]*({'|'.join(_HOLDERS)})?[ _.-]*((19|20)\d\d)?"
)
"""`train`, `Training_set`, `val2017`."""
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_ROMAN: Final = re.compile(r"(?=.)C{0,3}(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})", re.IGNORECASE)


@dataclass(frozen=True)
class _Layout:
    """Splits by role, and whether they lie inside of the categories: `CATEGORY/train`."""

    splits: dict[str, str]
    inside: bool = False


def splits(root: Path | str) -> dict[str, str]:
    """Name the splits of a folder: `train`, `val` and `test`, those that there are, in that order.

    Folders are splits, in any usual spelling (`training`, `Valid`, `dev`, `test_set`, or with the
    same beside it, `seg_train` and `seg_test`), where they hold the folders of the categories and
    either nothing but splits holds images or there are two of them; or, the other way round, where
    every category holds them. So a category that is called `test` beside `cat` and `dog` is none.

    Returns:
        Role -> name of the folder.

    Examples:
        >>> from emergence_ext import data
        >>> data.splits("photos")  # photos/train, photos/val; none here: its folders are categories
        {}
    """
    return _layout(path_named(root, "root")).splits


def held_out(root: Path | str) -> str | None:
    """Choose the split to analyse: the validation one, else the test one, None without splits.

    Raises:
        ValueError: there is only one to train on.

    Examples:
        >>> from emergence_ext import data
        >>> data.held_out("photos") is None
        True
    """
    present = splits(root)
    chosen = next((role for role in ("val", "test") if role in present), None)
    if present and chosen is None:
        name = present["train"]
        raise ValueError(
            f"split: {root} holds {name}/ and neither validation nor test images in folders of "
            f"their categories; to take those of {name}/, say --split {name}"
        )
    return present[chosen] if chosen else None


def categories_of(root: Path, split: str | None) -> tuple[Path, list[tuple[str, Path]]]:
    """Find the folders of the categories.

    Args:
        root: the folder.
        split: name or role of a split; None where the folder itself holds the categories.

    Returns:
        The folder that holds them, and their names and folders in order, see `in_order`.

    Raises:
        ValueError: no such folder or split, a layout that is none, or a split that has to be
            chosen; the text says which there are.
    """
    if root.is_file():
        raise ValueError(
            f"root: {root} is a file, expected a folder with one folder of images per category"
        )
    if not root.is_dir():
        raise ValueError(f"root: no folder {root}")
    if is_result(root):
        raise ValueError(
            f"root: {root} holds the results of an earlier run (config.json) beside its folders; "
            "move the images, or the results, to a folder of their own"
        )
    layout = _layout(root)
    if split is None:
        if layout.splits:
            names = " and ".join(layout.splits.values())
            raise ValueError(f"split: {root} holds {names}; choose one of them")
        _refuse_what_only_looks_like_categories(root)
        holder, folders = root, {path.name: path for path in subfolders(root)}
    elif layout.inside:
        holder, folders = root, _inside(root, split, layout)
    else:
        holder = _split_folder(root, split, layout)
        folders = {path.name: path for path in subfolders(holder)}
        inner = _unwrapped(list(folders.values()))
        if inner is not None:
            held = " and ".join(path.name for path in subfolders(inner)[:4])
            raise ValueError(
                f"split: {holder} holds only {next(iter(folders))}/, and below it {held}; say "
                f"--split {inner.relative_to(root)} if those are the categories"
            )
        _say_what_differs(root, holder, layout, set(folders))
    if not folders:
        images = _images_in(holder)
        raise ValueError(
            f"root: {holder} holds no folders, expected one folder of images per category"
            + (f"; it holds {images} images that belong into those" if images else "")
        )
    return holder, [(name, folders[name]) for name in in_order(list(folders))]


def in_order(names: Sequence[str]) -> list[str]:
    """Put names of categories in the order of the labels: by number where all are numbers.

    Else by character, as torchvision does; where people would count otherwise, the log says so.
    """
    alphabetical = sorted(names)
    if all(_NUMBER.fullmatch(name) for name in names):
        ordered = sorted(names, key=lambda name: (Decimal(name), name))
        place = _first_difference(ordered, alphabetical)
        if place is not None:
            logger.info(
                "categories are in the order of their numbers, so output %d is %r; for a network "
                "that was trained on alphabetical order, where it is %r, give --class-map",
                place, ordered[place], alphabetical[place],
            )  # fmt: skip
        return ordered
    if all(_ROMAN.fullmatch(name) for name in names):
        counted = sorted(names, key=_roman)
    else:
        counted = sorted(names, key=lambda name: [_piece(x) for x in re.split(r"(\d+)", name)])
    place = _first_difference(counted, alphabetical)
    if place is not None:
        logger.info(
            "categories are in alphabetical order, so output %d is %r, not %r; for a network with "
            "another order give --class-map",
            place, alphabetical[place], counted[place],
        )  # fmt: skip
    return alphabetical


def _roman(name: str) -> int:
    digits = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[letter] for letter in name.upper()]
    return sum(-a if a < b else a for a, b in pairwise([*digits, 0]))


def _piece(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (-1, text)


def _first_difference(first: Sequence[str], second: Sequence[str]) -> int | None:
    pairs = enumerate(zip(first, second, strict=True))
    return next((place for place, (a, b) in pairs if a != b), None)


def _role(name: str) -> str | None:
    match = _SPLIT.fullmatch(name.casefold().strip())
    return _ROLE[match[1]] if match else None


def _layout(root: Path) -> _Layout:
    if not root.is_dir():
        return _Layout({})
    folders = subfolders(root)
    named = [path for path in folders if _role(path.name)]
    holding = [path for path in named if subfolders(path)]
    present = _by_role([path.name for path in holding])
    if not named:
        present = _alike(folders)
    others = [path for path in folders if not _role(path.name)]
    if present and (len(present) > 1 or not any(map(_holds_image, others))):
        return _Layout(present)
    inner = [[path.name for path in subfolders(folder)] for folder in folders]
    names = [name for inside in inner for name in inside]
    if (
        others
        and len(folders) > 1
        and all(inner)
        and all(map(_role, names))
        and len(_by_role(names)) > 1
    ):
        return _Layout(_by_role(names), inside=True)
    return _Layout({})


def _alike(folders: Sequence[Path]) -> dict[str, str]:
    """Role -> name of splits that are alike but for it and for numbers, as `train-80`, `test-20`.

    Where there are several families of them, as `cat_train` and `dog_train`, there are none.
    """
    families: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for folder in folders:
        words = re.findall(r"[^\W\d_]+", folder.name.casefold())
        roles = [word for word in words if word in _ROLE]
        if len(roles) == 1 and subfolders(folder):
            rest = tuple(word for word in words if word not in (*roles, *_HOLDERS))
            families[rest].append((_ROLE[roles[0]], folder.name))
    (family,) = families.values() if len(families) == 1 else ([],)
    present = dict(family)
    return (
        {role: present[role] for role in _SPELLINGS if role in present}
        if (len(present) == len(family) > 1)
        else {}
    )


def _by_role(names: Sequence[str]) -> dict[str, str]:
    """Role -> the name that is spelled most as it is usual."""
    by_role = {}
    for role, words in _SPELLINGS.items():
        of_role = [name for name in names if _role(name) == role]
        if of_role:
            by_role[role] = min(
                of_role, key=lambda name: (*(name.casefold() != word for word in words), name)
            )
    return by_role


def _split_folder(root: Path, split: str, layout: _Layout) -> Path:
    name = split if (root / split).is_dir() else layout.splits.get(_role(split) or "")
    if name is None:
        holds = " and ".join(layout.splits.values()) or "the categories themselves"
        raise ValueError(f"split: no folder {split!r} in {root}; it holds {holds}")
    folder = root / name
    inner = subfolders(folder)
    if len(inner) != 1 or not subfolders(inner[0]):
        return folder
    # As archives unpack: train/train/CATEGORY; or with the annotations beside: train/images/...
    same = inner[0].name == name or _role(inner[0].name) == _role(name) is not None
    return inner[0] if same or inner[0].name.casefold() in _HOLDERS else folder


def _inside(root: Path, split: str, layout: _Layout) -> dict[str, Path]:
    role = _role(split)
    found = {}
    for category in subfolders(root):
        inner = [path for path in subfolders(category) if split == path.name]
        inner = inner or [path for path in subfolders(category) if role == _role(path.name)]
        if not inner:
            holds = " and ".join(layout.splits.values())
            raise ValueError(f"split: no folder {split!r} in {category}; there are {holds}")
        found[category.name] = inner[0]
    return found


def _say_what_differs(root: Path, holder: Path, layout: _Layout, names: set[str]) -> None:
    """Warn where the categories are not those of the training images, whose order a network has."""
    split = holder.relative_to(root).parts[0]
    if "train" not in layout.splits or layout.splits["train"] == split:
        return
    if _role(split) is None and split not in layout.splits.values():
        return
    trained = {path.name for path in subfolders(_split_folder(root, "train", layout))}
    if len(names) == 1 < len(trained) and not names & trained:
        raise ValueError(
            f"split: {holder} holds {next(iter(names))}/ and none of the {len(trained)} categories "
            f"of {layout.splits['train']}/; put its images into a folder for each category"
        )
    if trained != names:
        logger.warning(
            "%s holds other categories than the training images (%s): outputs are counted in its "
            "own order; give --class-map where that is not the network's",
            holder, ", ".join(sorted(trained ^ names)[:5]),
        )  # fmt: skip


def _refuse_what_only_looks_like_categories(root: Path) -> None:
    folders = subfolders(root)
    named = [path for path in folders if _role(path.name)]
    if folders and len(named) == len(folders):
        raise ValueError(
            f"root: {root} holds {' and '.join(path.name for path in named)}, but these hold no "
            f"folders; expected {named[0].name}/CATEGORY/ with images of each category"
        )
    unwrapped = _unwrapped(folders)
    if unwrapped is not None:
        held = [path.name for path in subfolders(unwrapped)]
        raise ValueError(
            f"root: {root} holds only {folders[0].name}/, and below it {' and '.join(held[:4])}"
            f"{' ...' if len(held) > 4 else ''}; give {unwrapped} if those are the categories or "
            "splits"
        )
    ends = [_ROLE.get(re.split(r"[ _.-]", path.name.casefold())[-1]) for path in folders]
    if None not in ends and len(set(ends)) > 1:
        raise ValueError(
            f"root: {root} holds {' and '.join(path.name for path in folders[:4])}, splits of "
            "categories and no categories; expected train/CATEGORY/ and val/CATEGORY/"
        )
    beside = {path.name for path in folders}
    for path in named:
        twice = sorted(beside & {inner.name for inner in subfolders(path)})
        if twice:
            raise ValueError(
                f"root: {root} holds {twice[0]}/ and {path.name}/{twice[0]}/, so that {path.name} "
                "is a split and no category; put the others into a folder of their own, as train/"
            )
    _say_what_is_alike(root, folders)
    for path in named:
        inner = subfolders(path)
        if len(inner) > 1 and not _images_in(path):
            raise ValueError(
                f"root: {root} holds {path.name}/ with folders and no images in it, as splits are, "
                f"beside {next(f.name for f in folders if f != path)}/; say --split {path.name}, "
                "or give it another name if it is a category"
            )


def _unwrapped(folders: Sequence[Path]) -> Path | None:
    """The folder with several in it that lies, alone, in the only one of these; None without."""
    inner = None
    while len(folders) == 1 and not _images_in(folders[0]):
        inner, folders = folders[0], subfolders(folders[0])
    return inner if len(folders) > 1 else None


def _say_what_is_alike(root: Path, folders: Sequence[Path]) -> None:
    """Refuse splits of other names beside a usual one; warn of what may be such without one."""
    names = [{path.name for path in subfolders(folder)} for folder in folders]
    if len(folders) < 2 or not names[0] or any(other != names[0] for other in names):
        return
    held = " and ".join(path.name for path in folders[:4])
    same = ", ".join(sorted(names[0])[:4])
    if any(_role(path.name) for path in folders):
        raise ValueError(
            f"root: {root} holds {held} with the same folders in each ({same}), so that they are "
            f"splits; choose one, as --split {folders[0].name}"
        )
    logger.warning(
        "%s hold the same folders (%s) and are taken for the categories; if those are, choose one "
        "of the former, as --split %s", held, same, folders[0].name,
    )  # fmt: skip


def _images_in(folder: Path) -> int:
    """Count the images in a folder itself."""
    return sum(Path(entry.name).suffix.lower() in EXTENSIONS for entry in listed(folder))


def _holds_image(folder: Path) -> bool:
    return any(
        path.suffix.lower() in EXTENSIONS for path in folder.rglob("*") if path.name[0] != "."
    )
