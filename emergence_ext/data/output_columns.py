"""Which column of a network's output belongs to which category."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from emergence_ext.data.reading import read_bytes
from emergence_ext.lookup import nearest

__all__ = ["class_map"]


def class_map(
    mapping: Path | str | Mapping[str, int] | None, categories: Sequence[str], n_outputs: int
) -> list[int]:
    """Say which column of a network's output belongs to each category.

    Args:
        mapping: category -> column of the output, or a JSON file of that; None where they are one
            to one.
        categories: names, `[C]`. Other names in the mapping do no harm.
        n_outputs: width of the network's output.

    Raises:
        ValueError: a category without a column, two with the same, a column beyond the output, or
            no mapping and another number of categories than outputs.
        FileNotFoundError: no such file.
    """
    if mapping is None:
        if len(categories) != n_outputs:
            raise ValueError(
                f"class_map: {len(categories)} categories but {n_outputs} outputs. Give a JSON "
                "file that maps every category to its output, or a network with as many outputs."
            )
        return list(range(n_outputs))
    if not isinstance(mapping, Mapping):
        mapping = _read_mapping(Path(mapping))
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


def _read_mapping(path: Path) -> Mapping[str, int]:
    content = read_bytes(path, "class_map")
    try:
        mapping = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"class_map: cannot read {path} as JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise ValueError(
            f'class_map: expected {{"category": column, ...}} in {path}, got {mapping!r:.60}'
        )
    return mapping
