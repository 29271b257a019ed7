"""What is fitted in the manner of scikit-learn: parameters, learned attributes, files of both."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self, get_origin, get_type_hints

from torch import Tensor

from emergence_ext.store.brief import brief
from emergence_ext.store.objects import Saved, read_fields, take_fields


class NotFittedError(ValueError, AttributeError):
    """Something is asked of an estimator that only `fit` learns.

    Examples:
        >>> import emergence_ext as ee
        >>> ee.SampleProjection().transform(torch.rand(5, 4))
        Traceback (most recent call last):
        emergence_ext.store.estimators.NotFittedError: ...
    """


class Estimator(Saved):
    """Give `save`, `load` and scikit-learn's conventions to what is fitted.

    The constructor keeps every parameter under its name, and what the class annotates is learned
    by `fit` (`Lambda_: Tensor`) or a parameter that is no JSON (`frame: Frame`). The annotated are
    stored like the fields of a dataclass, under their names without the underscore at the end, the
    other parameters in `settings["parameters"]`.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext.store import Estimator
        >>> issubclass(ee.SampleProjection, Estimator), ee.SampleProjection().set_params(dim=2)
        (True, SampleProjection(dim=2), not fitted)
    """

    _unsaved: ClassVar[tuple[str, ...]] = ()
    """Parameters that are not stored and take their default when loaded."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters of the constructor, as `sklearn.base.clone` asks for them.

        Args:
            deep: there for scikit-learn; no parameter has parameters of its own.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters of the constructor, which checks them; what was learned stays.

        Raises:
            ValueError: there is no such parameter, or a value is refused.
        """
        known = self.get_params()
        strange = sorted(parameters.keys() - known.keys())
        if strange:
            raise ValueError(
                f"set_params: {type(self).__name__} has no {strange[0]!r}; it has "
                f"{', '.join(known)}"
            )
        self.__init__(**{**known, **parameters})  # type: ignore[misc]
        return self

    def __repr__(self) -> str:
        signature = inspect.signature(type(self)).parameters
        given = [
            f"{name}={brief(x)}"
            for name, x in self.get_params().items()
            if signature[name].default is inspect.Parameter.empty or x != signature[name].default
        ]
        stats = vars(self).get("stats_")
        how = ""
        if stats is not None:
            losses = stats.losses
            how = f", fitted: loss {losses[0]:.4g} to {losses[-1]:.4g}, {stats.stopped}"
        return f"{type(self).__name__}({', '.join(given)}){how or ', not fitted'}"

    def __getattr__(self, name: str) -> Any:
        # Only what is not there comes here.
        if name.endswith("_") and not name.startswith("_") and name in self._annotated():
            raise NotFittedError(
                f"{type(self).__name__} has no {name} yet: call fit, or load a fitted one"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def _annotated(cls) -> dict[str, Any]:
        hints = get_type_hints(cls)
        return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays: dict[str, Tensor] = {}
        annotated = self._annotated()
        values = {name.removesuffix("_"): getattr(self, name) for name in annotated}
        hints = {name.removesuffix("_"): hint for name, hint in annotated.items()}
        left_out = {*annotated, *self._unsaved}
        parameters = {n: value for n, value in self.get_params().items() if n not in left_out}
        settings = take_fields(values, hints, "", arrays, self._unprefixed)
        return arrays, {"parameters": parameters, **settings}

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        annotated = cls._annotated()
        hints = {name.removesuffix("_"): hint for name, hint in annotated.items()}
        stored = read_fields(hints, "", arrays, settings, cls._unprefixed)
        values = {name: stored[name.removesuffix("_")] for name in annotated}
        given = {name: values[name] for name in inspect.signature(cls).parameters if name in values}
        new = cls(**given, **settings["parameters"])
        vars(new).update(values)
        return new
