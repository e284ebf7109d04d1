"""Phase 1: what each position contributes to the gradient of a spatially shared parameter.

Virtual identity layers take the activation x and the gradient g at one place, both `N x K x *S`:

    bias          g_u                                K entries
    scaling       g_u * x_u, channel by channel      K entries
    convNxN       g_u outer the N x N patch of x     K x (K N^2) entries, zero padding; `conv1x1` is g_u x_u^T
    depthwiseNxN  per channel g_u,k times its patch  K x N^2 entries

Real layers take the layer's input and the gradient at its output (`layer`, `layer_bias`), with the layer's own kernel,
stride, padding, dilation and groups. The sum over positions always equals the parameter's gradient for that example.

Source: Rebuffi et al., There and Back Again (CVPR 2020), sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.registry import Table
from captum_extract_aggregate._common.tensors import are_tame, magnitudes, on_cpu, read_magnitudes
from captum_extract_aggregate.attr.extract_aggregate.contribution import Factor, Summand, Window, one

LayerExtract = Callable[[Any, Tensor, Tensor], Summand]

REAL_LAYER_EXTRACTS = ("layer", "layer_bias")
# The usual ones; windows up to 99 x 99 work too, and are told to checkers by a cast.
Extract = Literal[
    "bias",
    "scaling",
    "conv1x1",
    "conv3x3",
    "conv5x5",
    "conv7x7",
    "conv9x9",
    "conv11x11",
    "depthwise1x1",
    "depthwise3x3",
    "depthwise5x5",
    "depthwise7x7",
    "depthwise9x9",
    "depthwise11x11",
    "layer",
    "layer_bias",
]
_WINDOWED = re.compile(r"(conv|depthwise)(\d{1,2})x(\d{1,2})")


def all_channels(t: Tensor) -> Factor:
    """Returns `N x K x *S` as one block."""
    return Factor(t.unsqueeze(1))


@dataclass(frozen=True)
class Pair:
    """Holds an activation and the gradient there, `N x K x *S`, and the factors that the virtual layers make of them.

    `scale` was taken out of each example's gradient (None: nothing was). `known`: the activation as a factor, with what
    pairs of other gradients have found of it.
    """

    x: Tensor
    g: Tensor
    scale: Tensor | None = None
    known: Factor | None = None
    _summands: dict[str, Summand] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def scaled(cls, x: Tensor, g: Tensor, known: Factor | None = None) -> Pair:
        """Returns the pair with a gradient that neither underflows nor overflows when it is squared (see
        `unit_scale`)."""
        return cls(x, *unit_scale(g), known)

    def unscaled(self, map_: Tensor) -> Tensor:
        """Returns a map of this pair with what was taken out put back: every closed form is homogeneous in the
        gradient."""
        return map_ if self.scale is None else map_ * self.scale

    def summand(self, extract: str) -> Summand:
        """Returns what a virtual layer's extract makes of the pair; kept for other aggregates."""
        if extract not in self._summands:
            self._summands[extract] = virtual_extract(extract)(self)
        return self._summands[extract]

    @cached_property
    def activation(self) -> Factor:
        return self.known or all_channels(self.x)

    @cached_property
    def gradient(self) -> Factor:
        return all_channels(self.g)

    @cached_property
    def activations(self) -> Factor:
        """Channel by channel."""
        return Factor(self.x.unsqueeze(2))

    @cached_property
    def gradients(self) -> Factor:
        """Channel by channel."""
        return Factor(self.g.unsqueeze(2))

    @cached_property
    def product(self) -> Factor:
        return Factor((self.g * self.x).unsqueeze(1))


VirtualExtract = Callable[[Pair], Summand]


def _bias(pair: Pair) -> Summand:
    return Summand(pair.gradient, one(pair.g), (pair.g.shape[1],))


def _scaling(pair: Pair) -> Summand:
    return Summand(pair.product, one(pair.g), (pair.g.shape[1],))


def _conv(pair: Pair, size: int) -> Summand:
    dims, channels = pair.x.ndim - 2, pair.x.shape[1]
    window = Window.centred(size, dims) if size > 1 else None
    kernel = (size,) * dims if size > 1 else ()
    return Summand(pair.gradient, pair.activation.within(window), (channels, channels, *kernel))


def _depthwise(pair: Pair, size: int) -> Summand:
    dims = pair.x.ndim - 2
    window = Window.centred(size, dims) if size > 1 else None
    kernel = (size,) * dims if size > 1 else ()
    return Summand(pair.gradients, pair.activations.within(window), (pair.x.shape[1], *kernel))


VIRTUAL_EXTRACTS: dict[str, VirtualExtract] = {"bias": _bias, "scaling": _scaling}
_WINDOWED_EXTRACTS: dict[str, Callable[[Pair, int], Summand]] = {"conv": _conv, "depthwise": _depthwise}


def virtual_extract(name: str) -> VirtualExtract:
    """Returns the function `Pair -> Summand` of a virtual identity layer, by name (`"bias"`, `"conv3x3"`, ...)."""
    if not isinstance(name, str):
        raise _unknown_extract(name)
    return VIRTUAL_EXTRACTS[name] if name in VIRTUAL_EXTRACTS else _windowed_extract(name)


def _unknown_extract(name: Any) -> InvalidValueError:
    known = [*VIRTUAL_EXTRACTS, "conv1x1", "conv3x3", "conv5x5", "depthwise3x3", *REAL_LAYER_EXTRACTS]
    return InvalidValueError(
        unknown_name("extract", name, known, " (convNxN and depthwiseNxN take any odd N up to 99)")
    )


@functools.cache
def _windowed_extract(name: str) -> VirtualExtract:
    match = _WINDOWED.fullmatch(name)
    if match is None:
        raise _unknown_extract(name)
    kind, size, other = match.group(1), int(match.group(2)), int(match.group(3))
    if size != other or size % 2 == 0:
        raise InvalidValueError(
            f"extract is {name!r}; expected a square window of odd size, so that it has a centre: {kind}3x3"
        )
    return lambda pair: _WINDOWED_EXTRACTS[kind](pair, size)


# --- Real layers. To add one, register a function (module, x, g) -> Summand for its type. ---------------------------


class _LayerTypes(Table[type | str, LayerExtract]):
    """Extracts of real layers by type, or by a type's dotted name: both mean the same."""

    def find(self, name: Any) -> type | str | None:
        """Returns the key that a type, or its dotted name, is known by."""
        if super().find(name) is not None or not isinstance(name, (type, str)):
            return super().find(name)
        if isinstance(name, type):
            return super().find(self.described(name))
        return next((t for t in self if isinstance(t, type) and self.described(t) == name), None)

    def described(self, name: Any) -> str:
        """Returns the dotted name of a type."""
        return f"{name.__module__}.{name.__qualname__}" if isinstance(name, type) else str(name)


REAL_LAYERS = _LayerTypes("layer type", "unregister_layer")


def register_layer(*types: type | str, overwrite: bool = False) -> Callable[[LayerExtract], LayerExtract]:
    """Teaches `extract="layer"` another layer type (or its dotted name, where importing the type costs too much).

    The function takes the module, its input `x` and the gradient `g` at its output, channels first, and returns the
    `Summand` whose sum over positions is the gradient of `module.weight`. It counts for the whole process, methods that
    were made before included.

    Args:
        types: layer types, or their dotted names.
        overwrite: whether types that are known already are exchanged. (A subclass of a known type is another type.)

    Raises:
        ValueError: for a type that is known already, unless `overwrite` is True.
        TypeError: for what is neither a module's type nor a name.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.registry import Factor, Summand, register_layer, unregister_layer
        >>> class ChannelScale(torch.nn.Module):
        ...     def __init__(self, channels):
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.ones(channels, 1, 1))
        ...
        ...     def forward(self, x):
        ...         return self.weight * x
        >>> @register_layer(ChannelScale)
        ... def channel_scale(module, x, g):
        ...     return Summand(Factor(g.unsqueeze(2)), Factor(x.unsqueeze(2)), tuple(module.weight.shape))
        >>> unregister_layer(ChannelScale)
    """
    if not types or not all(isinstance(t, str) or (isinstance(t, type) and issubclass(t, nn.Module)) for t in types):
        raise InvalidTypeError(f"types are {types!r}; expected types of layers, or their dotted names")

    for layer_type in types:
        REAL_LAYERS.check_free(layer_type, overwrite)

    def register(function: LayerExtract) -> LayerExtract:
        for layer_type in types:
            REAL_LAYERS.check_free(layer_type, overwrite)
        for layer_type in types:
            REAL_LAYERS.register(layer_type, function, overwrite)
        return function

    return register


def unregister_layer(*types: type | str) -> None:
    """Forgets layer types, or brings back this package's own extracts, where they were overwritten.

    Raises:
        ValueError: for a type that is unknown.
    """
    for key in {REAL_LAYERS.check(layer_type) for layer_type in types}:
        REAL_LAYERS.unregister(key)


def list_layers() -> list[str]:
    """Returns the dotted names of all layer types that `extract="layer"` knows.

    Example:
        >>> from captum_extract_aggregate.registry import list_layers
        >>> "torch.nn.modules.conv.Conv2d" in list_layers()
        True
    """
    return [REAL_LAYERS.described(layer_type) for layer_type in REAL_LAYERS]


def layer_extract(module: nn.Module, name: str) -> LayerExtract:
    """Returns the extract of a real layer. A subclass is served by its base's only if it does not compute something
    else."""
    for base in type(module).__mro__:
        function = REAL_LAYERS.get(base) or REAL_LAYERS.get(REAL_LAYERS.described(base))
        if function is not None:
            if type(module).forward is not base.forward:  # type: ignore[attr-defined]
                break
            return function
    known = sorted({t.__name__ if isinstance(t, type) else t.rpartition(".")[2] for t in REAL_LAYERS})
    raise InvalidValueError(
        f"layer {name} is a {type(module).__name__}, whose parameters extract='layer' does not know; expected one of "
        f"{', '.join(known)}. Choose such a layer inside it, use a virtual identity layer (extract='conv1x1', "
        f"'scaling', ...) which works anywhere, or teach it with extract.register_layer"
    )


def layer_bias_extract(module: nn.Module, x: Tensor, g: Tensor) -> Summand:
    """Returns the real layer's bias: g_u, as the virtual one, at the layer's output."""
    return _bias(Pair(x, g))


def check_parameter(module: nn.Module, which: str, name: str) -> None:
    """Raises our error for a layer that has no `weight` (or `bias`) of its own."""
    if getattr(module, which, None) is None:
        extract, virtual = ("layer", "scaling") if which == "weight" else ("layer_bias", "bias")
        raise InvalidValueError(
            f"layer {name} ({type(module).__name__}) has no {which} of its own, so extract={extract!r} has nothing to "
            f"contribute to; expected a layer with a {which}, or use extract={virtual!r}"
        )


def _grouped(t: Tensor, groups: int) -> Tensor:
    return t.unflatten(1, (groups, -1))


def _border(module: nn.modules.conv._ConvNd) -> tuple[tuple[int, int], ...]:
    """Returns the border of a convolution in numbers, also for `padding="same"`, whose odd remainder goes behind."""
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    if module.padding == "same":
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        return tuple((r // 2, r - r // 2) for r in reach)
    return tuple((int(p), int(p)) for p in module.padding)


@register_layer(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _real_conv(module: nn.Conv2d, x: Tensor, g: Tensor) -> Summand:
    sizes = (tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation))
    window = Window(*sizes, _border(module), module.padding_mode)
    groups = module.groups
    return Summand(
        Factor(_grouped(g, groups)),
        Factor(_grouped(x, groups), window),
        tuple(module.weight.shape),
    )


@register_layer(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _real_transposed_conv(module: nn.ConvTranspose2d, x: Tensor, g: Tensor) -> Summand:
    """Returns a plain convolution of the input with zeros between its positions, by the kernel turned around."""
    ones = (1,) * len(module.kernel_size)
    padding = []
    for axis in range(len(module.kernel_size)):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
        before = reach - int(module.padding[axis])
        spread = (x.shape[axis + 2] - 1) * module.stride[axis] + 1
        after = g.shape[axis + 2] + reach - spread - before  # also covers output_padding
        padding.append((before, after))
    size, dilation, stride = tuple(module.kernel_size), tuple(module.dilation), tuple(module.stride)
    window = Window(size, ones, dilation, tuple(padding), spread=stride)
    groups, shape = module.groups, tuple(module.weight.shape)

    def arrange(product: Tensor) -> Tensor:  # ... x G x O x I x W, taps turned around -> ... x (G I) x O x kernel
        lead = product.shape[:-4]
        turned = product.transpose(-2, -3).flip(-1)
        return turned.reshape(*lead, *shape)

    return Summand(Factor(_grouped(g, groups)), Factor(_grouped(x, groups), window), shape, arrange)


@register_layer(nn.Linear)
def _real_linear(module: nn.Linear, x: Tensor, g: Tensor) -> Summand:
    return Summand(Factor(g.unsqueeze(1)), Factor(x.unsqueeze(1)), tuple(module.weight.shape))


def _normalized(normalized: Tensor, g: Tensor) -> Summand:
    return Summand(Factor(g.unsqueeze(2)), Factor(normalized.unsqueeze(2)), (g.shape[1],))


def _per_channel(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).reshape(1, -1, *(1,) * (like.ndim - 2))


@register_layer(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def _real_batch_norm(module: nn.BatchNorm2d, x: Tensor, g: Tensor) -> Summand:
    if module.running_mean is None or module.running_var is None:
        raise InvalidValueError(
            "extract='layer' got a BatchNorm without running statistics (track_running_stats=False), whose output "
            "mixes the examples of a batch; expected one with running statistics, in eval mode"
        )
    mean, variance = _per_channel(module.running_mean, x), _per_channel(module.running_var, x)
    return _normalized((x - mean) * (variance + module.eps).rsqrt(), g)


@register_layer(
    nn.LayerNorm,
    "torchvision.models.convnext.LayerNorm2d",
    "timm.layers.norm.LayerNorm",
    "timm.layers.norm.LayerNorm2d",
    "transformers.models.convnext.modeling_convnext.ConvNextLayerNorm",
    "transformers.models.convnextv2.modeling_convnextv2.ConvNextV2LayerNorm",
    "transformers.models.dinov3_convnext.modeling_dinov3_convnext.DINOv3ConvNextLayerNorm",
)
def _real_layer_norm(module: nn.LayerNorm, x: Tensor, g: Tensor) -> Summand:
    if len(module.normalized_shape) > 1:
        raise InvalidValueError(
            f"extract='layer' got a LayerNorm over {tuple(module.normalized_shape)}, whose weight is not shared "
            "between positions; expected one over the channels alone"
        )
    channels_last = F.layer_norm(x.movedim(1, -1), (x.shape[1],), eps=module.eps)
    return _normalized(channels_last.movedim(-1, 1), g)


@register_layer(nn.GroupNorm, "timm.layers.norm.GroupNorm", "timm.layers.norm.GroupNorm1")
def _real_group_norm(module: nn.GroupNorm, x: Tensor, g: Tensor) -> Summand:
    return _normalized(F.group_norm(x, module.num_groups, eps=module.eps), g)


@register_layer(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _real_instance_norm(module: nn.InstanceNorm2d, x: Tensor, g: Tensor) -> Summand:
    if module.running_mean is not None and module.running_var is not None and not module.training:
        return _real_batch_norm(module, x, g)
    return _normalized(F.instance_norm(x, eps=module.eps), g)


REAL_LAYERS.seal()


def unit_scale(g: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns `g` with the largest magnitude of each example brought to 1, and the factors taken out (None: nothing to
    do).

    Squares of a saturated probability's gradient would underflow.
    """
    found = read_magnitudes(g) if on_cpu(g) else []  # elsewhere looking would wait for the device
    if found and are_tame(found):
        return g, None
    if found and not g.requires_grad:
        scale = torch.tensor([size if size > 0 else 1 for size in found], dtype=g.dtype)
    else:
        scale = magnitudes(g)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scale = scale.reshape(-1, *(1,) * (g.ndim - 1))
    return g / scale, scale
