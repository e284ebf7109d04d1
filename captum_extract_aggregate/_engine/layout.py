"""Where the channels and positions of an activation are, and the way to `N x K x *S`.

Networks emit `N K *S` (convolutions), `N *S K` (channels last, as in Swin), `N L K` (tokens, as in ViT, some of them
class or register tokens without a position; the steps of a recurrent layer), or put the sequence before the batch.
Shapes alone do not tell them apart. The layer's type, the picture's proportions and the surrounding layers' numbers of
channels nearly always do, and cost nothing; where they leave a doubt, the operations that made the tensor are looked at
(`dimensions`), in one more forward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.dimensions import CHANNELS, FRESH, Dim, Dims, Part, kinds_of, size_of
from captum_extract_aggregate._engine.layers import describe

LayoutFunction = Callable[[Tensor], Tensor]
LayoutName = Literal["auto", "channels_first", "channels_last", "tokens"]
Layout = LayoutName | LayoutFunction
Look = Callable[[], Sequence[Dims | None]]

LAYOUTS = get_args(LayoutName)
# Class token; class and distillation token; class and four register tokens. No prefix is tried first.
_PREFIXES = (0, 1, 2, 5)
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention)


class Facts:
    """What models tell of layouts by the layers that they hold; looked up when asked for, and once."""

    def __init__(self, models: tuple[nn.Module, ...]) -> None:
        self._models = models

    @cached_property
    def modules(self) -> list[nn.Module]:
        return [module for model in self._models for module in model.modules()]

    @cached_property
    def widths(self) -> set[int]:
        """The numbers of channels that the layers expect."""
        return {width for module in self.modules for width in _widths_of(module)}

    @cached_property
    def is_recurrent(self) -> bool:
        return any(isinstance(m, nn.RNNBase) for m in self.modules)

    @cached_property
    def is_sequence_first(self) -> bool:
        """Whether there are layers that want the sequence before the batch."""
        return any(isinstance(m, (nn.MultiheadAttention, nn.RNNBase)) and not m.batch_first for m in self.modules)

    @cached_property
    def patches(self) -> set[tuple[int, ...]]:
        """The sizes of the patches into which convolutions cut a picture."""
        return {m.kernel_size for m in self.modules if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride}

    @cached_property
    def prefixes(self) -> tuple[int, ...]:
        """The number of class and register tokens, where a module says it (they may join late); else the usual ones."""
        for module in self.modules:
            count = getattr(module, "num_prefix_tokens", None)
            if isinstance(count, int):
                return (count, 0)
            if isinstance(getattr(module, "class_token", None), Tensor):
                return (1, 0)
        return _PREFIXES


class Surroundings(NamedTuple):
    """What is known about the place of an activation; whatever is missing is simply no evidence.

    `look` runs the forward once more to see of what the dimensions of each tensor at the place are made; `number` says
    which of them the activation is.
    """

    module: nn.Module | None = None
    models: tuple[nn.Module, ...] = ()
    batch: int | None = None
    image: tuple[int, ...] = ()
    which: str = ""
    number: int = 0
    look: Look | None = None
    facts: Facts | None = None  # of the models, where several places share them

    @property
    def known(self) -> Facts:
        return self.facts or Facts(self.models)

    @property
    def name(self) -> str:
        """How errors call the place; looked up only when there is one."""
        return describe(self.module, self.models) + self.which

    def dims(self, activation: Tensor) -> Dims | None:
        """Of what the activation's dimensions are made, if that can be seen."""
        seen = self.look() if self.look is not None else ()
        dims = seen[self.number] if self.number < len(seen) else None
        return dims if dims is not None and tuple(map(size_of, dims)) == tuple(activation.shape) else None


def check_layout(layout: Layout) -> Layout:
    """Returns `layout` itself if it is one we know; otherwise our error."""
    if not callable(layout) and layout not in LAYOUTS:
        raise InvalidValueError(f"layout is {layout!r}; expected one of {', '.join(map(repr, LAYOUTS))} or a callable")
    return layout


def to_channels_first(activation: Tensor, layout: Layout, around: Surroundings) -> LayoutFunction:
    """Returns the function that brings tensors laid out as `activation` to `N x K x *S`, dropping tokens without a
    position.

    Raises ValueError where the activation has no positions, or where they cannot be told.
    """
    if callable(layout):
        return _checked(layout, around)
    if layout == "auto":
        return _detected(activation, around)
    _check_positions(activation, around)
    if layout == "channels_first":
        return _identity
    if layout == "channels_last":
        return _channels_last
    if activation.ndim != 3:
        raise InvalidValueError(
            f"layout='tokens' got an activation of shape {tuple(activation.shape)} at {around.name}; "
            "expected batch x tokens x channels"
        )
    return _tokens(activation, around)


def is_final_state(activation: Tensor, around: Surroundings) -> bool:
    """Tells whether the tensor holds a recurrent layer's final states, which have no positions."""
    if not around.known.is_recurrent:
        return False
    dims = around.dims(activation)
    return dims is not None and any("state" in kinds_of(dim) for dim in dims)


def _identity(t: Tensor) -> Tensor:
    return t


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(-1, 1)


def _sequence_first(t: Tensor) -> Tensor:
    return t.permute(1, 2, 0)


def _tokens(activation: Tensor, around: Surroundings) -> LayoutFunction:
    prefix, height, width = _token_grid(activation.shape[1], around)
    return lambda t: t[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _checked(function: LayoutFunction, around: Surroundings) -> LayoutFunction:
    def apply(t: Tensor) -> Tensor:
        try:
            out = function(t)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InvalidValueError(
                f"layout(activation) failed for an activation of shape {tuple(t.shape)} at {around.name} ({error}); "
                f"expected a function that fits each layer and any batch (write -1 for the number of examples)"
            ) from error
        if not isinstance(out, Tensor) or out.ndim < 3 or (around.batch is not None and out.shape[0] != around.batch):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InvalidValueError(
                f"layout(activation) returned {got} for an activation of shape {tuple(t.shape)} at {around.name}; "
                f"expected batch x channels x one or more position dimensions, batch {around.batch}"
            )
        return out

    return apply


def _detected(activation: Tensor, around: Surroundings) -> LayoutFunction:
    """By what is at hand where it leaves no doubt, else by what made the tensor, else by what it looks like."""
    if _is_plain_batch(activation, around):
        quick = _quick(activation, around)
        if quick is not None:
            return quick
    seen = _seen(activation, around)
    if seen is not None:
        return seen
    _check_positions(activation, around)
    return _likely(activation, around)


def _is_plain_batch(activation: Tensor, around: Surroundings) -> bool:
    """Tells whether dimension 0 holds the batch and nothing else."""
    shape = activation.shape
    if len(shape) < 3 or (around.batch is not None and shape[0] != around.batch):
        return False
    return len(shape) > 3 or shape[0] != shape[1] or not around.known.is_sequence_first


def _check_positions(activation: Tensor, around: Surroundings) -> None:
    shape = tuple(activation.shape)
    if activation.ndim < 3:
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {shape}, which has no positions to map; expected a layer "
            "before the flattening or global pooling (default_layers(model) lists good ones; inputs without positions "
            "go into additional_forward_args)"
        )
    if around.batch is not None and shape[0] != around.batch:
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {shape}, whose first dimension is not the batch of "
            f"{around.batch}; expected batch first ({_cure_of_batch(activation, around)})"
        )
    if not _is_plain_batch(activation, around):
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {shape} in a model with sequence-first layers, and nothing "
            "tells its batch from its sequence; expected another batch size, or layout=lambda t: t.permute(1, 2, 0)"
        )


def _cure_of_batch(activation: Tensor, around: Surroundings) -> str:
    """Returns what to do about a first dimension that is not the batch."""
    windows = "windows or heads folded into the batch have no places in the image: choose the block around them"
    sequence = "for sequence-first layers pass layout=lambda t: t.permute(1, 2, 0)"
    size, batch, dims = activation.shape[0], around.batch or 1, around.dims(activation)
    if size % batch:
        return f"{windows}; {sequence}"
    if dims is not None and not _is_of_views(dims[0], batch):
        return windows
    unfold = views_unfolded(batch, size // batch, activation, dims)
    return f"{size // batch} views, frames or patches of each example unfold by layout={unfold}" + (
        "" if dims is not None else f"; {windows}; {sequence}"
    )


def view_axis(layout: LayoutFunction, activation: Tensor, around: Surroundings) -> int | None:
    """Returns the dimension into which a layout unfolds views folded into the batch; None where it unfolds none, or
    several."""
    if activation.shape[0] == around.batch:
        return None
    index = torch.arange(float(activation.shape[0]), device=activation.device)
    index = index.reshape(-1, *(1,) * (activation.ndim - 1)).expand(activation.shape)
    arranged = _checked(layout, around)(index)
    axes = [d for d in range(1, arranged.ndim) if (arranged != arranged.narrow(d, 0, 1)).any()]
    return axes[0] if len(axes) == 1 and arranged.ndim == activation.ndim + 1 and axes[0] > 1 else None


def _is_of_views(dim: Dim, batch: int) -> bool:
    """Tells whether a dimension is made of the batch and one more axis, as that of views or frames is."""
    others = [part for part in dim if part.kind != "batch"]
    return len(others) == 1 and math.prod(p.size for p in dim if p.kind == "batch") == batch


def views_unfolded(batch: int, views: int, activation: Tensor | None = None, dims: Dims | None = None) -> str:
    """Returns the code of a layout for examples of several views each, folded into dimension 0: `N x K x V x *S`."""
    views_first = dims is not None and batch > 1 and dims[0][-1].kind == "batch"
    unfolded = f"t.unflatten(0, ({views}, -1)).transpose(0, 1)" if views_first else f"t.unflatten(0, (-1, {views}))"
    if dims is not None:
        is_last = bool(kinds_of(dims[-1]) & CHANNELS)
    else:
        is_last = activation is not None and activation.ndim == 3
    if dims is not None and is_last and len(dims) == 3:
        unfolded = f"t{_grid_code(dims[1])}{unfolded[1:]}"
    return f"lambda t: {unfolded}.movedim({-1 if is_last else 2}, 1)"


def _grid_code(dim: Dim) -> str:
    """Returns the code that makes a grid of the tokens in dimension 1, if they are of one, row by row."""
    tokens = dim[0].inner if dim and dim[0].inner else dim
    before = dim[0].before if dim and dim[0].inner else 0
    cut = f"[:, {before}:{before + size_of(tokens)}]" if size_of(tokens) < size_of(dim) else ""
    axes = [part.axis for part in tokens]
    is_grid = len(tokens) > 1 and axes == sorted(axes) and all(len(axis) == 1 for axis in axes)
    return cut + (f".unflatten(1, {tuple(part.size for part in tokens)})" if is_grid else "")


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


def _quick(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    """Returns the layout where the layer itself, what it holds and the picture's proportions leave no doubt."""
    module, shape = around.module, activation.shape
    if module is None and len(shape) > 4:
        return None  # clips come with frames first, too
    if _is_channels_first(module):
        return _identity
    if isinstance(module, nn.RNNBase) and activation.ndim == 3:
        return _channels_last if module.batch_first else _of_sequence_first(activation, around)
    fits_first, fits_last = _fit(activation, around)
    everywhere = around.known.widths
    if fits_first > fits_last:
        told = shape[1] in everywhere or shape[-1] not in everywhere
        return _identity if told and (_holds(module, "first") or not _holds(module, "last")) else None
    if _holds(module, "first"):
        own = _widths(module)
        told = shape[1] in own and shape[-1] not in own and fits_first == fits_last
        return _identity if told and not _holds(module, "last") else None
    if _holds(module, "last"):
        if fits_last == fits_first:
            everywhere = everywhere | _widths(module)
            if shape[-1] not in everywhere or shape[1] in everywhere:
                return None
        return _quick_last(activation, around)
    return None


def _is_channels_first(module: nn.Module | None) -> bool:
    """Returns a layer with channels first, or a sequence of modules that begins and ends with one (but for
    activations)."""
    if module is None or type(module).forward is not nn.Sequential.forward:
        return isinstance(module, _CHANNELS_FIRST) or is_layer_norm_2d(module)
    held = [child for child in module.children() if not _is_elementwise(child)]
    return bool(held) and _is_channels_first(held[0]) and _is_channels_first(held[-1])


def _is_elementwise(module: nn.Module) -> bool:
    return type(module).__module__ in ("torch.nn.modules.activation", "torch.nn.modules.dropout") and not isinstance(
        module, (nn.MultiheadAttention, nn.Softmax, nn.GLU)
    )


def _of_sequence_first(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    return _sequence_first if around.batch is None or activation.shape[1] == around.batch else None


def _quick_last(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    """Channels last; of three dimensions only the tokens that a convolution cut out of the picture, a patch each."""
    if activation.ndim != 3:
        return _channels_last
    if len(around.image) != 2 or around.known.is_recurrent:
        return None
    prefixes = around.known.prefixes
    grids = {(around.image[0] // patch[0]) * (around.image[1] // patch[1]) for patch in around.known.patches}
    return _tokens(activation, around) if grids & {activation.shape[1] - prefix for prefix in prefixes} else None


def _likely(activation: Tensor, around: Surroundings) -> LayoutFunction:
    """Returns the layout where nothing is seen of what made the tensor: by its fit to the picture, else by its
    sizes."""
    fits_first, fits_last = _fit(activation, around)
    everywhere = around.known.widths | _widths(around.module)
    is_first, is_last = activation.shape[1] in everywhere, activation.shape[-1] in everywhere
    if fits_first != fits_last:
        is_first, is_last = fits_first, fits_last
    elif is_first and is_last:
        is_first, is_last = _holds(around.module, "first") and not _holds(around.module, "last"), False
    if is_first == is_last:
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {tuple(activation.shape)}, and nothing tells whether its "
            "channels are in dimension 1 or the last; expected layout='channels_first', 'channels_last' or 'tokens'"
        )
    if is_first:
        return _identity
    if activation.ndim > 3:
        return _channels_last
    if around.known.is_recurrent:
        raise InvalidValueError(
            f"{around.name} gives {activation.shape[1]} tokens in a model with recurrent layers, whose steps are no "
            "picture, and nothing tells which these are; expected layout='channels_last' for a plain sequence, or "
            "'tokens' for patches of the picture"
        )
    return _tokens(activation, around)


def _seen(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    """Returns the layout by what the dimensions are made of; None where that is not all seen, or is no batch of
    maps."""
    dims = around.dims(activation)
    if dims is None:
        return None
    if around.module is None and activation.ndim == 2 and [p.kind for p in dims[1]] == ["axis"]:
        return lambda t: t.unsqueeze(1)  # a signal without a dimension for its one channel
    batches = [d for d, dim in enumerate(dims) if kinds_of(dim) == {"batch"} and size_of(dim) == around.batch]
    if around.batch == 1:
        batches = [d for d, dim in enumerate(dims) if not dim][:1]
    channels = [d for d, dim in enumerate(dims) if kinds_of(dim) & CHANNELS]
    if len(batches) != 1 or len(channels) > 1 or activation.ndim < 3:
        return None
    if not channels:  # one channel, in a dimension of size 1
        channels = [d for d, dim in enumerate(dims) if not dim and d not in batches][:1]
    if not channels or any(
        kinds_of(dim) - {"axis", "unknown"} for d, dim in enumerate(dims) if d not in (*batches, *channels)
    ):
        return None
    return _unfolded(dims, batches[0], channels[0])


def _unfolded(dims: Dims, batch: int, channels: int) -> LayoutFunction | None:
    """Batch and channels in front, and behind them the positions: an axis each, in the axes' order if it is known."""
    positions = [dim for d, dim in enumerate(dims) if d not in (batch, channels)]

    def in_front(t: Tensor) -> Tensor:
        return t.movedim((batch, channels), (0, 1))

    is_sequence = channels == 1 and len(positions) == 1 and not any(part.inner for part in positions[0])
    if is_sequence or all(map(_is_plain, positions)):
        return in_front
    parts = [part for dim in positions for part in _inner(dim)]
    order = list(range(len(parts)))
    if len({part.axis[0] < FRESH for part in parts}) == 1:
        order.sort(key=lambda i: parts[i].axis)
    elif any(len(part.axis) > 1 for part in parts):  # parts of axes whose order is not known
        return None
    axes = [list(of_axis) for _, of_axis in itertools.groupby((parts[i] for i in order), lambda part: part.axis[:1])]

    def unfold(t: Tensor) -> Tensor:
        t = in_front(t)
        for d, dim in enumerate(positions, start=2):
            if dim and dim[0].inner:
                t = t.narrow(d, dim[0].before, size_of(dim[0].inner))
        t = t.reshape(*t.shape[:2], *(part.size for part in parts))
        t = t.permute(0, 1, *(i + 2 for i in order))
        return t.reshape(*t.shape[:2], *(math.prod(p.size for p in of_axis) for of_axis in axes))

    return unfold


def _is_plain(dim: Dim) -> bool:
    return len(dim) < 2 and all(len(part.axis) == 1 and not part.inner for part in dim)


def _inner(dim: Dim) -> Dim:
    """Returns the parts that have positions; one of size 1 for a dimension of size 1."""
    return (dim[0].inner if dim[0].inner else dim) if dim else (Part("axis", 1, (FRESH - 1,)),)


def _fit(activation: Tensor, around: Surroundings) -> tuple[bool, bool]:
    """Tells whether the dimensions behind dimension 1, and those before the last, have the picture's proportions."""
    shape, image = activation.shape, around.image[-(activation.ndim - 2) :]
    if activation.ndim == 3:
        return False, False
    if len(image) != activation.ndim - 2:  # nothing to compare with: most pictures are square
        return len(set(shape[2:])) == 1, len(set(shape[1:-1])) == 1
    return _proportional(shape[2:], image), _proportional(shape[1:-1], image)


def _proportional(size: Sequence[int], image: tuple[int, ...]) -> bool:
    """Returns the same height to width, to two cells that borders and rounding may cost. (Time may be reduced
    otherwise.)"""
    (height, width), (image_height, image_width) = size[-2:], image[-2:]
    ratio = image_height / image_width
    return abs(height - width * ratio) <= 2 * max(1, ratio)


def _is_over_positions(module: nn.Module) -> bool:
    """Returns a LayerNorm over more than the channels tells nothing of where they are."""
    return isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1


def is_layer_norm_2d(module: nn.Module | None) -> bool:
    """Returns a LayerNorm over the channels of N K H W, as torchvision's and timm's networks define for themselves."""
    return _is_layer_norm_2d(type(module))


def _is_layer_norm_2d(kind: type) -> bool:
    return issubclass(kind, nn.LayerNorm) and "2d" in kind.__name__.lower()


def _holds(root: nn.Module | None, side: str) -> bool:
    """Tells whether a module is or holds a layer with channels at that side, "first" or "last"."""
    return root is not None and any(
        _side(type(module)) == side and not _is_over_positions(module) for module in root.modules()
    )


def _side(kind: type[nn.Module]) -> str | None:
    """Returns where layers of a type have their channels, if they all have them at one side."""
    if issubclass(kind, _CHANNELS_FIRST) or _is_layer_norm_2d(kind):
        return "first"
    return "last" if issubclass(kind, (*_CHANNELS_LAST, nn.RNNBase)) else None


def _widths(root: nn.Module | None) -> set[int]:
    """Returns the numbers of channels that a module and the layers in it expect; of a linear layer also what it
    gives."""
    if root is None:
        return set()
    widths = {width for module in root.modules() for width in _widths_of(module)}
    return widths | {root.out_features} if isinstance(root, nn.Linear) else widths


def _widths_of(module: nn.Module) -> set[int]:
    """Returns the numbers of channels of one layer. What a linear layer gives may be the number of classes, and is left
    out."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return {module.in_channels, module.out_channels}
    if isinstance(module, nn.Linear):
        return {module.in_features}
    if isinstance(module, nn.LayerNorm):
        return set() if _is_over_positions(module) else {module.normalized_shape[-1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {module.num_features}
    if isinstance(module, nn.GroupNorm):
        return {module.num_channels}
    if isinstance(module, nn.MultiheadAttention):
        return {module.embed_dim}
    if isinstance(module, nn.RNNBase):
        return {module.input_size, (1 + module.bidirectional) * (module.proj_size or module.hidden_size)}
    return set()


def _token_grid(tokens: int, around: Surroundings) -> tuple[int, int, int]:
    """Returns how many leading tokens have no position, and the height and width of the grid of the others."""
    if any(hasattr(model, "reroll") for model in around.models):
        raise InvalidValueError(
            f"{around.name} gives tokens in an order of the model's own (it has a `reroll`), not row by row; expected "
            "layout=lambda t: ... that returns batch x channels x height x width"
        )
    if len(around.image) == 2:
        prefixes = around.known.prefixes
        for exact in (True, False):
            for prefix in prefixes:
                for height, width in _patch_grids(around.image, exact):
                    if height * width == tokens - prefix:
                        return prefix, height, width
    image = "x".join(map(str, around.image)) or "unknown"
    raise InvalidValueError(
        f"{around.name} gives {tokens} tokens, which make no grid of square patches over an input of size {image} "
        "(with no, 1, 2 or 5 leading tokens dropped); expected layout='channels_last' for a plain sequence, or "
        "layout=lambda t: ... that returns batch x channels x height x width"
    )


def _patch_grids(image: tuple[int, ...], exact: bool) -> Iterator[tuple[int, int]]:
    height, width = image
    for patch in range(1, min(height, width) + 1):
        if not exact or (height % patch == 0 and width % patch == 0):
            yield height // patch, width // patch
