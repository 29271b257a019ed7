"""Runs whose files were written by somebody else: with other entries, or by an earlier version."""

import json
from pathlib import Path
from typing import Any

from emergence_ext.store import write_document


def set_config(folder: Path, **entries: Any) -> None:
    """Write entries into the `config.json` of a run, as the program would; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | entries
    del content["sha256"]
    write_document(path, {name: value for name, value in content.items() if value is not None})


def age(folder: Path) -> None:
    """Take the digests of what it was made from out of a run, as it was written before them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["sha256"], config["results"]
    path.write_text(json.dumps({**config, "format_version": 1}))
    for manifest in folder.rglob("*.json"):
        content = json.loads(manifest.read_text())
        if content.pop("made_from", None) is not None:
            del content["sha256"]
            write_document(manifest, content)
