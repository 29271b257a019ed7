"""What a page says of a run's configuration, whose entries may be hostile names of any kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emergence_ext.data import kinds
from emergence_ext.report.html.numbers import NOTHING, short, shown
from emergence_ext.run import Config

SHOWN: Final = 200
"""Skipped images that are listed by name; all are in `config.json`."""


@dataclass(frozen=True)
class Described:
    """What `config.json` says; `settings`, `versions` and `hashes` are flattened to lines."""

    title: str
    about: str
    command: str
    git: str
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    hashes: list[tuple[str, str]]
    categories: list[str]
    layers: list[str]
    checkpoints: list[dict[str, str]]
    bad_images: list[tuple[str, str]]
    skipped: list[tuple[str, int]]  # reason, images


def describe(config: Config) -> Described:
    """Return every entry of a configuration as it is shown."""
    bad = [_pair(x) for x in config.bad_images]
    return Described(
        title=_title(config),
        about=_about(config),
        command=config.command,
        git=config.git,
        settings=list(_flat(config.settings)),
        versions=list(_flat(config.versions)),
        hashes=list(_flat(config.hashes)),
        categories=[str(x) for x in config.categories],
        layers=[str(x) for x in config.layers],
        checkpoints=[_checkpoint(x) for x in config.checkpoints],
        bad_images=bad[:SHOWN],
        skipped=[(kind, len(names)) for kind, names in kinds(bad).items()],
    )


def _title(config: Config) -> str:
    """Which network was analysed on what, as far as the run says it."""
    model = str(config.settings.get("model") or "").rpartition(":")[2]
    data = str((config.subject or {}).get("data") or "")
    if model:
        return f"{model} on {Path(data).name}" if Path(data).name else model
    # A module of the user's, whose name no run holds: what it was shown tells pages apart.
    names = [str(x).replace("_", " ") for x in config.categories]
    if not names:
        return "What the network learned, where and when"
    most = 4
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    start, last = ", ".join(names[:-1]), names[-1]
    return f"What a network learned of {f'{start} and ' if start else ''}{last}"


def _about(config: Config) -> str:
    """How much was analysed, and how right the finished network is, in a sentence or two."""
    counts = (
        (config.categories, "category", "categories"),
        (config.checkpoints, "checkpoint", "checkpoints"),
        (config.layers, "layer", "layers"),
    )
    parts = [f"{len(x)} {one if len(x) == 1 else many}" for x, one, many in counts if x]
    accuracy = _checkpoint(config.checkpoints[-1])["accuracy"] if config.checkpoints else NOTHING
    texts = [", ".join(parts)] if parts else []
    if accuracy != NOTHING:
        texts.append(f"The finished network gets {accuracy} of the images right")
    recipe = config.settings.get("recipe", "default")
    if recipe != "default":
        texts.append(f"Its fits follow the recipe {recipe!r}")
    return "".join(f"{text}. " for text in texts).strip()


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings as dotted names and shown values."""
    if isinstance(value, dict) and (value or not name):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(shown(x) for x in value) or "none"
    else:
        yield name, shown(value)


def _checkpoint(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict):
        return {"label": str(entry), "epoch": NOTHING, "accuracy": NOTHING}
    accuracy = entry.get("accuracy")
    known = isinstance(accuracy, int | float) and math.isfinite(accuracy)
    return {
        "label": str(entry.get("label", NOTHING)),
        "epoch": shown(entry.get("epoch")),
        "accuracy": f"{accuracy:.1%}".replace("%", " %") if known else NOTHING,
    }


def _pair(entry: Any) -> tuple[str, str]:
    if isinstance(entry, list) and len(entry) == 2:
        return str(entry[0]), str(entry[1])
    return str(entry), ""


def shown_number(name: str, entry: Any) -> dict[str, str]:
    """Return one headline number as it is shown; anything but a mapping is the value itself."""
    values = entry if isinstance(entry, dict) else {"value": entry}
    percent = values.get("unit") == "%"
    low, high = (values.get(end) for end in ("low", "high"))
    return {
        "name": str(name),
        "value": short(values.get("value")),
        "unit": "" if values.get("unit") is None else str(values["unit"]),
        "tight": "yes" if percent else "",
        "interval": "" if low is None or high is None else f"{short(low)} to {short(high)}",
        "explain": str(values.get("explain") or ""),
    }
