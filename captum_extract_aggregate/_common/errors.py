"""The errors that this package raises for a user's mistake, and the words that several modules share."""

from __future__ import annotations

import difflib
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from captum_extract_aggregate._common.own_code import place_of

_MOST_LISTED, _AT_EACH_END = 40, 10  # names


class CaptumExtractAggregateError(Exception):
    """Is the base of every error that this package raises for a user's mistake.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> try:
        ...     cea.NormGrad(cea.load_scene_model("vgg"), "features.99")
        ... except cea.CaptumExtractAggregateError as error:
        ...     print(type(error).__name__, isinstance(error, ValueError))
        InvalidValueError True
    """


class InvalidValueError(CaptumExtractAggregateError, ValueError):
    """Says that an argument has a value that cannot be used; the text says which, what was got and what was
    expected."""


class InvalidTypeError(CaptumExtractAggregateError, TypeError):
    """Says that an argument is of a type that cannot be used, or is not taken; the text says which, and what to do
    instead."""


for _error in (CaptumExtractAggregateError, InvalidValueError, InvalidTypeError):
    _error.__module__ = "captum_extract_aggregate"  # where users find them, and tracebacks name them


def unknown_name(what: str, got: object, known: Iterable[str], hint: str = "") -> str:
    """Returns `what is 'got', which ...; did you mean ...?` with names that hold what was typed as a word, then those
    spelled alike; where none is close all names, or the first and the last of many."""
    names = list(known)
    folded = {_folded(name): name for name in reversed(names)}
    typed = _folded(str(got))
    with_it = [n for n in names if typed and typed != _folded(n) and typed in re.split(r"\W+", _folded(n))]
    alike = [folded[n] for n in difflib.get_close_matches(typed, folded, n=3, cutoff=0.5)]
    close = list(dict.fromkeys([*with_it, *alike]))[:3]
    choice = f"did you mean {_listed(close)}?" if close else f"expected one of {_listed_shortly(names)}"
    return f"{what} is {got!r}, which is unknown; {choice}{hint}"


def taken_name(what: str, got: object, cure: str) -> str:
    """Returns `what is 'got', which is taken ...`; `cure` is the call that undoes an exchange."""
    return (
        f"{what} is {got!r}, which is taken; expected another, or overwrite=True, which exchanges it for the whole "
        f"process ({cure} then brings the package's own back)"
    )


def _listed_shortly(names: list[str]) -> str:
    """Returns the names, of many the first and the last: a network's head stands at its end."""
    if len(names) <= _MOST_LISTED:
        return _listed(names)
    first, last = names[:_AT_EACH_END], names[-_AT_EACH_END:]
    return f"{_listed(first)}, ... ({len(names) - 2 * _AT_EACH_END} more) ..., {_listed(last)}"


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def index_of_name(what: str, text: str, names: Sequence[str]) -> int | None:
    """Returns the place of a name in a list: spelled exactly so, else without regard to case; None where it is not
    there.

    Raises:
        ValueError: for a name that is there several times, with the index of each.

    Example:
        >>> from captum_extract_aggregate._common.errors import index_of_name
        >>> names = ["Cardigan", "cardigan", "crane", "crane", "Boxer"]
        >>> [index_of_name("target", text, names) for text in ("cardigan", "boxer", "dog")]
        [1, 4, None]
    """
    exact = [i for i, name in enumerate(names) if name == text]
    found = exact or [i for i, name in enumerate(names) if _folded(name) == _folded(text)]
    if len(found) > 1:
        listed = ", ".join(f"{i} ({names[i]!r})" for i in found)
        raise InvalidValueError(
            f"{what} is {text!r}, which is the name of {len(found)} classes; expected an index: {listed}"
        )
    return found[0] if found else None


def _folded(name: str) -> str:
    """Returns a name in one spelling, whatever its case, the spaces around it and the way its accents are written."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an exception says that memory ran out: Python's, CUDA's, or torch's allocator's on the CPU."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in told for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def said(error: BaseException) -> str:
    """Returns an exception in one line: its type, its words, and where in the user's own code it arose."""
    words = " ".join(str(error).split())
    return (f"{type(error).__name__}: {words}" if words else type(error).__name__) + place_of(error)


def is_file(path: str | Path) -> bool:
    """Tells whether there is a file of this name, on a disk; not so for a name that no file can have."""
    try:
        return Path(path).is_file() and not is_virtual(Path(path))
    except (OSError, ValueError):  # too long, in a folder that may not be read, with a NUL
        return False


def is_virtual(path: Path) -> bool:
    """Tells whether a path lies in /proc, /sys or /dev, where reading may wait, and walking go round, for ever."""
    real = path.resolve()
    return any(map(real.is_relative_to, ("/proc", "/sys", "/dev"))) and not real.is_relative_to("/dev/shm")


def make_folder(what: str, folder: Path) -> None:
    """Makes a folder, if it is not there; our error where that cannot be, or nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise InvalidValueError(f"{what} is {str(folder)!r}; expected a folder that can be written ({why})") from None
