"""Of links from a page to files of the repository that are not on the site the words stay."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Take links that lead out of docs/ off a page, and what the changelog is called twice."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
