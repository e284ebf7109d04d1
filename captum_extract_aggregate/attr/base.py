"""What all attribution classes here share: Captum's interface over the capture engine.

Arguments that every `attribute` takes, exactly as Captum's layer methods:

- `inputs`: a tensor, or a tuple of tensors, batch first.
- `target`: which output to explain: an int, a tuple of ints, a list of either (one per example), or an integer tensor
  of one entry or one per example; None if `forward_func` gives one score per example. Explain a logit, not a
  probability: a softmax makes each score depend on all classes.
- `additional_forward_args`: passed to `forward_func` after the inputs.
- `attribute_to_layer_input`: take the map at the layer's input instead of its output.

Maps are detached, on the model's device, of the inputs' floating point dtype (reductions of half precision run in
float32), `N x 1 x *S` with the positions S of the layer. A list of layers gives a list of maps, in its order; a layer
that emits several tensors gives a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, overload

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs, find_layer
from captum_extract_aggregate._engine.layout import Layout, check_layout, is_final_state, to_channels_first
from captum_extract_aggregate._engine.model_state import without_autocast
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Target, Targets, per_target
from captum_extract_aggregate.attr.class_blind import warn_where_blind
from captum_extract_aggregate.attr.entry import attributed, captum_entry, check_grad_kwargs, named_arguments
from captum_extract_aggregate.attr.layer_types import GradientAttribution, L, LayerAttribution, Layers, OneLayer
from captum_extract_aggregate.attr.one_pass import Map, Maps, Plan, finished, maps_per_target, places_of, stacked
from captum_extract_aggregate.attr.rebuilt import Rebuilt

_F = TypeVar("_F", bound=Callable[..., Any])
_OWN: set[Any] = set()


def own(function: _F) -> _F:
    """Marks a function of this package, in whose place a pass that is shared may stand (see `is_own`)."""
    _OWN.add(function)
    return function


def own_as(made: _F, function: Any) -> _F:
    """Marks what was made of a function, and does what it does, as that is marked."""
    return own(made) if function in _OWN else made


def is_own(method: Any, *names: str) -> bool:
    """Tells whether functions of these names are this package's, not a subclass's or put onto a class or the object.

    Only then is what a shared pass gives what calling them gives. (Every class counts, not the first alone: what it
    defines may call the next one's.)
    """
    classes = [c for c in type(method).__mro__ if c not in CaptureAttribution.__mro__[1:]]
    return getattr(method, "shares_pass", True) and all(
        name not in vars(method) and all(vars(c)[name] in _OWN for c in classes if name in vars(c)) for name in names
    )


class CaptureAttribution(Rebuilt, LayerAttribution, GradientAttribution, Generic[L]):
    """A Captum layer method whose map at each layer follows from activations and gradients of one pass.

    A subclass says *what its map is* (`map_of`), and, if it needs other tensors than the layer's output, *which* it
    needs (`places`). Everything else is done here, once: one pass for all layers, methods and targets, layouts,
    precision, devices, Captum's conventions, and the model as it was.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> class PositiveGradients(cea.CaptureAttribution):
        ...     def map_of(self, layer, activation, gradient):
        ...         return gradient.clamp(min=0).sum(1, keepdim=True)
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> method = PositiveGradients(cea.load_scene_model("resnet"), ["layer3", "layer4"])
        >>> [tuple(m.shape) for m in method.attribute(image[None], target=7)]
        [(1, 1, 24, 24), (1, 1, 12, 12)]
    """

    joins_layers = False  # whether a list of layers gives one map, not a list of maps
    uses_parameters = False  # whether maps follow from the model's parameters too, not from activations and gradients
    gives_lists = True  # whether `attribute` takes a list of layers and gives a list of maps in one call
    shares_pass = True  # whether its maps are made of a pass at all, which others may share
    has_plain_pass = True  # whether its pass is the network's own: activations, and gradients by the chain rule

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "run_pass" in vars(cls):  # a pass of its own
            cls.has_plain_pass = bool(vars(cls).get("has_plain_pass", False))

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        if not callable(forward_func):
            raise InvalidTypeError(
                f"forward_func is a {type(forward_func).__name__}; expected a model or another callable that returns "
                "scores"
            )
        if isinstance(layer, (list, tuple)) and not layer:
            raise InvalidValueError(
                "layer is an empty list; expected at least one layer (default_layers(model) lists some)"
            )
        if call is not None and (isinstance(call, bool) or not isinstance(call, int)):
            raise InvalidTypeError(f"call is {call!r}; expected None or the index of one of a shared layer's calls")
        if device_ids is not None and not (isinstance(device_ids, list) and all(type(d) is int for d in device_ids)):
            raise InvalidTypeError(
                f"device_ids is {device_ids!r}; expected None or a list of a DataParallel model's device numbers (all "
                "other arguments go by name)"
            )
        LayerAttribution.__init__(self, forward_func, self._find(layer, forward_func), device_ids)
        GradientAttribution.__init__(self, forward_func)
        self.layout = check_layout(layout)
        self.call = call

    @staticmethod
    def _find(layer: Any, forward_func: Callable[..., Any]) -> Any:
        if isinstance(layer, (list, tuple)):
            return [find_layer(single, forward_func) for single in layer]
        if isinstance(layer, Mapping):
            return [find_layer(single, forward_func) for single in layer.values()]
        return find_layer(layer, forward_func)

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        """Returns the places whose activations and gradients the map at `layer` needs; `to_input`: of its input.

        The gradient is taken at the first, the activation at the last.
        """
        side = "input" if to_input or layer is None else "output"
        return (Place(layer, side, call=self.call),)

    def run_pass(
        self, inputs: Any, places: list[Place], additional_forward_args: Any, targets: Targets
    ) -> Iterator[Evidence]:
        """Runs one pass, and yields what it shows of the places for each target."""
        recording = record(self.forward_func, inputs, places, additional_forward_args, self.device_ids)
        return recording.evidence(targets, jointly=self.has_plain_pass)

    def pass_key(self) -> int:
        """Methods on one forward function whose keys agree can share a pass."""
        return 0

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        """Returns the map `N x 1 x *S` from an activation and a gradient, both `N x K x *S` in at least float32.

        Other methods make their maps of the same two: they must not be changed.
        """
        raise NotImplementedError

    def maps_at(self, places: tuple[Place, ...], evidence: Evidence) -> tuple[Tensor, ...]:
        """Returns the map of each tensor at a layer."""
        return tuple(self.map_of(places[0].layer, x, g) for x, g in self._pairs(places, evidence))

    def _pairs(self, places: tuple[Place, ...], evidence: Evidence) -> list[tuple[Tensor, Tensor]]:
        """Returns the activation and the gradient of each tensor at a layer: gradients from its first place,
        activations from its last."""

        def canonical() -> list[tuple[Tensor, Tensor]]:
            first, last = places[0], places[-1]
            activations, gradients = evidence.activations[last], evidence.gradients[first]
            if first is last:
                return self._canonical(last, evidence, activations, gradients)
            of_last, of_first = (self._canonical(p, evidence, t) for p, t in ((last, activations), (first, gradients)))
            return [(x, g) for (x,), (g,) in zip(of_last, of_first)]

        pairs = evidence.pairs.once((places, self._layout_key()), canonical)
        warn_where_blind(self, places[0], evidence, [g for _, g in pairs])
        return pairs

    def is_blind(self, layer: nn.Module | None) -> bool:
        """Tells whether a gradient that is the same at every position leaves a map that says nothing of the class."""
        return False

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: CaptureAttribution[None],
        inputs: tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: CaptureAttribution[OneLayer],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: CaptureAttribution[Layers],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Tensor]: ...

    @own
    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns the map of one target per example; see this module's text for the arguments and the result."""
        check_grad_kwargs(grad_kwargs)
        (maps,) = maps_per_target({"": self}, inputs, [target], additional_forward_args, attribute_to_layer_input)
        return maps[""]

    def attribute_with_graph(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Maps:
        """Returns what `attribute` gives, with its graph: for losses that are about the map.

        `attribute` detaches its maps. Here a loss of the map has a gradient for every parameter that requires one (and
        for inputs that do), through the activations and, in second order, through the gradients among which the map is
        made; piecewise linear networks have little of the latter. The model runs as it is: in train mode BatchNorm
        mixes the batch's examples, and dropout drops. It costs what training by such a loss costs.

        Args, returns: as for `attribute`.

        Raises:
            ValueError: where gradients are off; besides, what `attribute` raises.
            NotImplementedError: for a method that is more than activations and gradients: propagation rules, biases,
                and an `attribute` of a subclass.

        Example:
            >>> import torch
            >>> import captum_extract_aggregate as cea
            >>> model = cea.load_scene_model("resnet")
            >>> image, target = cea.DigitScenes(n=1)[0]
            >>> map_ = cea.GradCAM(model, "layer3").attribute_with_graph(image[None], target=7)
            >>> map_[..., :12, :].mean().backward()  # a loss: nothing of the class should be in the upper half
            >>> model.get_submodule("layer3").conv1.weight.grad is not None
            True
        """
        if not self.has_plain_pass or self.uses_parameters or not is_own(self, "attribute"):
            raise NotImplementedError(
                f"{type(self).__name__} has no maps with a graph; expected a method of activations and gradients "
                "alone, such as GradCAM, LinearApproximation or NormGrad"
            )
        from captum_extract_aggregate.attr.with_graph import evidence_with_graph

        plan = self.plan(attribute_to_layer_input)
        evidence = evidence_with_graph(self.forward_func, inputs, places_of(plan), target, additional_forward_args)
        with Undo() as undo, undo:
            without_autocast(undo)
            return self.all_maps(inputs, evidence, plan)

    def attribute_future(self) -> None:
        """Is not available, as in Captum's own layer methods."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def has_convergence_delta(self) -> bool:
        return False

    @own
    def attribute_per_target(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Maps:
        """Returns the maps of several targets per example, from one forward and one backward per target.

        Of a single example on a GPU up to 32 targets share a backward, which there takes a fraction of the time (on a
        CPU it takes longer). A subclass with an `attribute` of its own is asked for one target after the other.

        Args:
            inputs, additional_forward_args, attribute_to_layer_input: as for `attribute`.
            targets: `N x T` class indices (tensor, array or nested list), or a list of T targets for all examples.

        Returns:
            `N x T x 1 x *S`; a list of those for a list of layers.
        """
        wanted = per_target(targets, checked_inputs(inputs)[0].shape[0])
        if not is_own(self, "attribute"):
            how = (additional_forward_args, attribute_to_layer_input)
            return stacked([attributed(self, inputs, target, *how) for target in wanted])
        maps = maps_per_target({"": self}, inputs, wanted, additional_forward_args, attribute_to_layer_input)
        return stacked([single[""] for single in maps])

    def plan(self, to_input: bool) -> Plan:
        """Returns the places that the map of each layer needs, layer by layer."""
        return [self.places(layer, to_input) for layer in self._layers()]

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Maps:
        """Returns the maps of all layers, in the form in which `layer` was given."""
        maps = [self._finished_map(places, inputs, evidence) for places in plan]
        return maps if isinstance(self.layer, (list, tuple)) else maps[0]

    def _finished_map(self, places: tuple[Place, ...], inputs: Any, evidence: Evidence) -> Map:
        maps = tuple(finished(m, evidence) for m in self.maps_at(places, evidence))
        is_tuple = isinstance(inputs, tuple) if places[0].layer is None else len(maps) > 1
        return maps if is_tuple else maps[0]

    def _layers(self) -> list[nn.Module | None]:
        layer = self._find(self.layer, self.forward_func)  # read now: TCAV and users reassign it
        return layer if isinstance(layer, list) else [layer]

    def _layout_key(self) -> str | int:
        """Returns what tells layouts apart while a pass lasts; a callable need not be hashable."""
        return id(self.layout) if callable(self.layout) else self.layout

    def _canonical(self, place: Place, evidence: Evidence, *kinds: Iterable[Tensor]) -> list[Any]:
        """Returns what was captured of each tensor that a place holds (activation, gradient) as `N x K x *S`, in at
        least float32. Final states of recurrent layers, which have no positions, are left out."""
        likes = evidence.activations[place]
        around = evidence.surroundings(place)
        canonical = []
        for i, (like, *captured) in enumerate(zip(likes, *kinds)):
            one = around
            if len(likes) > 1:
                one = around._replace(which=f" (tensor {i + 1} of {len(likes)})", number=i)
                if self.layout == "auto" and is_final_state(like, one):
                    continue
            arrange = to_channels_first(like, self.layout, one)
            canonical.append(tuple(at_least_float32(arrange(t)) for t in captured))
        return canonical
