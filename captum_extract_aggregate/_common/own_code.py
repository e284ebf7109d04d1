"""Which code is the user's own, and where in it an error arose."""

from __future__ import annotations

import sysconfig
import traceback
from functools import lru_cache
from pathlib import Path

_OUR_OWN = Path(__file__).parent.parent


@lru_cache(maxsize=1024)
def is_foreign(path: Path) -> bool:
    """Tells whether a file is installed, or part of this package."""
    installed = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    parents = set(path.absolute().parents)
    return (
        bool(parents & installed) or _OUR_OWN in parents or bool({"site-packages", "dist-packages"} & set(path.parts))
    )


def place_of(error: BaseException) -> str:
    """Returns ` (FILE.py, line N)`, the innermost place of an error in a file of the user's own; "" where it was in
    none between where it arose and where it was caught.

    Example:
        >>> from captum_extract_aggregate._common.own_code import place_of
        >>> place_of(ValueError("never raised"))
        ''
    """
    frames = traceback.walk_tb(error.__traceback__)
    places = [(Path(frame.f_code.co_filename), line) for frame, line in frames]
    own = [f" ({path.name}, line {line})" for path, line in places if path.is_file() and not is_foreign(path)]
    return own[-1] if own else ""
