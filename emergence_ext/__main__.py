"""`python -m emergence_ext` is `emergence`."""

from emergence_ext.cli import app

app(prog_name="emergence")
