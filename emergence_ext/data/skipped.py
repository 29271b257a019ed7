"""Count what was left out of a set of images by reason, and say it in a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

__all__ = ["in_words", "kinds"]

EXAMPLES = 3


def kinds(bad: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names by kind of reason, which stands before a colon; the most common first.

    Examples:
        >>> from emergence_ext import data
        >>> data.kinds([("a.png", "cut off: 3 bytes"), ("b.png", "cut off: 9 bytes")])
        {'cut off': ['a.png', 'b.png']}
    """
    by_kind: dict[str, list[str]] = defaultdict(list)
    for name, reason in bad:
        by_kind[reason.partition(": ")[0]].append(name)
    return dict(sorted(by_kind.items(), key=lambda entry: -len(entry[1])))


def in_words(bad: Sequence[tuple[str, str]]) -> str:
    """Return `3 images are left out: 2 hidden (a/.b.png, ...), 1 a link to nothing (c.png)`."""
    parts = []
    for kind, names in kinds(bad).items():
        more = ", ..." if len(names) > EXAMPLES else ""
        parts.append(f"{len(names)} {kind} ({', '.join(names[:EXAMPLES])}{more})")
    count = "1 image is" if len(bad) == 1 else f"{len(bad)} images are"
    return f"{count} left out: {', '.join(parts)}"
