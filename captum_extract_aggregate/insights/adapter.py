"""A method as Insights takes it: a class that is built from a model alone, whose maps are of the input's shape."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate.attr.by_name import make_method
from captum_extract_aggregate.attr.propagation.base import PropagationAttribution
from captum_extract_aggregate.insights.images_seen import OfSome, images_seen
from captum_extract_aggregate.insights.input_maps import in_shape, scaled, zero_map
from captum_extract_aggregate.insights.offered import INPUT, check_arguments, fields, is_captums, method, values_of


def usual(name: str, ends: list[Any]) -> list[Any]:
    """Of the ends of the stages the one to begin with: the last, but where nothing of the class may be left of a method
    there (in front of global pooling the gradient is the same at every position) the one before it."""
    return ends[-2:][:1] if method(name).before_the_last else ends[-1:]


def adapter(name: str) -> type[Attribution]:
    """Returns a class that Insights can build from a model alone, and whose result is of the input's shape."""

    class Adapter(_Adapter):
        method_name = name

    Adapter.__name__ = Adapter.__qualname__ = name
    return Adapter


class _Adapter(Attribution):
    """Is one method of the list: `attribute` makes it at the layer that was chosen, and brings its map to the input."""

    method_name: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    @classmethod
    def get_name(cls) -> str:
        return cls.method_name

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        layer: str = "",
        **arguments: Any,
    ) -> Any:
        """Returns maps of the inputs' shapes, finite and not zero: the page waits for ever for others."""
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        config = importlib.import_module("captum.insights.attr_vis.config")
        typed_in = {} if method(self.method_name).joins_layers else {"layer": layer}
        check_arguments(self.method_name, arguments | typed_in, fields(config, self.method_name))
        extra = additional_forward_args
        extra = () if extra is None else extra if isinstance(extra, tuple) else (extra,)
        at = self._found(tensors, layer, extra)
        seen = images_seen(self.forward_func, at, tensors, extra)
        taken = self._taken(tensors, seen, at)
        model = self.forward_func if all(taken) else OfSome(self.forward_func, taken)
        own, constant = (tuple(x for x, is_taken in zip(tensors, taken) if is_taken is kind) for kind in (True, False))
        explains, of_call = self._made(model, own + constant, at, arguments)
        offered = {
            "target": target,
            "additional_forward_args": constant + extra or None,
            "baselines": tuple(torch.zeros_like(x) for x in own),
        }
        known = inspect.signature(explains.attribute).parameters
        found = explains.attribute(own, **{key: offered[key] for key in offered if key in known}, **of_call)
        return self._placed(found, tensors, taken, seen)

    def _placed(self, found: Any, tensors: tuple[Tensor, ...], taken: list[bool], seen: list[bool]) -> Any:
        """Returns each input's map: its own, or that of the layer, or zeros."""
        (found,) = found if isinstance(found, list) else (found,)  # of one layer
        maps = found if isinstance(found, tuple) else (found,)
        goes_to = seen if len(maps) == 1 and any(seen) else taken
        indices = [i for i, goes in enumerate(goes_to) if goes]
        if len(maps) not in (1, len(indices)):
            raise InvalidValueError(f"the layer gives {len(maps)} maps; expected a layer that gives one tensor")
        placed = {i: m for i, m in zip(indices, maps * len(indices)) if m.numel()}  # of GuidedGradCam, for no image
        shown = iter(scaled([in_shape(placed[i], tensors[i]) for i in placed]))
        return tuple(next(shown) if i in placed else zero_map(x) for i, x in enumerate(tensors))

    def _taken(self, tensors: tuple[Tensor, ...], seen: list[bool], at: list[nn.Module | None] | None) -> list[bool]:
        """Returns the inputs of the method: the images of its layer, or all numbers if each gets something; never
        indices."""
        numbers = [x.is_floating_point() for x in tensors]
        of_all = is_captums(self.method_name) or (
            at == [None] and isinstance(self._made(self.forward_func, tensors, at, {})[0], PropagationAttribution)
        )
        taken = numbers if of_all or not any(seen) else seen
        return taken if any(taken) else [True] * len(tensors)

    def _made(
        self, model: Any, tensors: tuple[Tensor, ...], at: list[nn.Module | None] | None, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the method on its layer, and the arguments that its call takes."""
        name = self.method_name
        values = values_of(name, given)
        suited = method(name).suited_layers(model, tensors) if at is None else None
        layers = list((suited or default_layers(model, tensors)).values()) if at is None else at
        if is_captums(name):
            return make_method(name, model, layers), values
        made: Any = make_method(name, model, layers, **values)
        sizes = [tuple(x.shape[2:]) for x in tensors if x.ndim == 4]
        if method(name).joins_layers and len(set(sizes)) > 1 and hasattr(made, "size"):
            made.size = sizes[0]  # one map for all images, brought to the size of each afterwards
        return made, {}

    def _found(self, tensors: tuple[Tensor, ...], layer: str, extra: tuple[Any, ...]) -> list[nn.Module | None] | None:
        """Returns the layer that was chosen; None where the method goes with all of them."""
        if method(self.method_name).joins_layers:
            return None
        if layer == INPUT and is_captums(self.method_name):
            raise InvalidValueError(
                f"layer is {INPUT!r}, where {self.method_name} has no map; expected a layer of the model"
            )
        if layer == INPUT:
            return [None]
        if layer:
            return [find_layer(layer, self.forward_func)]
        suited = method(self.method_name).suited_layers(self.forward_func, tensors)
        ends: list[Any] = list((suited or default_layers(self.forward_func, tensors)).values())
        return ends[-1:] if suited else usual(self.method_name, ends)
