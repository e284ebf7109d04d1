"""A model that is explained many times in a row: what preparing a pass finds out about it is found out once.

A session changes nothing. Each call freezes and hooks the model, and puts everything back, as any other; what it does
not do again is to look at every module for what has to be done. Whether the model is still the one that was looked at
(its modules, parameters, flags) is asked before every call, which takes a fifth of the time; if not, it is looked at
again.

And a pass of a session does not watch every module that runs, once a first one has run no modules but the model's own:
those of another model would have to be frozen too. (Where other threads are alive, or modules have hooks of the user's,
it does all the same.)
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import model_of
from captum_extract_aggregate._engine.model_parts import ModelParts, unseen
from captum_extract_aggregate._engine.surroundings import Facts

_OPEN: list[Session] = []


class Session:
    """Holds what is known of a model while one thread explains it."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.thread = model, threading.get_ident()
        self.looks = 0  # how often the model was looked at
        self.facts = Facts((model,))  # of its layouts
        self._parts: ModelParts | None = None
        self._state: list[Any] = []
        self._runs_alone = False

    def parts(self) -> ModelParts:
        """Returns the model's parts, looked at again where they have changed."""
        state = [] if self._parts is None else self._parts.state()
        if self._parts is None or state != self._state:
            self._parts = ModelParts(unseen(self.model, set()))
            self._state = self._parts.state()
            self.facts = Facts((self.model,))
            self._runs_alone = False
            self.looks += 1
        return self._parts

    def must_watch(self) -> bool:
        """Tells whether modules that the model does not hold may run, or its own in other threads."""
        alone = self._runs_alone and self._parts is not None and not self._parts.is_hooked()
        return not alone or len(sys._current_frames()) > 1

    def learn(self, met_others: bool) -> None:
        """Remembers what a whole forward has met."""
        self._runs_alone = not met_others


def session_of(model: nn.Module | None) -> Session | None:
    """Returns this thread's session of a model."""
    thread = threading.get_ident()
    return next((s for s in reversed(tuple(_OPEN)) if s.model is model and s.thread == thread), None)


def open_session(undo: Undo, forward_func: Callable[..., Any]) -> None:
    """Opens a session, until all is undone, for what calls methods many times; where there is no model, none."""
    model = model_of(forward_func)
    if model is not None and session_of(model) is None:
        session = Session(model)
        undo.callback(_close, session)
        _OPEN.append(session)


def _close(session: Session) -> None:
    if session in _OPEN:
        _OPEN.remove(session)


@contextlib.contextmanager
def prepared(model: Callable[..., Any]) -> Iterator[None]:
    """Within, methods explain the model as ever, and prepare it once: for many images, one after the other.

    A call looks at all modules of a model, to freeze, check and hook what has to be, and puts everything back. On a
    small network at batch 1 that is some per cent of the passes. Here most of it is done once for all calls of this
    thread. Maps are the same bit for bit, and between the calls the model is as you left it: you may train it, change
    its weights, or its flags, which the next call notices.

    One thing a call does not notice here: a module which the model does not hold (in a plain list, say), and which none
    of the calls before has run. Evaluation plans and the measures that explain many times do this by themselves.

    Args:
        model: the model, or the `forward_func` of the methods: a module, a method of one, or a partial of those.

    Raises:
        TypeError: if there is no module behind it.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> method = cea.NormGrad(model, "features.8")
        >>> with cea.prepared(model):
        ...     maps = [method.attribute(image[None], target=3) for image, _ in cea.DigitScenes(n=3)]
        >>> len(maps)
        3
    """
    if not callable(model) or model_of(model) is None:
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected the model (a module) that is explained")
    with Undo() as undo, undo:
        open_session(undo, model)
        yield
