"""What the page may ask for: every value has a kind and an end, and what is more is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate.insights.offered import LIMITS, names, offered, values_of

MOST_MAPS = 12  # side by side

_Text = Annotated[str, Field(max_length=300)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Look(_Asked):
    """Asks what a model sees in a picture: its scores, and the layers that it offers."""

    picture: _Text
    model: _Text


class Judge(_Asked):
    """Asks which pictures a model gets right."""

    model: _Text


class Choice(_Asked):
    """Asks for one map. `layer` "" is the usual one, `target` None the class with the highest score."""

    model: _Text
    method: _Text
    layer: _Text = ""
    target: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    arguments: Annotated[dict[_Text, Annotated[int, Field(strict=True)] | _Text], Field(max_length=8)] = {}

    def values(self) -> dict[str, Any]:
        """Returns the method and its arguments as its class takes them; our error for what the page does not offer."""
        if self.method not in names():
            raise InvalidValueError(unknown_name("method", self.method, names()))
        known = offered(self.method)
        for name, value in self.arguments.items():
            _check(self.method, known, name, value)
        return values_of(self.method, self.arguments)


class Maps(_Asked):
    """Asks for maps of one picture."""

    picture: _Text
    maps: Annotated[list[Choice], Field(min_length=1, max_length=MOST_MAPS)]


class Doubt(_Asked):
    """Asks whether one map can be trusted."""

    picture: _Text
    map: Choice


def read(kind: type[BaseModel], body: bytes) -> Any:
    """Returns a request. Raises ValueError with one line that says which part is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:40] for part in first["loc"]) or "the request"
        raise InvalidValueError(f"{where}: {first['msg']}") from None


def _check(method: str, known: Mapping[str, int | dict[str, Any]], name: str, value: int | str) -> None:
    if name not in known:
        raise InvalidValueError(unknown_name(f"an argument of {method}", name[:80], known))
    choices = known[name]
    if isinstance(choices, int):
        low, high = LIMITS
        if not isinstance(value, int) or not low <= value <= high:
            raise InvalidValueError(f"{name} is {value!r}; expected a whole number from {low} to {high}")
    elif value not in choices:
        raise InvalidValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, list(choices)[:40]))}")
