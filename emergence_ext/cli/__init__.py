"""The command line: parse, call, print. Importing it gathers the commands."""

from emergence_ext.cli import network
from emergence_ext.cli.common import app

__all__ = ["app", "network"]
