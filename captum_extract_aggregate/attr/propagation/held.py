"""What a balanced pass remembers of tensors: that they are held, or came out of an activation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._engine.operations import tensors_in


class Marks:
    """The marks of one pass. They are kept beside the tensors, some of which are the model's own."""

    def __init__(self) -> None:
        self._held: Any = WeakIdKeyDictionary()
        self._activated: Any = WeakIdKeyDictionary()

    def hold(self, output: Any) -> None:
        """Marks what has no gradient."""
        for t in tensors_in(output):
            if not t.requires_grad and t.is_floating_point():
                self._held[t] = True

    def is_held(self, t: Tensor) -> bool:
        """Tells whether it depends on the input only as something that is held."""
        return not t.requires_grad and t in self._held

    def is_activated(self, t: Tensor) -> bool:
        """Tells whether it came out of an activation."""
        return t in self._activated

    def mark_activated(self, outputs: Iterable[Tensor]) -> None:
        """Marks what came out of an activation."""
        for t in outputs:
            self._activated[t] = True

    def unmark_activated(self, outputs: Iterable[Tensor]) -> None:
        """Takes the mark from what came out of something else, in place."""
        for t in outputs:
            self._activated.pop(t, None)
