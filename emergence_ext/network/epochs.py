"""Which number in the name of a checkpoint is its epoch.

Names are read together: an epoch is a whole number that differs from file to file. Scores, shares
of them and the numbers of architectures (`resnet18`, `top5`) are none, and a name that can be read
in two ways is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Epoch", "read_epochs"]


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_EPOCH = _words("e ep eps epoch epochs eph")
_STEP = _words("step steps it its itr itrs iter iters iteration iterations update updates")
# What else stands before numbers in such names: scores, settings, sizes, data and architectures.
_OTHER = _words(
    "acc accuracy top val valid test train loss losses err error auc ap map iou miou dice f psnr",
    "ssim fid score metric prec precision rec recall",
    "lr wd bs batch batchsize seed fold run exp trial v version ver size img image im px res dim",
    "depth layers heads width gpu gpus rank worker fp bf int float bit bits class classes",
    "in cifar mnist imagenet coco tiny",
    "resnet resnext resnest wrn vgg densenet inception mobilenet efficientnet lenet alexnet",
    "googlenet squeezenet shufflenet mnasnet xception regnet darknet convnext vit deit beit swin",
    "hrnet dla dpn senet unet yolo rn r b s l h x patch window",
)
_MULTIPLES = {"k": 1_000, "m": 1_000_000}

# Dates, and "00001-of-00004" of a checkpoint in several files: no numbers to order by.
_SKIPPED = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-_.]?)[01]\d\1[0-3]\d"
    r"(?:[-_T. ]\d\d[-_:.]?\d\d(?:[-_:.]?\d\d)?)?"
    r"|\d+-of-\d+)(?!\d)"
)
# Letters and digits; a point or comma between digits, and the minus of 1e-3, belong to them.
_PART = re.compile(r"(?:[^\W_]|(?<=\d)[.,](?=\d)|(?<=\d[eE])-(?=\d))+")
_WHOLE = re.compile(r"([^\W\d_]*)(\d+)([^\W\d_]*)")
_FRACTION = re.compile(r"([^\W\d_]*)\d+(?:[.,]\d+)*(?:[eE]-?\d+)?")
# The suffixes of files of weights; `model.pt.12` keeps its number.
_SUFFIX = re.compile(r"(?:\.(?:[A-Za-z]+|h5|t7|pt2))+$")

_INDEX = 'checkpoints.json: {"checkpoints": [{"file": "%s", "epoch": 12}]}'


class Epoch(NamedTuple):
    """What was read: the number, what it counts ("epoch" or "step"), and where it stood."""

    number: int
    unit: str
    source: str


class _Number(NamedTuple):
    """A number in a name: its value (None for a fraction), and what the words beside it say."""

    value: int | None
    word: str
    kind: str  # "epoch", "step", "other" for what is no epoch, or "" where nothing tells


def read_epochs(paths: Sequence[Path]) -> list[Epoch]:
    """Read the epochs of files from their names; of `checkpoint-500/model.bin` from the folders'.

    Args:
        paths: files of one training. Names that are alike but for their numbers are read alike.

    Returns:
        For each path what was read.

    Raises:
        ValueError: a name without an epoch, or with several numbers that it could be.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    numbers: list[list[_Number]] = []
    names = _names(paths)
    for place, name in enumerate(names):
        shape, found = _numbers(name)
        alike[shape].append(place)
        numbers.append(found)
    epochs: dict[int, Epoch] = {}
    for places in alike.values():
        first = places[0]
        column = _column([numbers[place] for place in places], paths[first], names[first])
        for place in places:
            value, word, kind = numbers[place][column]
            assert value is not None, "a column of whole numbers"
            source = f"the number at {word!r}" if word else "the number that counts up"
            epochs[place] = Epoch(value, "step" if kind == "step" else "epoch", source)
    return [epochs[place] for place in range(len(paths))]


def _names(paths: Sequence[Path]) -> list[str]:
    """The part of each path that may hold its epoch: the last one by which the paths differ."""
    folders = zip(*(path.absolute().parts[::-1] for path in paths), strict=False)
    differing = next((list(parts) for parts in folders if len(set(parts)) > 1), None)
    names = [path.name for path in paths]
    if differing in (None, names):
        return [_SUFFIX.sub("", name) for name in names]
    return differing


def _numbers(name: str) -> tuple[str, list[_Number]]:
    """Return a name with its numbers taken out, equal for names that are alike, and the numbers."""
    text = _SKIPPED.sub("@", name)
    parts = list(_PART.finditer(text))
    words = [part.group().lower() for part in parts] + ["", "", ""]
    units = _EPOCH | _STEP
    shape, end = "", 0
    found: list[_Number] = []
    for i, part in enumerate(parts):
        before = words[i - 1] if i and words[i - 1].isalpha() else ""
        if before in units and words[i - 2].isdigit() and words[i + 1] in units:
            before = ""  # 10_epoch_500_iter: each word is that of the number in front of it
        # 3_epoch_10: it is the 10's word
        after = "" if words[i + 2].isdigit() and words[i + 3] not in units else words[i + 1]
        # A minus is one where another mark stands before it: epoch_-1, epoch=-1, not epoch-1.
        minus = re.search(r"[_=(-]-$", text[: part.start()]) is not None
        read = _number(words[i], before, after, minus)
        if read is not None:
            found.append(read[0])
            shape += text[end : part.start() - minus] + read[1]
            end = part.end()
    return shape + text[end:], found


def _number(part: str, before: str, after: str, minus: bool) -> tuple[_Number, str] | None:
    """Read a part of a name, if it is a number; with what is left of it without the digits."""
    whole, fraction = _WHOLE.fullmatch(part), _FRACTION.fullmatch(part)
    unit = whole[3] if whole else ""
    if whole and (not unit or unit in _EPOCH | _STEP | _MULTIPLES.keys()):
        word = whole[1] or before
        value = int(whole[2]) * _MULTIPLES.get(unit, 1) * (-1 if minus else 1)
        return _Number(value, word or unit, _kind(word, unit, after)), f"{whole[1]}#{unit}"
    if fraction:
        return _Number(None, "", "other"), f"{fraction[1]}#"
    return None  # a word, 224px, 1x, a hash


def _kind(word: str, unit: str, after: str) -> str:
    for kind, known in (("epoch", _EPOCH), ("step", _STEP)):
        # Words of one's own may end so: global_step500, myEpoch12.
        if word in known or word.endswith((kind, f"{kind}s")) or unit in known:
            return kind
    for kind, known in (("epoch", _EPOCH), ("step", _STEP)):
        if not word and after in known:  # 3_epochs
            return kind
    return "other" if word in _OTHER else ""


def _column(names: Sequence[Sequence[_Number]], example: Path, name: str) -> int:
    """Choose the place of the epoch among the numbers of names that are alike."""
    kinds = [number.kind for number in names[0]]
    values = [[numbers[c].value for numbers in names] for c in range(len(kinds))]
    whole = [c for c in range(len(kinds)) if None not in values[c]]
    varying = [c for c in whole if len(names) == 1 or len(set(values[c])) > 1]
    unique = [c for c in varying if len(set(values[c])) == len(names)]
    # The epoch where it tells the files apart, else the step; else two files are of one epoch.
    for columns in (unique, whole):
        for kind in ("epoch", "step"):
            named = [c for c in columns if kinds[c] == kind]
            if len(named) == 1:
                return named[0]
            if named:
                raise _ambiguous(example, names[0], named)
    candidates = [c for c in varying if not kinds[c]]
    # What repeats may be a score behind the one that does not, and the epoch before it.
    if candidates and [c for c in candidates if c in unique] == candidates[:1]:
        return candidates[0]
    if candidates:
        raise _ambiguous(example, names[0], candidates)
    if not example.name.startswith(name):
        raise ValueError(
            f"checkpoints: files of one name, {example.name}, in folders without an epoch in their "
            f"names, as {name}. Leave all but one out, or write beside each a "
            f"{_INDEX % example.name}"
        )
    raise ValueError(
        f"checkpoints: no epoch in the name {example.name}. Leave it out, give it alone as "
        f"`weights`, or {_advice(example)}"
    )


def _ambiguous(example: Path, numbers: Sequence[_Number], columns: Sequence[int]) -> ValueError:
    read = " or ".join(str(numbers[c].value) for c in columns)
    return ValueError(
        f"checkpoints: the epoch of {example} could be {read}. Either {_advice(example)}"
    )


def _advice(path: Path) -> str:
    return f"name it as epoch_12{path.suffix}, or write beside it a {_INDEX % path.name}"
