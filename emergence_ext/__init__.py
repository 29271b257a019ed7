"""See where and when the intermediate visual patterns of a neural network emerge."""

from emergence_ext._version import __version__

__all__ = ["__version__"]
