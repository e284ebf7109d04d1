"""Putting things back as they were, whatever interrupts it, and whatever other threads do meanwhile.

Python may raise an interrupt (Ctrl-C, or whatever a signal's handler raises) at the start of any function, at the end
of any call and at any backward jump: also in the first lines of an `__exit__`, or after a change whose undoing has not
been written down yet. Three rules leave no such gap, at no cost and without touching anybody's signal handlers:

- How something is undone is written down before it is done (`Undo.callback`).
- Every step may be taken twice: one that an interrupt has cut short is taken again, and the interrupt goes on to the
  user when all is done.
- An `Undo` is entered twice (`with Undo() as undo, undo:`), so that an interrupt that keeps one exit from beginning
  leaves the other.

Contexts of PyTorch's and of the model's that were cut short are seen to as well: first those written as generators are
closed, which would otherwise happen when the exception is forgotten, and change things once more.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from torch import nn
from torch.nn.modules import module as global_hooks

_MANAGER = contextlib._GeneratorContextManager
_CUT_SHORT = (_MANAGER.__enter__.__code__, _MANAGER.__exit__.__code__)
_TRIES = 100  # of a step that raises each time: it is not interrupted but fails


class Undo:
    """Holds the steps that put things back, taken at the end, the last one first; enter it twice (see above)."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def callback(self, step: Callable[..., object], *args: Any) -> None:
        """Comes before what the step undoes, which may then never have been done; the step itself may run twice."""
        self._steps.append((step, args))

    def hook(self, module: nn.Module, register: str, hook: Callable[..., Any], **kwargs: Any) -> None:
        """Registers a hook by the name of the module's method; it is found again by itself, not by a handle."""
        self.callback(_unhook, module, hook)
        getattr(module, register)(hook, **kwargs)

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: object, error: object, where: TracebackType | None) -> None:
        raised: BaseException | None = None
        steps, tries = self._steps, 0
        if steps and where is not None:
            self.callback(_close_contexts, where)
        while steps:
            try:
                step, args = steps[-1]
                step(*args)
                steps.pop()
                tries = 0
            except BaseException as error:  # an interrupt, which must not leave the rest undone
                raised, tries = error, tries + 1
                if tries == _TRIES:
                    steps.pop()
                    tries = 0
        if raised is not None:
            try:
                raise raised
            finally:
                raised = None  # its traceback holds this frame


def _close_contexts(raised: TracebackType) -> None:
    """Ends the generators of contexts that an exception has kept from doing so, the innermost first."""
    for frame, _ in reversed(list(traceback.walk_tb(raised))):
        if frame.f_code in _CUT_SHORT:
            frame.f_locals["self"].gen.close()


def _unhook(module: nn.Module, hook: Callable[..., Any]) -> None:
    for hooks, marks in (
        (module._forward_hooks, (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)),
        (module._forward_pre_hooks, (module._forward_pre_hooks_with_kwargs,)),
    ):
        for key in _keys(hooks, hook):
            for held in (*marks, hooks):  # the hook itself last: until then it can be found again
                held.pop(key, None)  # type: ignore[attr-defined]


def hook_everywhere(undo: Undo, hook: Callable[..., Any]) -> None:
    """Registers a hook that runs before the forward of every module of this process, whatever thread it runs in."""
    undo.callback(_unhook_everywhere, hook)
    global_hooks.register_module_forward_pre_hook(hook)


def _unhook_everywhere(hook: Callable[..., Any]) -> None:
    for key in _keys(global_hooks._global_forward_pre_hooks, hook):
        global_hooks._global_forward_pre_hooks.pop(key, None)


def _keys(hooks: dict[int, Any], hook: Callable[..., Any]) -> Iterable[int]:
    return [key for key, value in tuple(hooks.items()) if value is hook]  # a copy: other threads add theirs


class Turn:
    """One thread at a time, and in it whatever a signal's handler runs meanwhile, too.

    A lock cannot be given back by a step that may be taken twice: an interrupt between the end of a `with` block and
    its exit would leave it taken, and every other thread waiting.
    """

    __slots__ = ("_holder",)

    def __init__(self) -> None:
        self._holder: dict[str, tuple[int, object]] = {}  # one entry at most: the thread, and which of its calls

    def take(self, undo: Undo) -> None:
        """Waits for the turn, which is held until all is undone."""
        mine = threading.get_ident(), object()
        undo.callback(self._give_back, mine)
        while self._holder.setdefault("now", mine)[0] != mine[0]:  # which Python does in one step
            time.sleep(1e-5)

    def _give_back(self, mine: tuple[int, object]) -> None:
        if self._holder.get("now") is mine:
            self._holder.pop("now", None)

    @property
    def is_free(self) -> bool:
        """Whether nobody holds it."""
        return not self._holder


class ProcessWide:
    """Holds a setting of the whole process, which passes of several threads may change at once.

    Each notes what it found. One that ends while another thread's goes on leaves the setting alone, and what it found
    to threads that came after it: so the last one to end puts back what was there before the first.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self._read, self._write = read, write
        self._found: dict[object, tuple[int, Any]] = {}  # in the order in which they came
        self.turn = Turn()

    def keep(self, undo: Undo) -> None:
        """Notes the setting; the caller may change it from now on."""
        mine = object()
        undo.callback(self._put_back, mine)
        with Undo() as held, held:
            self.turn.take(held)
            self._found[mine] = threading.get_ident(), self._read()

    def _put_back(self, mine: object) -> None:
        with Undo() as held, held:
            self.turn.take(held)
            if mine not in self._found:
                return
            thread, value = self._found[mine]
            outermost: dict[int, object] = {}
            for one, (theirs, _) in tuple(self._found.items()):
                outermost.setdefault(theirs, one)
            came = list(self._found)
            del outermost[thread]
            if not outermost:
                self._write(value)
            for other, one in outermost.items():
                if came.index(one) > came.index(mine):
                    self._found[one] = other, value
            del self._found[mine]
