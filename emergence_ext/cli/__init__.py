"""The command line: parse, call, print. Importing it gathers the commands."""

from emergence_ext.cli import (
    animate,
    apply,
    attack,
    compare,
    controls,
    demo,
    distill,
    export,
    foreground,
    look,
    mindseye,
    network,
    plan,
    reproduce,
    shapley,
    tables,
    verify,
)
from emergence_ext.cli.common import app

__all__ = [
    "animate",
    "app",
    "apply",
    "attack",
    "compare",
    "controls",
    "demo",
    "distill",
    "export",
    "foreground",
    "look",
    "mindseye",
    "network",
    "plan",
    "reproduce",
    "shapley",
    "tables",
    "verify",
]
