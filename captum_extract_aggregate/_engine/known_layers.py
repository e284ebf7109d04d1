"""What passes have found out about layers: a cache, which spares the next pass a second forward. No map depends on it.

The tensors of a careful layer have been used before it gave them out (one of several outputs is computed from another,
or the layer gives out the very tensor that it was given), or were overwritten afterwards: with such a layer everything
is recorded from the network's start, and what it holds is copied. (Overwriting is found by PyTorch's version counter,
which does not see writing through `.data` or NumPy. The forward then runs once more; a model that changes buffers in
eval mode has changed them twice.)
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import nn


class KnownLayers:
    """Remembers layers for as long as they live."""

    def __init__(self) -> None:
        self._careful: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._plain: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._untold: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._of_examples: weakref.WeakKeyDictionary[nn.Module, set[tuple[int, ...]]] = weakref.WeakKeyDictionary()

    def careful(self, layers: Iterable[nn.Module]) -> set[nn.Module]:
        """Returns those layers that are known to need care."""
        return {layer for layer in layers if layer in self._careful}

    def gives_out_new_tensors(self, layer: nn.Module) -> bool | None:
        """Tells whether nothing uses a layer's tensors before it gives them out; None while no pass has looked."""
        if layer in self._careful:
            return False
        return True if _is_single_operation(layer) or layer in self._plain else None

    def is_told(self, layer: nn.Module) -> bool:
        """Tells whether no pass has missed a layer in its graph."""
        return layer not in self._untold

    def learn_untold(self, layers: Iterable[nn.Module]) -> None:
        """Remembers layers that a graph did not show."""
        self._untold.update(layers)

    def is_of_examples(self, layer: nn.Module | None, shape: tuple[int, ...]) -> bool:
        """Tells whether what a layer gives in that shape, but for dimension 0, is known to be as long as the batch."""
        return layer is not None and shape in self._of_examples.get(layer, ())

    def learn_of_examples(self, layer: nn.Module | None, shape: tuple[int, ...]) -> None:
        """Remembers that it is."""
        if layer is not None:
            self._of_examples.setdefault(layer, set()).add(shape)

    def learn_careful(self, layers: Iterable[nn.Module]) -> None:
        """Remembers layers that need care."""
        self._careful.update(layers)

    def learn_plain(self, layers: Iterable[nn.Module]) -> None:
        """Remembers layers that gave out nothing that had been used before."""
        self._plain.update(layers)


KNOWN_LAYERS = KnownLayers()


def _is_single_operation(layer: nn.Module) -> bool:
    """Tells whether nobody can have used what the layer gives out before it does."""
    return not layer._modules and type(layer).__module__.startswith("torch.nn.")
