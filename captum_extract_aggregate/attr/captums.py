"""Captum's own classes by name, and how many layers a class of anyone's takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import captum.attr
from captum.attr import Attribution

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name


def called(name: str) -> str | None:
    """Returns the name of Captum's method whose class is called so, in any case; None where there is none."""
    return {n.casefold(): n for n in names()}.get(name.casefold())


def names() -> list[str]:
    """Returns the names of Captum's methods that can be made from a model (and a layer) alone."""
    return [name for name in captum.attr.__all__ if _is_method(getattr(captum.attr, name))]


def find_class(name: str) -> Callable[..., Attribution]:
    """Returns Captum's class of a name.

    Raises:
        ValueError: for what is no method of Captum's, and for one that cannot be made from a model and a layer alone.
    """
    method: Any = getattr(captum.attr, name) if name in captum.attr.__all__ else None
    if _is_method(method):
        return method  # type: ignore[no-any-return]
    known = [f"captum:{n}" for n in names()]
    needed = _more_that_it_needs(method)
    if not needed:
        raise InvalidValueError(unknown_name("method", f"captum:{name}", known))
    raise InvalidValueError(
        f"method is 'captum:{name}', which needs more than a model, a layer and inputs ({', '.join(needed)}), so "
        f"that it cannot be made from its name; expected one of {', '.join(known)}"
    )


def layers_taken(make: Callable[..., Any]) -> str:
    """Returns how many layers a class or a function takes beside a model: a `"list"`, `"one"` (as Captum's), or
    `"none"`."""
    parameters = inspect.signature(make).parameters
    if "layers" in parameters:
        return "list"
    if "layer" not in parameters:
        return "none"
    bases = make.__mro__ if isinstance(make, type) else ()
    return "list" if any(base.__module__.startswith("captum_extract_aggregate.") for base in bases) else "one"


def _is_method(thing: Any) -> bool:
    """Tells whether a class of Captum's makes maps of a model (and a layer) and its inputs alone."""
    if not isinstance(thing, type) or not issubclass(thing, Attribution):
        return False
    return callable(getattr(thing, "attribute", None)) and not _more_that_it_needs(thing)


def _more_that_it_needs(thing: Any) -> list[str]:
    """Returns what a method has to be given beside a model, a layer and inputs."""
    if not isinstance(thing, type) or not issubclass(thing, Attribution):
        return []
    needed = [*_required(thing), *_required(getattr(thing, "attribute", None))]
    return [name for name in needed if name not in ("self", "model", "forward_func", "layer", "inputs")]


def _required(function: Any) -> list[str]:
    if not callable(function):
        return []
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
