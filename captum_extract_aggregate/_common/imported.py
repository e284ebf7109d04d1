"""Functions and classes of the user's own, from a file or a module that is named in text."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, unknown_name
from captum_extract_aggregate._common.own_code import place_of


class _Source(SourceFileLoader):
    """Compiles a file each time: byte code that is kept beside it is told apart by size and second alone."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)  # type: ignore[no-any-return]


def build_from(what: str, spec: str, **arguments: Any) -> Any:
    """Returns what the function in `FILE.py:FUNCTION` or `MODULE:FUNCTION` returns."""
    function = import_from(what, spec)
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:
        raise InvalidValueError(f"{what} is {spec!r}, which failed: {error!r}{place_of(error)}") from error


def import_from(what: str, spec: str) -> Callable[..., Any]:
    """Returns the function (or class) that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names."""
    where, _, name = spec.rpartition(":")
    if where.endswith(".py"):
        path = Path(where)
        if not is_file(path):
            raise InvalidValueError(f"{what} is {spec!r}, but there is no file {where!r}")
        module_spec = importlib.util.spec_from_file_location(path.stem, path, loader=_Source(path.stem, str(path)))
        assert module_spec is not None
        assert module_spec.loader is not None
        module, execute = importlib.util.module_from_spec(module_spec), module_spec.loader.exec_module
    try:
        if where.endswith(".py"):
            execute(module)
        else:
            module = importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise InvalidValueError(
            f"{what} is {spec!r}, but {where!r} cannot be imported: {error!r}{place_of(error)}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidValueError(unknown_name(what, name, [n for n in vars(module) if callable(vars(module)[n])]))
    return function
