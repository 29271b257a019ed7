"""Which column of a network's output belongs to which category."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from emergence_ext.data.csv_files import read_csv
from emergence_ext.data.reading import read_bytes
from emergence_ext.lookup import nearest, path_named

__all__ = ["LABELS", "ONE_OUTPUT", "by_name", "class_map"]

logger = logging.getLogger(__name__)

LABELS: Final = "labels.txt"
"""In a folder of images: the name of each output of the network, one a line."""

_EXAMPLE: Final = (
    "Give a file that says which output each category is (--class-map): JSON as "
    '{"cat": 281, "dog": 207}, CSV with the columns category and output, or a text file with the '
    "name of each output in a line of its own"
)
ONE_OUTPUT: Final = (
    "model: it has one output, and each category needs one. Where that is the logit of the second "
    "of two, wrap the network so that it gives torch.cat([torch.zeros_like(z), z], 1)."
)
_SHOWN: Final = 5


def class_map(
    mapping: Path | str | Mapping[str, int] | None, categories: Sequence[str], n_outputs: int
) -> list[int]:
    """Say which column of a network's output belongs to each category.

    Args:
        mapping: category -> column of the output; or a file of that: JSON (also the other way
            round, `{"0": "cat"}`, or a list of names), CSV with the columns `category` and
            `output`, or text with the name of each output in a line of its own, in order, as
            `n02123045 tabby, tabby cat` too; None where they are one to one.
        categories: names, `[C]`. Other names in the mapping do no harm.
        n_outputs: width of the network's output.

    Raises:
        ValueError: a category without a column, two with the same, a column beyond the output, or
            no mapping and another number of categories than outputs.
        FileNotFoundError: no such file.

    Examples:
        >>> from emergence_ext import data
        >>> data.class_map({"cat": 281, "dog": 207}, ["cat", "dog"], n_outputs=1000)
        [281, 207]
    """
    if mapping is None:
        if n_outputs == 1 < len(categories):
            raise ValueError(ONE_OUTPUT)
        if len(categories) != n_outputs:
            raise ValueError(
                f"class_map: {len(categories)} categor{'ies' if len(categories) > 1 else 'y'} but "
                f"{n_outputs} outputs. {_EXAMPLE}"
            )
        return list(range(n_outputs))
    if not isinstance(mapping, Mapping):
        mapping = _read_mapping(path_named(mapping, "class_map"), categories)
    columns: list[int] = []
    for category in categories:
        if category not in mapping:
            raise ValueError(
                f"class_map: no output for category {category!r}.{nearest(category, mapping)}"
            )
        column = mapping[category]
        if type(column) is not int or not 0 <= column < n_outputs:
            raise ValueError(
                f"class_map: expected a column in 0..{n_outputs - 1} for {category!r}, got "
                f"{column!r}"
            )
        if column in columns:
            other = categories[columns.index(column)]
            raise ValueError(f"class_map: {category!r} and {other!r} share output {column}")
        columns.append(column)
    return columns


def by_name(
    categories: Sequence[str],
    names: Sequence[Collection[str]],
    whose: str,
    *,
    strict: bool = True,
) -> dict[str, int] | None:
    """Find the output of each category by its name; which was found is logged.

    Case does not count, nor whether words are parted by spaces, `_` or `-`.

    Args:
        categories: names, `[C]`.
        names: for each output all of its names.
        whose: where the names come from, for the log and errors.
        strict: whether it is an error that some categories are among the names and others are not.

    Returns:
        Category -> column; None where no category is among the names, or not all are.

    Raises:
        ValueError: some categories are among the names and others are not.

    Examples:
        >>> from emergence_ext import data
        >>> names = [("tench",), ("tabby", "tabby cat")]
        >>> data.by_name(["Tabby_cat"], names, "my list")
        {'Tabby_cat': 1}
    """
    columns: dict[str, set[int]] = {}
    for column, alike in enumerate(names):
        for name in alike:
            columns.setdefault(_plain(name), set()).add(column)
    several = {name for name, found in columns.items() if len(found) > 1}
    found = {
        category: next(iter(columns[_plain(category)]))
        for category in categories
        if _plain(category) in columns.keys() - several
    }
    if not found:
        return None
    strange = [category for category in categories if category not in found]
    if strange and not strict:
        return None
    if strange:
        known = [name for alike in names for name in alike]
        raise ValueError(
            f"class_map: {len(found)} of {len(categories)} categories are named like {whose}, but "
            f"{strange[0]!r} is not, or is more than one.{nearest(strange[0], known)} Rename its "
            "folder, or say by --class-map which output each category is"
        )
    shown = ", ".join(
        f"{category} is output {column} ({', '.join(names[column])})"
        for category, column in list(found.items())[:_SHOWN]
    )
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    logger.info("categories find their outputs by %s: %s%s", whose, shown, more)
    return found


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _read_mapping(path: Path, categories: Sequence[str]) -> Mapping[str, int]:
    if path.suffix.lower() == ".csv":
        return _from_csv(path)
    content = read_bytes(path, "class_map")
    if path.suffix.lower() == ".txt":
        return _from_lines(path, content, categories)
    try:
        mapping = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"class_map: cannot read {path} as JSON ({error})") from error
    named = _names_of_outputs(mapping)
    if named is not None:
        return _found(categories, named, path)
    if not isinstance(mapping, dict):
        raise ValueError(
            f'class_map: expected {{"category": column, ...}} in {path}, got {mapping!r:.60}'
        )
    return mapping


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return mapping


def _names_of_outputs(content: Any) -> list[list[str]] | None:
    """For each output its names, of a list of them or `{"0": "cat"}`; None: it is neither."""
    if (
        isinstance(content, dict)
        and content
        and all(map(re.compile(r"\d{1,6}").fullmatch, content))
    ):
        by_column = {int(column): names for column, names in content.items()}
        content = [by_column.get(column, []) for column in range(max(by_column) + 1)]
    if not isinstance(content, list) or not content:
        return None
    named = [[names] if isinstance(names, str) else names for names in content]
    whole = all(isinstance(x, list) and all(isinstance(n, str) for n in x) for x in named)
    # {"0": "3"} may be meant either way.
    return named if whole and not all(n.isdigit() for x in named for n in x) else None


def _from_csv(path: Path) -> Mapping[str, int]:
    file = read_csv(path, "class_map")
    if not {"category", "output"} <= set(file.columns):
        raise ValueError(
            f"class_map: expected the columns category and output in {path}, got "
            f"{', '.join(file.columns) or 'none'}"
        )
    mapping = {}
    for where, row in file.rows:
        if not re.fullmatch(r"\d+", row["output"]):
            raise ValueError(f"{where}: expected the number of an output, got {row['output']!r}")
        if row["category"] in mapping:
            raise ValueError(f"{where} names the category {row['category']!r} again")
        mapping[row["category"]] = int(row["output"])
    return mapping


def _from_lines(path: Path, content: bytes, categories: Sequence[str]) -> Mapping[str, int]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"class_map: {path} is not in UTF-8; save the file as UTF-8") from None
    return _found(categories, [_names_in(*line) for line in enumerate(lines)], path)


def _names_in(place: int, line: str) -> list[str]:
    """Names in a line: as it is, behind its number or WordNet's id, and between its commas."""
    ahead = re.match(r"(n\d{8}|\d+)[\s:,;.]+(?=\S)", line)
    if ahead is None or (ahead[1].isdigit() and int(ahead[1]) != place):
        return [line]
    rest = line[ahead.end() :]
    names = [line, rest, *(name for name in rest.split(",") if name.strip())]
    return list(dict.fromkeys(names if ahead[1].isdigit() else [ahead[1], *names]))


def _found(
    categories: Sequence[str], named: Sequence[Sequence[str]], path: Path
) -> Mapping[str, int]:
    found = by_name(categories, named, str(path))
    if found is None:
        raise ValueError(
            f"class_map: none of the categories is among the {len(named)} names in {path}"
        )
    return found
