"""How far a long work is: a bar in a terminal or notebook; elsewhere, as in a cluster's logs, a line at the start,
after the first step, and now and then.

Where nothing is to be shown there is no bar of tqdm's at all: one that is off takes tqdm's lock, too, and a Ctrl-C
within any bar may leave that taken by its thread. Every other thread, such as a server's, then waits for it for ever.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TypeVar

from tqdm.auto import tqdm

_EVERY = 30.0  # seconds between two lines
_T = TypeVar("_T")


def progress(total: int, unit: str, what: str, show: bool = True) -> Any:
    """Returns a context with `update(n)`, which shows how much of `total` is done, and how long the rest may take.

    Example:
        >>> from captum_extract_aggregate._common.progress import progress
        >>> with progress(3, "image", "Evaluation", show=False) as bar:
        ...     bar.update(2)
    """
    if not show:
        return Silent()
    if not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        return Lines(total, unit, what)
    return tqdm(total=total, unit=unit, desc=what, disable=None)


def each(items: Iterable[_T], what: str, show: bool, **options: Any) -> Iterable[_T]:
    """Returns the items, with a bar if it is asked for. `options`: of the bar.

    Example:
        >>> from captum_extract_aggregate._common.progress import each
        >>> list(each("ab", "Letters", show=False))
        ['a', 'b']
    """
    return tqdm(items, desc=what, **options) if show else items


class Silent:
    """Tells nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Counts nothing."""


class Lines:
    """Tells how far a work is in lines: at the start, after the first step, from which the rest can be told, and every
    half a minute."""

    def __init__(self, total: int, unit: str, what: str) -> None:
        self.total, self.unit, self.what = total, unit, what
        self.done, self.begun = 0, time.monotonic()
        self._told, self._told_of = self.begun, 0

    def __enter__(self) -> Lines:
        if self.total:
            self._say(f"0 of {self.total} {self.unit}s")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and self._told_of != self.done:
            self._tell(time.monotonic())

    def update(self, n: int = 1) -> None:
        """Counts what is done, and tells of it now and then."""
        self.done += n
        now = time.monotonic()
        if self._told_of == 0 or now - self._told >= _EVERY:
            self._tell(now)

    def _tell(self, now: float) -> None:
        took = now - self.begun
        left = took * (self.total - self.done) / max(self.done, 1)
        words = f"{tqdm.format_interval(took)} so far" + f", about {tqdm.format_interval(left)} left" * (left > 0)
        self._say(f"{self.done} of {self.total} {self.unit}s, {words}")
        self._told, self._told_of = now, self.done

    def _say(self, words: str) -> None:
        print(f"{self.what}: {words}", file=sys.stderr, flush=True)
