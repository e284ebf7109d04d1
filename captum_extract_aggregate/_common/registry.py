"""One shape for every table of things that have a name and that users can add to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, taken_name, unknown_name

KeyT = TypeVar("KeyT")
T = TypeVar("T")
AnyT = TypeVar("AnyT")


class Table(Generic[KeyT, T]):
    """Holds things of one kind by their keys, in the order in which they were registered, for the whole process.

    Subclasses say which spellings of a key are known (`find`) and what errors call it (`described`).

    Args:
        kind: what the things are, as errors call it (`"aggregate"`).
        unregister: the public function that takes one away, as errors call it (`"unregister_aggregate"`).
    """

    def __init__(self, kind: str, unregister: str) -> None:
        self.kind = kind
        self._unregister = unregister
        self._things: dict[KeyT, T] = {}
        self._own: dict[KeyT, T] = {}

    def find(self, name: Any) -> KeyT | None:
        """Returns the key that `name` means; None where nothing is known by it."""
        try:
            return name if name in self._things else None
        except TypeError:  # it cannot be hashed
            return None

    def described(self, name: Any) -> Any:
        """Returns what errors call a key: as it is written, unless a subclass knows better."""
        return name

    def register(self, name: KeyT, value: T, overwrite: bool = False) -> None:
        """Makes `value` available as `name`.

        Raises:
            TypeError: for what cannot be a name.
            ValueError: for a name that is taken, unless `overwrite` is True.
        """
        self.check_free(name, overwrite)
        known = self.find(name)
        self._things[name if known is None else known] = value

    def decorator(self, name: KeyT, overwrite: bool = False) -> Callable[[AnyT], AnyT]:
        """Returns a decorator that registers what it decorates and returns it unchanged.

        A clash is an error where the decorator is made, before anything is defined under it.
        """
        self.check_free(name, overwrite)

        def register(value: AnyT) -> AnyT:
            self.register(name, value, overwrite)  # type: ignore[arg-type]
            return value

        return register

    def check_free(self, name: KeyT, overwrite: bool = False) -> None:
        """Raises the errors of `register`, and registers nothing."""
        if self.find(name) is not None and not overwrite:
            told = self.described(name)
            raise InvalidValueError(taken_name(f"the {self.kind}", told, f"{self._unregister}({told!r})"))

    def unregister(self, name: KeyT) -> None:
        """Forgets a name, or brings back what it meant when the table was sealed, if that was overwritten.

        Raises:
            ValueError: for a name that is unknown.
        """
        key = self.check(name)
        if key in self._own:
            self._things[key] = self._own[key]
        else:
            del self._things[key]

    def seal(self) -> None:
        """Remembers everything registered so far as the package's own, which `unregister` brings back."""
        self._own = dict(self._things)

    def is_changed(self) -> bool:
        """Tells whether it is another table than when it was sealed."""
        return self._things != self._own

    def names(self) -> list[KeyT]:
        """Returns all keys, in the order in which they were registered."""
        return list(self._things)

    def items(self) -> list[tuple[KeyT, T]]:
        """Returns all keys with what is registered by them."""
        return list(self._things.items())

    def check(self, name: Any, hint: str = "") -> KeyT:
        """Returns the key that `name` means.

        Raises:
            ValueError: for one that is unknown, with the nearest ones and `hint`.
        """
        key = self.find(name)
        if key is None:
            raise InvalidValueError(
                unknown_name(self.kind, self.described(name), map(self.described, self._things), hint)
            )
        return key

    def get(self, name: KeyT) -> T | None:
        """Returns what is registered by exactly this key; None where nothing is."""
        return self._things.get(name)

    def __getitem__(self, name: KeyT) -> T:
        return self._things[self.check(name)]

    def __contains__(self, name: object) -> bool:
        return self.find(name) is not None

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._things)


class Registry(Table[str, T]):
    """Holds things of one kind by their names.

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
        captum_extract_aggregate.InvalidValueError: greeting is 'englich', which is unknown; did you mean 'english'?
    """

    def check_free(self, name: str, overwrite: bool = False) -> None:
        """Raises the errors of `register`, and registers nothing."""
        if not isinstance(name, str) or not name:
            raise InvalidTypeError(f"name is {name!r}; expected a string, by which the {self.kind} is found")
        super().check_free(name, overwrite)
