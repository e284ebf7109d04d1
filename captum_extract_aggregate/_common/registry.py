"""One shape for every table of things that have a name and that users can add to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from captum_extract_aggregate._common.errors import taken_name, unknown_name

T = TypeVar("T")
AnyT = TypeVar("AnyT")


class Registry(Generic[T]):
    """Things of one kind by their names, in the order in which they were registered, for the whole process.

    Args:
        kind: what the things are, as errors call it (`"aggregate"`).
        unregister: the public function that takes one away, as errors call it (`"unregister_aggregate"`).

    Example:
        >>> from captum_extract_aggregate._common.registry import Registry
        >>> greetings: Registry[str] = Registry("greeting", "unregister_greeting")
        >>> greetings.register("english", "hello")
        >>> greetings.seal()
        >>> greetings.register("english", "hi", overwrite=True)
        >>> greetings.unregister("english")
        >>> greetings["english"], greetings.names()
        ('hello', ['english'])
        >>> greetings["englich"]
        Traceback (most recent call last):
        ...
        ValueError: greeting is 'englich', which is unknown; did you mean 'english'?
    """

    def __init__(self, kind: str, unregister: str) -> None:
        self.kind = kind
        self._unregister = unregister
        self._things: dict[str, T] = {}
        self._own: dict[str, T] = {}

    def register(self, name: str, value: T, overwrite: bool = False) -> None:
        """Makes `value` available as `name`.

        Raises:
            TypeError: for a name that is no string, or an empty one.
            ValueError: for a name that is taken, unless `overwrite` is True.
        """
        self.check_free(name, overwrite)
        self._things[name] = value

    def decorator(self, name: str, overwrite: bool = False) -> Callable[[AnyT], AnyT]:
        """A decorator that registers what it decorates and returns it unchanged.

        A clash is an error where the decorator is made, before anything is defined under it.
        """
        self.check_free(name, overwrite)

        def register(value: AnyT) -> AnyT:
            self.register(name, value, overwrite)  # type: ignore[arg-type]
            return value

        return register

    def check_free(self, name: str, overwrite: bool = False) -> None:
        """Raises the errors of `register`, and registers nothing."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"name is {name!r}; expected a string, by which the {self.kind} is found")
        if name in self._things and not overwrite:
            raise ValueError(taken_name(f"the {self.kind}", name, f"{self._unregister}({name!r})"))

    def unregister(self, name: str) -> None:
        """Forgets a name, or brings back what it meant when the registry was sealed, if that was overwritten.

        Raises:
            ValueError: for a name that is unknown.
        """
        self.check(name)
        del self._things[name]
        if name in self._own:
            self._things[name] = self._own[name]

    def seal(self) -> None:
        """Remembers everything registered so far as the package's own, which `unregister` brings back."""
        self._own = dict(self._things)

    def names(self) -> list[str]:
        """All names, in the order in which they were registered."""
        return list(self._things)

    def check(self, name: str, hint: str = "") -> str:
        """The name itself if it is known.

        Raises:
            ValueError: for one that is unknown, with the nearest names and `hint`.
        """
        if name not in self:
            raise ValueError(unknown_name(self.kind, name, self._things, hint))
        return name

    def __getitem__(self, name: str) -> T:
        return self._things[self.check(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._things)
