"""The page of a run inside a notebook: the same page, in a frame of its own."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from emergence_ext.report.write import is_current, write
from emergence_ext.run import FinishedRun
from emergence_ext.settings import require_count


@dataclass(frozen=True)
class Framed:
    """A page that a notebook shows where a cell ends with it.

    Attributes:
        path: its file.
        height: in the notebook, pixels.

    Examples:
        >>> from pathlib import Path
        >>> import emergence_ext as ee
        >>> ee.report.Framed(Path("runs/demo/report.html"), height=600)
        file:///.../runs/demo/report.html
    """

    path: Path
    height: int = 900

    def __post_init__(self) -> None:
        require_count("height", self.height, 1)

    def __repr__(self) -> str:
        return self.path.resolve().as_uri()

    def _repr_html_(self) -> str:
        # Without an origin of its own the page can neither read the notebook nor write to it.
        page = escape(self.path.read_text(encoding="utf-8"))
        return (
            f'<iframe srcdoc="{page}" title="{escape(self.path.parent.name)}" '
            'sandbox="allow-scripts allow-downloads" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )


def show(run: FinishedRun | Path | str, height: int = Framed.height) -> Framed:
    """Show the page of a run in a notebook, inline and without an extension; make it if need be.

    Args:
        run: a finished run, or its directory.
        height: in the notebook, pixels.

    Raises:
        FileNotFoundError: no finished run there.
        StoreError: a stored result is damaged.

    Examples:
        >>> import emergence_ext as ee
        >>> ee.report.show("runs/demo")  # the last line of a cell
        file:///.../runs/demo/report.html
    """
    run = run if isinstance(run, FinishedRun) else FinishedRun.open(run)
    page = run.inside.report
    return Framed(page if page.is_file() and is_current(run) else write(run), height)
