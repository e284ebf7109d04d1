"""The words of errors that several modules share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(what: str, got: object, known: Iterable[str], hint: str = "") -> str:
    """`what is 'got', which ...; did you mean ...?` with the close matches, or all names where none is close."""
    names = list(known)
    close = difflib.get_close_matches(str(got), names, n=3, cutoff=0.5)
    choice = f"did you mean {_listed(close)}?" if close else f"expected one of {_listed(names[:40])}"
    return f"{what} is {got!r}, which is unknown; {choice}{hint}"


def taken_name(what: str, got: object, cure: str) -> str:
    """`what is 'got', which is taken ...`; `cure` is the call that undoes an exchange."""
    return (
        f"{what} is {got!r}, which is taken; expected another, or overwrite=True, which exchanges it for the whole "
        f"process ({cure} then brings the package's own back)"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
