"""What each dimension of a tensor is, read off the operations that made it.

`Watch` is a `TorchFunctionMode`. While the model runs within it, every tensor carries along of what its dimensions are
made: of examples, of channels, of positions along some axis (`parts`). A convolution makes channels in dimension 1, a
linear layer in the last, a recurrent layer runs along an axis of time (`dimension_layers`); permuting, flattening,
concatenating and the rest move these parts about (`dimension_moves`). What an operation does not tell stays unknown,
and a tensor that an unfamiliar operation made has no parts.

A forward within it costs more than one without: it is for those tensors alone whose shape leaves it open.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._engine import dimension_layers, dimension_moves  # noqa: F401 (they register their rules)
from captum_extract_aggregate._engine.dimension_call import Call, Found, dims_after
from captum_extract_aggregate._engine.labels import Labels
from captum_extract_aggregate._engine.operations import tensors_in
from captum_extract_aggregate._engine.parts import Dims, size_of


class Watch(TorchFunctionMode):
    """Follows the dimensions of the inputs through every operation within."""

    def __init__(self, inputs: Iterable[Tensor], batch: int) -> None:
        super().__init__()
        self._labels = Labels(batch)
        self._known = WeakIdKeyDictionary()
        self.parameters: set[int] = set()  # those that a function was given
        for i, t in enumerate(inputs):
            self._known[t] = self._labels.of_input(i, t)

    def dims(self, t: Tensor) -> Dims | None:
        """Returns the parts of each of a tensor's dimensions as far as has been told by now; None where they are
        lost."""
        dims = self._known.get(t)
        if dims is None or not _fits(dims, t):
            return None
        return self.told(dims)

    def told(self, dims: Dims) -> Dims:
        """Returns the same where what was unknown may have been told of since."""
        return self._labels.told(dims)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.parameters.update(id(t) for t in tensors_in((args, kwargs)) if isinstance(t, nn.Parameter))
        before = [self._known.get(t) for t in tensors_in(args)]  # an operation in place relabels its input
        output = func(*args, **kwargs)
        outputs = list(output) if isinstance(output, (tuple, list)) else [output]
        if not any(isinstance(t, Tensor) for t in outputs):
            return output
        for t, dims in zip(outputs, self._follow(func, args, kwargs, before, outputs)):
            if isinstance(t, Tensor):
                self._label(t, dims)
        return output

    def _follow(self, func: Any, args: Any, kwargs: Any, before: Found, outputs: list[Any]) -> Found:
        try:
            tensors = tensors_in(args) or tensors_in(kwargs)
            known = before or [self._known.get(t) for t in tensors]
            return dims_after(_name(func), Call(self._labels, func, args, kwargs, tensors, known, outputs))
        except Exception:  # an unforeseen form of a call: nothing is known of what it gives
            return [None] * len(outputs)

    def _label(self, t: Tensor, dims: Dims | None) -> None:
        if dims is not None and _fits(dims, t):
            self._known[t] = dims
        else:
            self._known.pop(t, None)


def _fits(dims: Dims, t: Tensor) -> bool:
    return tuple(map(size_of, dims)) == tuple(t.shape)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property, such as Tensor.T
        return str(getattr(func.__self__, "__name__", ""))
    return str(name)
