"""Shows a warning once in a run, whatever happens meanwhile.

Python forgets which warnings it has shown whenever anybody enters `warnings.catch_warnings`, as Pillow's, matplotlib's
and pandas' users do for every picture and chart; a run of hundreds of batches then repeats itself hundreds of times.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from captum_extract_aggregate._common.undo import Undo

Show = Callable[..., Any]


def show_warnings_once(undo: Undo) -> None:
    """Makes Python show each distinct warning once, until `undo` is left."""
    plain = warnings.showwarning
    undo.callback(setattr, warnings, "showwarning", plain)
    warnings.showwarning = once(plain)


def once(show: Show) -> Show:
    """Returns what shows a warning as `show` does (see `warnings.showwarning`), but each text only once."""
    shown: set[tuple[type[Warning], str]] = set()

    def show_new(message: Warning | str, category: type[Warning], *about: Any, **more: Any) -> None:
        if (category, str(message)) not in shown:
            shown.add((category, str(message)))
            show(message, category, *about, **more)

    return show_new
