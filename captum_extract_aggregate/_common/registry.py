"""The one shape of whatever users can add to: things by name, of which a clash is refused unless it is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from captum_extract_aggregate._common.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name, in the order in which they were registered.

    Args:
        what: what one of them is called in errors, such as "measure".
        hint: what an error for an unknown name ends with.

    Example:
        >>> from captum_extract_aggregate._common.registry import Registry
        >>> sizes: Registry[int] = Registry("size")
        >>> sizes.register("small", 3)
        >>> sizes["smal"]
        Traceback (most recent call last):
        ...
        ValueError: size is 'smal', which is unknown; did you mean 'small'?
    """

    def __init__(self, what: str, hint: str = "") -> None:
        self.what, self.hint = what, hint
        self._held: dict[str, T] = {}

    def register(self, name: str, value: T, overwrite: bool = False) -> None:
        """Adds a thing.

        Raises:
            ValueError: for a name that is taken, unless `overwrite` is True.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"{self.what} is {name!r}; expected a name")
        if name in self._held and not overwrite:
            raise ValueError(f"{self.what} is {name!r}, which is taken; expected another name, or overwrite=True")
        self._held[name] = value

    def decorator(self, name: str, overwrite: bool = False) -> Callable[[T], T]:
        """Registers what stands below it, as `register` does."""

        def add(value: T) -> T:
            self.register(name, value, overwrite)
            return value

        return add

    def unregister(self, name: str) -> None:
        """Takes a thing away.

        Raises:
            ValueError: for a name that is not there, with the nearest that is.
        """
        self[name]
        del self._held[name]

    def names(self) -> list[str]:
        """All names, in the order in which they were registered."""
        return list(self._held)

    def __getitem__(self, name: str) -> T:
        if name not in self._held:
            raise ValueError(unknown_name(self.what, name, self._held, self.hint))
        return self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
