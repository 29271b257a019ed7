"""Objects on disk: a class says what it consists of by its type hints, and nothing is pickled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from itertools import count, takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from emergence_ext import parallel
from emergence_ext.store.arrays import digest_of, load_arrays, save_arrays
from emergence_ext.store.brief import in_short
from emergence_ext.store.documents import StoreError
from emergence_ext.store.manifests import differences, exists, in_words
from emergence_ext.store.manifests import made_from as origins

logger = logging.getLogger(__name__)

_IN_ARRAYS: Final = object()  # in place of the setting of what is in the arrays as a whole

# What constructors raise of settings and arrays that are not theirs.
_MISFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Saved:
    """Give a dataclass `save` and `load`; it is stored field by field, as its type hints say.

    A tensor is the array `FIELD`. The tensors of a dict, list or tuple are the arrays `FIELD/KEY`,
    where a dict of tensors has its keys as setting. A field that is a dataclass itself, or a dict
    or list of them, has its tensors as `FIELD/NAME` and the rest in `settings[FIELD]`. Everything
    else is a setting. What is read may lack a field that has a default.

    A class that holds something else, like a function, wraps `_state` and `_from_state`.

    Examples:
        >>> from dataclasses import dataclass
        >>> from emergence_ext import store
        >>> @dataclass
        ... class Counts(store.Saved):
        ...     layer: str
        ...     points: torch.Tensor
        ...
        >>> Counts("conv1", torch.tensor([3, 5])).save("counts")
        >>> Counts.load("counts")
        Counts(layer='conv1', points=[2] int64)
    """

    _unprefixed: ClassVar[tuple[str, ...]] = ()
    """Fields, `Saved` themselves, whose arrays are stored as `NAME` instead of `FIELD/NAME`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # dataclass leaves one of the class

    def __repr__(self) -> str:
        return in_short(self)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the arrays and the JSON-like settings that `_from_state` needs."""
        arrays: dict[str, Tensor] = {}
        hints = _field_hints(type(self))
        return arrays, take_fields(vars(self), hints, "", arrays, self._unprefixed)

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        """Rebuild the object from what `_state` returned."""
        values = read_fields(_field_hints(cls), "", arrays, settings, cls._unprefixed)
        return cls(**{**settings, **values})

    def save(self, path: Path | str, made_from: Mapping[str, str] | None = None) -> None:
        """Write the object as `path.safetensors` and `path.json`.

        Args:
            path: without a suffix.
            made_from: digest of each thing that it depends on, by a name that an error can say.
        """
        arrays, settings = self._state()
        save_arrays(path, arrays, settings, kind=type(self).__name__, made_from=made_from)

    def digest(self) -> str:
        """The `store.content_digest` that this has when it is saved."""
        arrays, settings = self._state()
        return digest_of(arrays, settings, kind=type(self).__name__)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: nothing there, damaged, of another class, or written by a newer version.
        """
        arrays, settings = load_arrays(path, kind=cls.__name__)
        try:
            loaded = cls._from_state(arrays, settings)
            unknown = sorted(arrays.keys() - loaded._state()[0].keys())
            if unknown:
                raise ValueError(f"unknown arrays {unknown}")
        except _MISFIT as error:
            raise StoreError(
                f"path: {path} is intact but does not make a {cls.__name__} ({error!r}). Was it "
                "written by another version of this package? Compute it again."
            ) from error
        return loaded


Kind = TypeVar("Kind", bound=Saved)


def kept(
    path: Path | None, kind: type[Kind], made_from: Mapping[str, str] | None = None
) -> Kind | None:
    """Load the result that is kept at `path`; None where there is none, or it is of other things.

    Args:
        path, kind, made_from: as for `once`.

    Raises:
        StoreError: what is there is damaged or of another kind.

    Examples:
        >>> from emergence_ext import store
        >>> import emergence_ext as ee
        >>> ee.RegionImportance(max_evals=5).fit(torch.rand(6, 4, 5), torch.rand(6, 6)).save("w")
        >>> store.kept("w", ee.RegionImportance).w_.shape, store.kept("absent", ee.RegionImportance)
        (torch.Size([6, 4]), None)
    """
    if path is None or not exists(path):
        return None
    there = origins(path)
    different = differences(there, made_from) if there and made_from else []
    if not different:
        return kind.load(path)
    logger.warning("%s is made anew: it was of other %s", path, in_words(different))
    return None


def once(
    path: Path | None,
    kind: type[Kind],
    make: Callable[[], Kind],
    made_from: Mapping[str, str] | None = None,
) -> Kind:
    """Load the result that is kept at `path`, or make it and keep it there (None: only make it).

    In a job all processes call this and make it together; the first keeps it, the others load that.

    Args:
        path: without a suffix.
        kind: of the result.
        make: makes it.
        made_from: digest of each thing that it depends on now. What was kept from other things is
            made anew, which is logged; what an earlier version kept without digests is taken.

    Raises:
        StoreError: what is there is damaged or of another kind; remove it to have it made again.

    Examples:
        >>> from emergence_ext import store
        >>> import emergence_ext as ee
        >>> def fit():
        ...     print("fits")
        ...     return ee.RegionImportance(max_evals=5).fit(torch.rand(6, 4, 5), torch.rand(6, 6))
        ...
        >>> first = store.once("importance", ee.RegionImportance, fit)
        fits
        >>> again = store.once("importance", ee.RegionImportance, fit)
    """
    if path is None:
        return make()
    there = kept(path, kind, made_from) if parallel.leads() else None
    if not parallel.first(lambda: there is not None):
        made = make()
        parallel.first(lambda: made.save(path, made_from))
        there = made if parallel.leads() else None
    return kind.load(path) if there is None else there


def _field_hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _below(place: str, name: object) -> str:
    return f"{place}/{name}" if place else str(name)


def take_fields(
    values: Mapping[str, Any],
    hints: Mapping[str, Any],
    place: str,
    arrays: dict[str, Tensor],
    unprefixed: Collection[str] = (),
) -> dict[str, Any]:
    """Put the tensors of the values that `hints` names into `arrays` and return the settings."""
    settings = {
        name: _take(hint, values[name], "" if name in unprefixed else _below(place, name), arrays)
        for name, hint in hints.items()
    }
    return {name: setting for name, setting in settings.items() if setting is not _IN_ARRAYS}


def _take(hint: Any, value: Any, place: str, arrays: dict[str, Tensor]) -> Any:
    """Put the tensors of one value into `arrays`, at `place` or below; return its setting."""
    if value is None:
        return None
    hint = _required(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Tensor:
        arrays[place] = value
        return _IN_ARRAYS
    if origin is dict:
        items = {k: _take(inner[1], x, _below(place, k), arrays) for k, x in value.items()}
        return list(items) if inner[1] is Tensor else items
    if origin in (list, tuple):
        hints = zip(_item_hints(hint, len(value)), value, strict=True)
        rest = [_take(h, x, _below(place, i), arrays) for i, (h, x) in enumerate(hints)]
        return _IN_ARRAYS if rest and all(x is _IN_ARRAYS for x in rest) else rest
    if _is_saved(hint):
        own, settings = value._state()
        arrays |= {_below(place, name): x for name, x in own.items()}
        return settings
    if is_dataclass(hint):
        return take_fields(vars(value), _field_hints(hint), place, arrays)
    return value


def read_fields(
    hints: Mapping[str, Any],
    place: str,
    arrays: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    unprefixed: Collection[str] = (),
) -> dict[str, Any]:
    """Undo `take_fields`, less the fields that are not there."""
    values = {}
    for name, hint in hints.items():
        own = _below(place, name)
        if name in settings or any(x == own or x.startswith(f"{own}/") for x in arrays):
            own = "" if name in unprefixed else own
            values[name] = _read(hint, settings.get(name, _IN_ARRAYS), own, arrays)
    return values


def _read(hint: Any, setting: Any, place: str, arrays: Mapping[str, Tensor]) -> Any:
    """Undo `_take`."""
    if setting is None and NoneType in get_args(hint):
        return None
    hint = _required(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Tensor:
        return arrays[place]
    if origin is dict:
        items = dict.fromkeys(setting, _IN_ARRAYS) if inner[1] is Tensor else setting
        return {k: _read(inner[1], x, _below(place, k), arrays) for k, x in items.items()}
    if origin in (list, tuple):
        if setting is _IN_ARRAYS:
            setting = [_IN_ARRAYS for _ in takewhile(lambda i: f"{place}/{i}" in arrays, count())]
        if not isinstance(setting, list):
            raise TypeError(f"{place}: expected a list, got {setting!r:.80}")
        hints = zip(_item_hints(hint, len(setting)), setting, strict=True)
        return origin(_read(h, x, _below(place, i), arrays) for i, (h, x) in enumerate(hints))
    if _is_saved(hint):
        length = len(_below(place, ""))
        own = {name[length:]: x for name, x in arrays.items() if name.startswith(f"{place}/")}
        return hint._from_state(own if place else arrays, setting)
    if is_dataclass(hint):
        make: Any = hint
        return make(**{**setting, **read_fields(_field_hints(hint), place, arrays, setting)})
    return setting


def _required(hint: Any) -> Any:
    """The X of `X | None`; any other hint as it is."""
    if get_origin(hint) not in (UnionType, Union):
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 else hint


def _item_hints(hint: Any, length: int) -> Any:
    """The hints of the items of a list or tuple of some length."""
    items = get_args(hint)
    return items[:1] * length if get_origin(hint) is list or items[-1:] == (...,) else items


def _is_saved(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Saved)
