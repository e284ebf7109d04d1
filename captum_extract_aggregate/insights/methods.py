"""The methods as Captum Insights takes them: input-sized adapters, with the layer by its name and numbers in fields."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import captum
import torch
from captum.attr import Attribution, FeatureAblation, IntegratedGradients
from captum.log import log_usage
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.model_state import set_grad_mode
from captum_extract_aggregate.attr import MetaSaliency
from captum_extract_aggregate.attr.biases import bias_layers
from captum_extract_aggregate.attr.by_name import METHODS, WITH_LAYERS, make_method
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.attr.propagation.base import PropagationAttribution
from captum_extract_aggregate.insights.requests import told

INSTALL = 'pip install "captum[insights]==0.8.0" "numpy<2"'
INPUT = "the input"
_EXTRACTS = ("bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise3x3", "layer")
_SMALLEST, _TINY = 1e-30, 1e-4  # Captum warns below 1e-5
_LIMITS, _PATCHES, _LONGEST = (1, 100), (1, 32), 200  # of numbers, of patches a side, of what is typed


@dataclass(frozen=True)
class _Choice:
    """A method in the page's list: its arguments, each a whole number or one of some words (Insights sends no others),
    and whether it goes with one layer, or with all of them."""

    arguments: Mapping[str, int | tuple[str, ...]] = field(default_factory=dict)
    one_layer: bool = True
    convert: dict[str, Callable[[Any], Any]] = field(default_factory=dict)


_POSITIVE = {"positive": ("abs", "relu")}
_SHARES = {"sums": ("signed", "positive"), "lost": ("drop", "spread")}
_CHOICES: dict[str, _Choice] = {
    "gradient": _Choice({"aggregate": ("max_abs", "sum", "norm")}),
    "normgrad": _Choice({"virtual_identity": ("yes", "no")}, convert={"virtual_identity": lambda word: word != "no"}),
    "gradcam-pos": _Choice(_POSITIVE),
    "gradmid": _Choice(_POSITIVE),
    "rectgrad": _Choice({"percentile": 98}),
    "rectgrad-mod": _Choice({"percentile": 98}),
    "lrp": _Choice({"gamma": ("0", "0.25", "1", "inf")}, convert={"gamma": float}),
    "excitation": _Choice(_SHARES),
    "contrastive-excitation": _Choice({"clamp": ("map", "contrast"), **_SHARES}),
    "cumulative-gradcam": _Choice(_POSITIVE, one_layer=False),
    "cumulative-gradmid": _Choice(_POSITIVE, one_layer=False),
    "aggregated-activity": _Choice(one_layer=False),
    "fullgrad": _Choice({"rescale": ("channel_joint", "layer_map")}, one_layer=False),
    "normgrad-combined": _Choice({"mode": ("product", "sum")}, one_layer=False),
    "extract-aggregate": _Choice({"extract": _EXTRACTS, "aggregate": tuple(AGGREGATES)}),
    "captum:LayerConductance": _Choice({"n_steps": 25}),
    "captum:LayerIntegratedGradients": _Choice({"n_steps": 25}),
    "captum:InternalInfluence": _Choice({"n_steps": 25}),
}
_CAPTUMS = (
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerActivation",
    "LayerConductance",
    "LayerIntegratedGradients",
    "InternalInfluence",
    "LayerDeepLift",
    "GuidedGradCam",
)
META = "meta-saliency"
_BEFORE_THE_LAST = ("normgrad", "gradient", "gradmid", "guided", "deconvolution", "extract-aggregate", META)


def names() -> list[str]:
    """The methods that `register` adds, as they stand in the page's list.

    Example:
        >>> from captum_extract_aggregate.insights.methods import names
        >>> [name for name in names() if "grad" in name.lower()][:3]
        ['normgrad', 'selective-normgrad', 'gradient']
    """
    return [*METHODS, *WITH_LAYERS, "extract-aggregate", META, *(f"captum:{name}" for name in _CAPTUMS)]


def register(model: nn.Module | None = None, inputs: Tensor | tuple[Tensor, ...] | None = None) -> list[str]:
    """Puts all methods of this package, and Captum's layer methods, into the list of Captum Insights.

    Of a model with several inputs each image (`N x C x H x W`) gets a map of its own: what arrives there at the input,
    or the map of a layer if the layer depends on that image, else zeros. Other inputs (features, token indices) get
    what Captum's methods give them, and what a propagation method gives them at the input; a layer's map has no place
    there: zeros. Feature Ablation takes images by square patches, other inputs value by value, as Captum does.

    Args:
        model: its layers are offered by name; None: the layer's name is typed in, and nothing typed is the last of
            `default_layers` (for methods that say nothing of the class in front of global pooling, such as NormGrad,
            the one before it).
        inputs: an input of the model, `1 x C x H x W` (a tuple where it takes several), from which the default layers
            are found more surely.

    Returns:
        The names of the methods.

    Raises:
        ImportError: where Captum has no Insights (0.9), or they are not installed; it says how to install them.
        TypeError: for a model that is no module.
    """
    config = captum_insights()
    if model is not None and not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module (or None)")
    ends, others = _layers(model, inputs)
    for name in names():
        choice = _choice(name)
        shown = _fields(config, choice)
        if choice.one_layer and model is not None:
            biased = (
                [n for n, m in bias_layers(model).items() if not isinstance(m, nn.Linear)] if name == "bias" else []
            )
            at_input = [] if name.startswith("captum:") else [INPUT]
            first = [*ends, *at_input] if name != "bias" else biased
            offered = [*first, *(layer for layer in others if layer not in first)] or [INPUT]
            chosen = biased[-1:] or _usual(name, ends) or (first or offered)[-1:]
            shown["layer"] = config.StrEnumConfig(value=chosen[0], limit=offered)
        config.ATTRIBUTION_NAMES_TO_METHODS[name] = _adapter(name)
        config.ATTRIBUTION_METHOD_CONFIG[name] = config.ConfigParameters(params=shown)
    # Captum's goes through the image value by value, for minutes in which the page answers nothing
    config.ATTRIBUTION_NAMES_TO_METHODS[FeatureAblation.get_name()] = _PatchAblation
    config.ATTRIBUTION_METHOD_CONFIG[FeatureAblation.get_name()] = config.ConfigParameters(
        params={"patches": config.NumberConfig(value=8, limit=_PATCHES)}
    )
    # Captum's has no end, and takes all steps at once
    path = config.ATTRIBUTION_METHOD_CONFIG[IntegratedGradients.get_name()]
    steps = path.params["n_steps"]._replace(limit=(2, _LIMITS[1]))
    config.ATTRIBUTION_METHOD_CONFIG[IntegratedGradients.get_name()] = path._replace(
        params=path.params | {"n_steps": steps}
    )
    return names()


def _fields(config: Any, choice: _Choice) -> dict[str, Any]:
    """A method's arguments as the page's fields."""
    fields = {"layer": config.StrConfig(value="")} if choice.one_layer else {}
    for argument, values in choice.arguments.items():
        if isinstance(values, int):
            fields[argument] = config.NumberConfig(value=values, limit=_LIMITS)
        else:
            fields[argument] = config.StrEnumConfig(value=values[0], limit=list(values))
    return fields


def check_arguments(method: str, given: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Our error where an argument is not what the page offers in its field.

    Raises:
        ValueError: naming the argument, what was got and what was expected.
    """
    for name, value in given.items():
        if name not in fields:
            raise InvalidValueError(unknown_name(f"an argument of {method}", name[:80], fields))
        field = fields[name]
        if field.type == "enum":
            fits, expected = value in field.limit, f"one of {', '.join(map(repr, field.limit[:40]))}"
        elif field.type == "number":
            low, high = field.limit
            fits = type(value) is int and (low is None or low <= value) and (high is None or value <= high)
            expected = f"a whole number from {low} to {high}"
        else:
            fits = isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()
            expected = f"at most {_LONGEST} printable characters"
        if not fits:
            raise InvalidValueError(f"{name} is {told(value)}; expected {expected}")


def captum_insights() -> Any:
    """The module of Insights that lists its methods, or our error."""
    try:
        importlib.import_module("captum.insights.attr_vis.server")
        return importlib.import_module("captum.insights.attr_vis.config")
    except ImportError as error:
        raise ImportError(
            f"Captum Insights is not here (captum {captum.__version__}: {error}): it was part of Captum up to 0.8.0; "
            f"expected {INSTALL} (or, on any version, the page of captum-extract-aggregate explain --html)"
        ) from None


def _layers(model: nn.Module | None, inputs: Tensor | tuple[Tensor, ...] | None) -> tuple[list[str], list[str]]:
    """The layers to choose from: the default ones, and all that hold parameters of their own."""
    if model is None:
        return [], []
    own = [name for name, m in model.named_modules() if name and any(True for _ in m.parameters(recurse=False))]
    try:
        return list(default_layers(model, inputs)), own
    except ValueError:  # none: a layer is chosen from all
        return [], own


def _usual(name: str, ends: list[Any]) -> list[Any]:
    """Of the ends of the stages the one to begin with: the last, but where nothing of the class may be left of a method
    there (in front of global pooling the gradient is the same at every position) the one before it."""
    return ends[-2:][:1] if name in _BEFORE_THE_LAST else ends[-1:]


def _choice(name: str) -> _Choice:
    if name == META:
        methods = tuple(n for n in METHODS if _choice(n).one_layer)
        return _Choice({"method": methods, "lr": ("0.001", "0.0025", "0.01")}, convert={"lr": float})
    return _CHOICES.get(name, _Choice())


# --- From a layer's map to what the page takes -----------------------------------------------------------------------


def _adapter(name: str) -> type[Attribution]:
    """A class that Insights can build from a model alone, and whose result is of the input's shape."""

    class Adapter(_Adapter):
        method_name = name

    Adapter.__name__ = Adapter.__qualname__ = name
    return Adapter


class _Adapter(Attribution):
    """One method of the list: `attribute` makes it at the layer that was chosen, and brings its map to the input."""

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
        """Maps of the inputs' shapes, finite and not zero: the page waits for ever for others."""
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        config = importlib.import_module("captum.insights.attr_vis.config")
        typed_in = {"layer": layer} if _choice(self.method_name).one_layer else {}
        check_arguments(self.method_name, arguments | typed_in, _fields(config, _choice(self.method_name)))
        extra = additional_forward_args
        extra = () if extra is None else extra if isinstance(extra, tuple) else (extra,)
        at = self._found(tensors, layer, extra)
        seen = _images_seen(self.forward_func, at, tensors, extra)
        taken = self._taken(tensors, seen, at)
        model = self.forward_func if all(taken) else _OfSome(self.forward_func, taken)
        own, constant = (tuple(x for x, is_taken in zip(tensors, taken) if is_taken is kind) for kind in (True, False))
        method, of_call = self._made(model, own + constant, at, arguments)
        offered = {
            "target": target,
            "additional_forward_args": constant + extra or None,
            "baselines": tuple(torch.zeros_like(x) for x in own),
        }
        known = inspect.signature(method.attribute).parameters
        found = method.attribute(own, **{key: offered[key] for key in offered if key in known}, **of_call)
        return self._placed(found, tensors, taken, seen)

    def _placed(self, found: Any, tensors: tuple[Tensor, ...], taken: list[bool], seen: list[bool]) -> Any:
        """Each input's map: its own, or that of the layer, or zeros."""
        (found,) = found if isinstance(found, list) else (found,)  # of one layer
        maps = found if isinstance(found, tuple) else (found,)
        goes_to = seen if len(maps) == 1 and any(seen) else taken
        indices = [i for i, goes in enumerate(goes_to) if goes]
        if len(maps) not in (1, len(indices)):
            raise InvalidValueError(f"the layer gives {len(maps)} maps; expected a layer that gives one tensor")
        placed = {i: m for i, m in zip(indices, maps * len(indices)) if m.numel()}  # of GuidedGradCam, for no image
        shown = iter(_scaled([_in_shape(placed[i], tensors[i]) for i in placed]))
        return tuple(next(shown) if i in placed else _zeros(x) for i, x in enumerate(tensors))

    def _taken(self, tensors: tuple[Tensor, ...], seen: list[bool], at: list[nn.Module | None] | None) -> list[bool]:
        """The inputs of the method: the images of its layer, or all numbers if each gets something; never indices."""
        numbers = [x.is_floating_point() for x in tensors]
        of_all = self.method_name.startswith("captum:") or (
            at == [None] and isinstance(self._made(self.forward_func, tensors, at, {})[0], PropagationAttribution)
        )
        taken = numbers if of_all or not any(seen) else seen
        return taken if any(taken) else [True] * len(tensors)

    def _made(
        self, model: Any, tensors: tuple[Tensor, ...], at: list[nn.Module | None] | None, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The method on its layer, and the arguments that its call takes."""
        name = self.method_name
        choice = _choice(name)
        values = {key: choice.convert.get(key, lambda value: value)(value) for key, value in given.items()}
        layers = list(default_layers(model, tensors).values()) if at is None else at
        sizes = [tuple(x.shape[2:]) for x in tensors if x.ndim == 4]
        if not choice.one_layer and len(set(sizes)) > 1:
            values["size"] = sizes[0]  # one map for all images, brought to the size of each afterwards
        if name == META:
            return MetaSaliency(make_method(values.pop("method", "normgrad"), model, layers), **values), {}
        if name == "extract-aggregate":
            name = f"{values.pop('extract', _EXTRACTS[0])}:{values.pop('aggregate', next(iter(AGGREGATES)))}"
        if name.startswith("captum:"):
            return make_method(name, model, layers), values
        return make_method(name, model, layers, **values), {}

    def _found(self, tensors: tuple[Tensor, ...], layer: str, extra: tuple[Any, ...]) -> list[nn.Module | None] | None:
        """The layer that was chosen; None where the method goes with all of them."""
        if not _choice(self.method_name).one_layer:
            return None
        if layer == INPUT and self.method_name.startswith("captum:"):
            raise InvalidValueError(
                f"layer is {INPUT!r}, where {self.method_name} has no map; expected a layer of the model"
            )
        if layer == INPUT:
            return [None]
        if layer:
            return [find_layer(layer, self.forward_func)]
        return _usual(self.method_name, list(default_layers(self.forward_func, tensors).values()))


class _OfSome(nn.Module):
    """A model as a function of some of its inputs first, and of the others behind them."""

    def __init__(self, model: nn.Module, chosen: list[bool]) -> None:
        super().__init__()
        self.model, self.chosen, self.training = model, chosen, model.training

    def forward(self, *args: Any) -> Any:
        count = sum(self.chosen)
        own, others = iter(args[:count]), iter(args[count:])
        return self.model(*[next(own) if is_chosen else next(others) for is_chosen in self.chosen], *others)


def _images_seen(
    model: Callable[..., Any], at: list[nn.Module | None] | None, tensors: tuple[Tensor, ...], extra: tuple[Any, ...]
) -> list[bool]:
    """Which inputs are images that the layer's output depends on."""
    images = [x.ndim == 4 and x.is_floating_point() for x in tensors]
    layer = at[0] if at else None
    if layer is None or sum(images) < 2:
        return images
    sums: list[Tensor] = []

    def add(module: nn.Module, args: Any, output: Any) -> None:
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        sums.extend(o.sum() for o in outputs if isinstance(o, Tensor) and o.requires_grad)

    leaves = [x.detach().requires_grad_(is_image) for x, is_image in zip(tensors, images)]
    with Undo() as undo, undo:
        set_grad_mode(undo, True)
        undo.hook(layer, "register_forward_hook", add)
        model(*(x.clone() for x in leaves), *extra)
    wanted = [x for x in leaves if x.requires_grad]
    found = iter(torch.autograd.grad(sums, wanted, allow_unused=True) if sums else [None] * len(wanted))
    return [is_image and next(found) is not None for is_image in images]


class _PatchAblation(FeatureAblation):
    """Captum's, of square patches of all channels where an input is an image."""

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Any, patches: int = 8, **kwargs: Any) -> Any:  # type: ignore[override]
        """One forward for each of `patches` x `patches` patches of an image, and for each value of another input."""
        config = importlib.import_module("captum.insights.attr_vis.config")
        check_arguments(
            self.get_name(), {"patches": patches}, {"patches": config.NumberConfig(value=8, limit=_PATCHES)}
        )
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        masks: list[Tensor] = []
        for x in tensors:
            mask = _patch_mask(x, patches) if x.ndim == 4 else torch.arange(x[0].numel()).reshape(1, *x.shape[1:])
            masks.append(mask.to(x.device) + (int(masks[-1].max()) + 1 if masks else 0))
        return FeatureAblation.attribute.__wrapped__(self, tensors, feature_mask=tuple(masks), **kwargs)


def _patch_mask(x: Tensor, patches: int) -> Tensor:
    rows, columns = (torch.arange(n) * patches // n for n in x.shape[2:])
    return (rows[:, None] * patches + columns)[None, None]


def like_input(map_: Tensor, x: Tensor) -> Tensor:
    """A map in the shape of an image `N x C x H x W`: scaled by its largest magnitude, finite and not zero.

    A map that is zero everywhere gets one pixel, in the corner.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.insights.methods import like_input
        >>> like_input(torch.zeros(1, 1, 2, 2), torch.rand(1, 3, 4, 4)).count_nonzero().item()
        3
    """
    return _scaled([_in_shape(map_, x)])[0]


def _in_shape(map_: Tensor, x: Tensor) -> Tensor:
    map_ = torch.nan_to_num(map_.detach(), nan=0.0, posinf=0.0, neginf=0.0).to(x.dtype)
    if map_.shape == x.shape:
        return map_
    if map_.ndim != 4 or x.ndim != 4:
        raise InvalidValueError(
            f"a map {tuple(map_.shape)} cannot be drawn on an input {tuple(x.shape)}; expected images N x C x H x W"
        )
    return upsample(map_.sum(1, keepdim=True), x.shape[2:]).expand_as(x) / x.shape[1]


def _scaled(maps: list[Tensor]) -> list[Tensor]:
    """The maps of one pass, scaled as one, so that what several inputs contribute can be compared."""
    own = [m.abs().flatten(1).amax(1) for m in maps]
    largest = torch.stack([o.to(own[0]) for o in own]).amax(0)
    return [_shown(m, o, largest.to(o)) for m, o in zip(maps, own)]


def _shown(map_: Tensor, own: Tensor, largest: Tensor) -> Tensor:
    """One map by the largest magnitude of all; an image's zeros get their pixel."""
    own, largest = (t.reshape(-1, *(1,) * (map_.ndim - 1)) for t in (own, largest))
    empty = torch.zeros_like(map_)
    if map_.ndim == 4:
        empty[..., 0, 0] = _TINY
    return torch.where(own > _SMALLEST, map_ / largest.clamp(min=_SMALLEST), empty)


def _zeros(x: Tensor) -> Tensor:
    """What an input without a map gets."""
    nothing = torch.zeros_like(x, dtype=x.dtype if x.is_floating_point() else torch.get_default_dtype())
    return _scaled([nothing])[0]
