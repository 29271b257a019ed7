"""Receipts: a page says which results, tables and figures it was made of, by their digests."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from emergence_ext._version import __version__
from emergence_ext.report.experiments import experiments
from emergence_ext.report.files import FIGURES, TABLES
from emergence_ext.run import Config, RunFolder, file_digest
from emergence_ext.store import StoreError, content_digest, exists

_BLOCK: Final = re.compile(r'<pre id="receipts">(.*?)</pre>', re.DOTALL)
_END: Final = b"\n<!-- SHA-256 of all above: "


def receipts(inside: RunFolder, left_out: Collection[str]) -> dict[str, Any]:
    """Digests of what the page of a run is made of, as it lies in the folder.

    Args:
        inside: the run.
        left_out: experiments that are not on the page.
    """
    names = [e.section.anchor for e in experiments(inside) if e.section.anchor not in left_out]
    results = {"emergence": inside.emergence} | {name: inside.result(name) for name in names}
    files = [
        path
        for place in (inside.path, *map(inside.experiment, names))
        for kind, ending in ((TABLES, "csv"), (FIGURES, "png"))
        for path in sorted((place / kind).glob(f"*.{ending}"))
    ]
    return {
        "emergence_ext": __version__,
        "hashes": Config.read(inside.config).hashes,
        "results": {name: content_digest(path) for name, path in results.items() if exists(path)},
        "files": {p.relative_to(inside.path).as_posix(): file_digest(p) for p in files},
    }


def sealed(page: bytes) -> bytes:
    """A page with a digest of itself behind it."""
    return page + _END + hashlib.sha256(page).hexdigest().encode() + b" -->\n"


def read_receipts(path: Path) -> dict[str, Any] | None:
    """Read the receipts of a page; None of a page of an earlier version.

    Raises:
        StoreError: the page was changed after it was written.
        OSError: it cannot be read.
    """
    page, end, rest = path.read_bytes().rpartition(_END)
    block = _BLOCK.search((page or rest).decode("utf-8", "replace"))
    if not end and block is None:
        return None
    if rest != hashlib.sha256(page).hexdigest().encode() + b" -->\n" or block is None:
        raise StoreError(f"report: {path} was changed after it was written; make it again")
    try:
        content = json.loads(html.unescape(block[1]))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise StoreError(f"report: the receipts in {path} cannot be read; make it again")
    return content


def compare_receipts(inside: RunFolder, page: Path) -> list[str]:
    """Say where a page and a run differ, a line each; nothing where they agree.

    Raises:
        StoreError: the page was changed, or has no receipts.
        OSError: it cannot be read.
    """
    there = read_receipts(page)
    if there is None:
        raise StoreError(f"report: {page} is of an earlier version and has no receipts")
    here = receipts(inside, [])
    wrong = []
    for kind in ("hashes", "results", "files"):
        told = there.get(kind)
        for name, value in (told if isinstance(told, dict) else {}).items():
            if here[kind].get(name) != value:
                what = "is not there" if name not in here[kind] else "is another"
                wrong.append(f"{page}: {name} of the page {what} in {inside.path}")
    return wrong
