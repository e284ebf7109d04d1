"""Names and arguments that go away: they work for two more minor versions, and say what to take instead."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


def deprecated(instead: str, *, since: str, removed: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Marks a function that goes away: each call warns with a `FutureWarning`, which users see by default.

    Args:
        instead: what to take, as a user would write it.
        since: the version that first warns.
        removed: the version that no longer has it.

    Example:
        >>> import warnings
        >>> from captum_extract_aggregate._common.deprecation import deprecated
        >>> @deprecated("new_name", since="0.2", removed="0.4")
        ... def old_name():
        ...     return 1
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     old_name()
        1
        >>> str(caught[0].message)
        'old_name is deprecated since 0.2 and will be removed in 0.4; use new_name'
    """

    def mark(function: Callable[P, Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def warned(*args: P.args, **kwargs: P.kwargs) -> Result:
            warn_deprecated(function.__qualname__, instead, since=since, removed=removed)
            return function(*args, **kwargs)

        return warned

    return mark


def warn_deprecated(name: str, instead: str, *, since: str, removed: str, stacklevel: int = 3) -> None:
    """Warns of an argument that goes away, at the line that called the function that asks for this."""
    text = f"{name} is deprecated since {since} and will be removed in {removed}; use {instead}"
    warnings.warn(text, FutureWarning, stacklevel=stacklevel)
