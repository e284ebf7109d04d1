"""What is known about the place of an activation before anything is run again to look at it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from captum_extract_aggregate._engine.arrangements import LayoutFunction
from captum_extract_aggregate._engine.layer_channels import widths_of
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.parts import Dims, size_of

Look = Callable[[], Sequence[Dims | None]]

# Class token; class and distillation token; class and four register tokens. No prefix is tried first.
_PREFIXES = (0, 1, 2, 5)


class Facts:
    """Looks up, when asked and once, what models tell of layouts by the layers that they hold."""

    def __init__(self, models: tuple[nn.Module, ...]) -> None:
        self._models = models
        # Of places (layer, shape, batch, image) where nothing but these facts decides, and none of their tensors.
        self.layouts: dict[Hashable, LayoutFunction] = {}

    @cached_property
    def modules(self) -> list[nn.Module]:
        return [module for model in self._models for module in model.modules()]

    @cached_property
    def widths(self) -> set[int]:
        """Returns the numbers of channels that the layers expect."""
        return {width for module in self.modules for width in widths_of(module)}

    @cached_property
    def is_recurrent(self) -> bool:
        return any(isinstance(m, nn.RNNBase) for m in self.modules)

    @cached_property
    def is_sequence_first(self) -> bool:
        """Tells whether there are layers that want the sequence before the batch."""
        return any(isinstance(m, (nn.MultiheadAttention, nn.RNNBase)) and not m.batch_first for m in self.modules)

    @cached_property
    def patches(self) -> set[tuple[int, ...]]:
        """Returns the sizes of the patches into which convolutions cut a picture."""
        return {m.kernel_size for m in self.modules if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride}

    @cached_property
    def prefixes(self) -> tuple[int, ...]:
        """Returns how many class and register tokens a module says there are (they may join late); else the usual."""
        for module in self.modules:
            count = getattr(module, "num_prefix_tokens", None)
            if isinstance(count, int):
                return (count, 0)
            if isinstance(getattr(module, "class_token", None), Tensor):
                return (1, 0)
        return _PREFIXES


class Surroundings(NamedTuple):
    """Holds what is known about the place of an activation; whatever is missing is simply no evidence.

    `look` runs the forward once more to see of what the dimensions of each tensor at the place are made, and so does
    `lengths`, for how long their dimension 0 is in a batch of two; `number` says which of them the activation is.
    """

    module: nn.Module | None = None
    models: tuple[nn.Module, ...] = ()
    batch: int | None = None
    image: tuple[int, ...] = ()
    which: str = ""
    number: int = 0
    look: Look | None = None
    facts: Facts | None = None  # of the models, where several places share them
    lengths: Callable[[], Sequence[int]] | None = None

    @property
    def known(self) -> Facts:
        return self.facts or Facts(self.models)

    @property
    def name(self) -> str:
        """Returns what errors call the place; it is looked up only when there is one."""
        return describe(self.module, self.models) + self.which

    def dims(self, activation: Tensor) -> Dims | None:
        """Returns of what the activation's dimensions are made, if that can be seen."""
        seen = self.look() if self.look is not None else ()
        dims = seen[self.number] if self.number < len(seen) else None
        return dims if dims is not None and tuple(map(size_of, dims)) == tuple(activation.shape) else None

    def is_constant(self, activation: Tensor) -> bool:
        """Tells whether the activation of a single example stays as long in a batch of two, and nothing of it is known
        to be of examples, as of a table that is made of no input."""
        lengths = self.lengths() if self.batch == 1 and self.lengths is not None else ()
        if self.number >= len(lengths) or activation.shape[:1] != (lengths[self.number],):
            return False
        return not any(part.kind == "batch" for dim in self.dims(activation) or () for part in dim)


def image_size(inputs: Iterable[Tensor]) -> tuple[int, ...]:
    """Returns the spatial size of the first picture (or video) among the inputs; nothing if there is none.

    Of views or frames of pictures, `N x V x colours x H x W`, it is `V x H x W`.
    """
    for t in inputs:
        if t.ndim > 3:
            last = t.shape[-1] in (1, 3, 4) and min(t.shape[1:-1]) > 2 * t.shape[-1]
            views = t.ndim == 5 and t.shape[2] in (1, 3) and t.shape[1] > 3
            return tuple(t.shape[1:-1] if last else (t.shape[1], *t.shape[3:]) if views else t.shape[2:])
    return ()
