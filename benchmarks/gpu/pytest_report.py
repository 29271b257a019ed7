"""What pytest did, as its JUnit report has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Tests:
    """How many tests came out how; `failures` names those that failed, with the error's line.

    `skips` counts the reasons.
    """

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    skips: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say the counts."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read(path: Path) -> Tests | None:
    """Read a report; None where pytest did not come to write one."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    passed, failures = 0, list[str]()
    skips = dict[str, int]()
    for case in root.iter("testcase"):
        # A test that fails, and whose fixtures then fail as well, has two.
        broken = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if broken:
            line = (broken[0].get("message") or "").strip().splitlines()
            failures.append(f"{case.get('name')}: {line[0] if line else broken[0].tag}"[:200])
        elif skipped is not None:
            reason = skipped.get("message") or ""
            skips[reason] = skips.get(reason, 0) + 1
        else:
            passed += 1
    return Tests(passed, len(failures), sum(skips.values()), failures, skips)
