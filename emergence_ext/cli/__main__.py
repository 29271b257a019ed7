"""`python -m emergence_ext.cli` is `emergence`, as `torchrun -m emergence_ext.cli` wants it."""

from emergence_ext.cli import app

app(prog_name="emergence")
