"""HTML pages that open offline: all in one file, nothing requested, every name escaped."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup  # which jinja2 brings

VIEW: Final = (
    "elements", "data", "camera", "draw", "state", "sides", "marks", "layouts", "pens", "scene",
    "touch", "inspector", "lists", "main",
)  # fmt: skip
"""Parts of the view's script, in the order in which they are read."""

# Control characters, and those that would turn around the text after a name.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def fill_template(template: str, style: str, script: str, **context: Any) -> bytes:
    """Fill a template of the package; its content-security policy allows this style and script.

    Args:
        template: its file under the package, as `report/html/page.html`.
        style: all of the page's CSS.
        script: all of its JavaScript; may be empty.
        context: what the template speaks of.
    """
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(page_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    page = environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=policy, **context
    )
    # Names may hold bytes that are no text, shown by their codes, and characters that no page may.
    return _CONTROL.sub("\ufffd", page).encode("utf-8", "backslashreplace")


def page_part(name: str) -> str:
    """Return the text of a template, style or script that comes with the package."""
    return files("emergence_ext").joinpath(*name.split("/")).read_text(encoding="utf-8")


def view_script() -> str:
    """Return the script of the view: its parts share one scope, since a page has no modules."""
    parts = (page_part(f"report/html/view/{name}.js") for name in VIEW)
    return "{\n" + "\n".join(parts) + "}\n"


def _unbroken(value: Any) -> Any:
    """Keep a number and its % on one line; what is no plain text stays as it is."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return re.sub(r"(?<=\d) %", "\u00a0%", value) if plain else value


def _digest(text: str) -> str:
    """Return the source expression that allows exactly this inline text."""
    return f"sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode('ascii')}"
