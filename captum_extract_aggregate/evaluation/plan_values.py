"""The values that plans hold, as pydantic checks them, and the one line that tells of a wrong one."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name

T = TypeVar("T")
_LARGEST = 2**53  # whole numbers up to here are exact in every part, JSON and float64 among them
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table of keys and values",
    "dataclass_type": "a table of keys and values",
    "finite_number": "a finite number",
    "string_unicode": "text without NUL characters, in UTF-8",
}


def expected(what: str) -> PydanticCustomError:
    """Returns the error of a value that is wrong in a way that pydantic does not know; `what` stands after
    "expected"."""
    return PydanticCustomError("expected", "{what}", {"what": what})  # type: ignore[arg-type]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise expected(_EXPECTED["string_unicode"])
    return text


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_json(value: Any) -> Any:
    """Returns arguments as JSON keeps them."""
    if not isinstance(value, dict):
        return value
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise expected(f"text, numbers, true or false, lists and tables ({error})") from None


Text = Annotated[str, Strict(), AfterValidator(_without_nul)]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict(), Field(ge=0, le=_LARGEST)]
Positive = Annotated[int, Strict(), Field(ge=1, le=_LARGEST)]
List = Annotated[tuple[T, ...], Strict(), BeforeValidator(_as_tuple)]
Arguments = Annotated[dict[str, Any], BeforeValidator(_as_json)]
TextOrNumbers = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[List[Number], Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, (list, tuple)) else "<text>"),
]


def between(least: int, most: int) -> Callable[[int], int]:
    """Returns the check of a range that is told as one."""

    def check(value: int) -> int:
        if not least <= value <= most:
            raise expected(f"{least} to {most}")
        return value

    return check


def one_of(list_names: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    """Returns the check of a name in a registry, told as the choice of a `Literal` is."""

    def check(value: str) -> str:
        if value not in list_names():
            named = ", ".join(map(repr, list_names()))
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": named})
        return value

    return check


# --- Errors ----------------------------------------------------------------------------------------------------------


def in_one_line(name: str) -> Callable[[type[T]], type[T]]:
    """Returns a decorator above a pydantic dataclass: a wrong value is a ValueError of one line, which calls it
    `name`."""

    def wrap(kind: type[T]) -> type[T]:
        checked = kind.__init__

        @functools.wraps(checked)
        def init(self: T, *args: Any, **kwargs: Any) -> None:
            try:
                checked(self, *args, **kwargs)
            except ValidationError as error:
                raise InvalidValueError(told(error, kind, name)) from None

        kind.__init__ = init  # type: ignore[method-assign,assignment]
        return kind

    return wrap


def told(error: ValidationError, kind: type, name: str = "") -> str:
    """Returns the first of the errors in one line: the key, what was got, and what was expected, with the nearest
    choice."""
    ranks = ("unexpected_keyword_argument", "missing")
    details = error.errors(include_url=False)
    first = min(details, key=lambda e: ranks.index(e["type"]) if e["type"] in ranks else len(ranks))
    return _line(first, kind, name)


def _line(error: ErrorDetails, kind: type, name: str) -> str:
    path = [part for part in error["loc"] if not str(part).startswith("<")]
    if path and isinstance(path[0], int):  # positional
        path[0] = dataclasses.fields(kind)[path[0]].name  # type: ignore[arg-type]
    where, got, context = _where(name, path), error["input"], error.get("ctx", {})
    above = _where(name, path[:-1]) or "the plan"
    if error["type"] == "unexpected_keyword_argument":
        return unknown_name(
            f"a key of {above}", path[-1], [f.name for f in dataclasses.fields(_kind_at(kind, path[:-1]))]
        )
    if error["type"] == "missing":
        return f"{above} lacks {path[-1]!r}; expected it"
    if error["type"] == "literal_error":
        return unknown_name(where, got, [choice for choice in re.findall("'([^']*)'", context["expected"]) if choice])
    if error["type"] == "value_error":  # of several keys together, which the error names
        return f"{where}.{context['error']}" if where else str(context["error"])
    return f"{where or 'the plan'} is {shown(got)}; expected {_expected(error)}"


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "greater_than_equal":
        return f"at least {context['ge']}"
    if error["type"] == "less_than_equal":
        return f"at most {context['le']}"
    return _EXPECTED.get(error["type"], error["msg"])


def _where(name: str, path: Sequence[int | str]) -> str:
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return (name + parts).lstrip(".")


def _kind_at(kind: Any, path: Sequence[int | str]) -> Any:
    """Returns the class of a plan's part."""
    for key in path:
        if isinstance(key, str):
            kind = _class_in(typing.get_type_hints(kind)[key])
    return kind


def _class_in(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return hint
    return next((found for part in typing.get_args(hint) if (found := _class_in(part)) is not None), None)


def shown(value: object) -> str:
    """Returns a value, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def choices(literal: Any) -> tuple[str, ...]:
    """Returns the choices of a `Literal`, but for the empty one."""
    return tuple(choice for choice in typing.get_args(literal) if choice)
