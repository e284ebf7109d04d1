"""What commands print: results, and errors and warnings of one line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import typer

from captum_extract_aggregate._common.errors import InvalidValueError, is_out_of_memory, said
from captum_extract_aggregate._common.warned_once import once

_LONGEST = 900  # of an error


@contextlib.contextmanager
def clear_errors(options: Mapping[str, object]) -> Iterator[None]:
    """Prints a user's mistake, or whatever a model or a library raises, in one line, with exit status 2; warnings
    too."""
    try:
        _check_text(options)
        with warnings.catch_warnings():
            warnings.showwarning = once(_say_warning)
            yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        is_clear = isinstance(error, (ValueError, TypeError, OSError, ImportError)) and str(error)
        told = str(error) if is_clear else said(error)
        if is_out_of_memory(error) and not is_clear:
            told = f"memory ran out ({told}); expected a smaller size, fewer images at a time, or later layers"
        typer.echo("error: " + _cut(" ".join(told.split())), err=True)
        raise typer.Exit(2) from None


def _cut(line: str) -> str:
    """Returns a line without the middle of what is longer than can be read at once: what was wrong stands first, and
    what to do last."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 303]} ... {line[-298:]}"


def _say_warning(message: Warning | str, *about: object, **more: object) -> None:
    typer.echo("warning: " + " ".join(str(message).split()), err=True)


def _check_text(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, (str, Path)) and "\0" in str(part):
                raise InvalidValueError(
                    f"{name.replace('_', '-')} is {str(part)!r}; expected text without NUL characters"
                )


def say_written(paths: list[Path]) -> None:
    """Tells of files, a line each."""
    say("\n".join(f"written: {path}" for path in paths))


def say(text: str) -> None:
    """Prints text, also of file names that are none."""
    typer.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))
