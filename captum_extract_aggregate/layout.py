"""Where the channels and positions of an activation are, and the way to `N x K x *S`.

Networks emit `N K *S` (convolutions), `N *S K` (channels last, as in Swin) or `N L K` (tokens, as in ViT, some of them
class or register tokens without a position). Shapes alone do not tell them apart; what the surrounding layers expect
as their number of channels nearly always does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from captum_extract_aggregate.layers import describe

LayoutFunction = Callable[[Tensor], Tensor]
Layout = str | LayoutFunction

LAYOUTS = ("auto", "channels_first", "channels_last", "tokens")
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


class Surroundings(NamedTuple):
    """What is known about the place of an activation; whatever is missing is simply no evidence."""

    module: nn.Module | None = None
    models: tuple[nn.Module, ...] = ()
    batch: int | None = None
    image: tuple[int, ...] = ()
    which: str = ""

    @property
    def name(self) -> str:
        """How errors call the place; looked up only when there is one."""
        return describe(self.module, self.models) + self.which


def check_layout(layout: Layout) -> Layout:
    """`layout` itself if it is one we know; otherwise our error."""
    if not callable(layout) and layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {', '.join(map(repr, LAYOUTS))} or a callable")
    return layout


def to_channels_first(activation: Tensor, layout: Layout, around: Surroundings) -> LayoutFunction:
    """The function that brings tensors laid out as `activation` to `N x K x *S`, dropping tokens without a position.

    Raises ValueError where the activation has no positions, or where they cannot be told.
    """
    if callable(layout):
        return _checked(layout, around)
    _check_positions(activation, around)
    if layout == "auto":
        layout = _detect(activation, around)
    if layout == "channels_first":
        return _identity
    if layout == "channels_last":
        return _channels_last
    if activation.ndim != 3:
        raise ValueError(
            f"layout='tokens' got an activation of shape {tuple(activation.shape)} at {around.name}; "
            "expected batch x tokens x channels"
        )
    prefix, height, width = _token_grid(activation.shape[1], around)
    return lambda t: t[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _identity(t: Tensor) -> Tensor:
    return t


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(-1, 1)


def _checked(function: LayoutFunction, around: Surroundings) -> LayoutFunction:
    def apply(t: Tensor) -> Tensor:
        out = function(t)
        if not isinstance(out, Tensor) or out.ndim < 3 or (around.batch is not None and out.shape[0] != around.batch):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"layout(activation) returned {got} for an activation of shape {tuple(t.shape)} at {around.name}; "
                f"expected batch x channels x one or more position dimensions, batch {around.batch}"
            )
        return out

    return apply


def _check_positions(activation: Tensor, around: Surroundings) -> None:
    shape = tuple(activation.shape)
    if activation.ndim < 3:
        raise ValueError(
            f"{around.name} gives an activation of shape {shape}, which has no positions to map; expected a layer "
            "before the flattening or global pooling (default_layers(model) lists good ones; inputs without positions "
            "go into additional_forward_args)"
        )
    if around.batch is not None and shape[0] != around.batch:
        raise ValueError(
            f"{around.name} gives an activation of shape {shape}, whose first dimension is not the batch of "
            f"{around.batch}; expected batch first (windows or heads folded into the batch have no places in the "
            "image: choose the block around them; for sequence-first layers pass layout=lambda t: t.permute(1, 2, 0))"
        )
    if activation.ndim == 3 and shape[0] == shape[1] and any(map(_is_sequence_first, around.models)):
        raise ValueError(
            f"{around.name} gives an activation of shape {shape} in a model with sequence-first attention, and nothing "
            "tells its batch from its sequence; expected another batch size, or layout=lambda t: t.permute(1, 2, 0)"
        )


def _is_sequence_first(model: nn.Module) -> bool:
    return any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in model.modules())


def image_size(inputs: Iterable[Tensor]) -> tuple[int, ...]:
    """The spatial size of the first picture (or video) among the inputs; nothing if there is none."""
    for t in inputs:
        if t.ndim > 3:
            last = t.shape[-1] in (1, 3, 4) and min(t.shape[1:-1]) > 2 * t.shape[-1]
            return tuple(t.shape[1:-1] if last else t.shape[2:])
    return ()


def input_size(inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """The spatial size of the picture among the inputs, or of whatever the first input is."""
    return image_size(inputs) or tuple(inputs[0].shape[2:])


def _detect(activation: Tensor, around: Surroundings) -> str:
    """By the layer's own type, else by the positions' fit to the picture, else by the layers' numbers of channels."""
    last = "tokens" if activation.ndim == 3 else "channels_last"
    if isinstance(around.module, _CHANNELS_FIRST) or is_layer_norm_2d(around.module):
        return "channels_first"
    if isinstance(around.module, _CHANNELS_LAST) and not _is_over_positions(around.module):
        return last
    fits_first, fits_last = _fit(activation, around)
    if fits_first != fits_last:
        return "channels_first" if fits_first else last
    for source in (around.module, *around.models):
        if source is not None:
            first_counts, last_counts = _channel_counts(source)
            is_first, is_last = activation.shape[1] in first_counts, activation.shape[-1] in last_counts
            if is_first != is_last:
                return "channels_first" if is_first else last
    raise ValueError(
        f"{around.name} gives an activation of shape {tuple(activation.shape)}, and nothing tells whether its channels "
        "are in dimension 1 or the last; expected layout='channels_first', 'channels_last' or 'tokens'"
    )


def _fit(activation: Tensor, around: Surroundings) -> tuple[bool, bool]:
    """Whether the dimensions behind dimension 1, and those before the last, have the picture's proportions."""
    shape, image = activation.shape, around.image
    if activation.ndim == 3:
        return False, False
    if len(image) != activation.ndim - 2:  # nothing to compare with: most pictures are square
        return len(set(shape[2:])) == 1, len(set(shape[1:-1])) == 1
    return _proportional(shape[2:], image), _proportional(shape[1:-1], image)


def _proportional(size: Sequence[int], image: tuple[int, ...]) -> bool:
    """The same height to width, to two cells that borders and rounding may cost. (Time may be reduced otherwise.)"""
    (height, width), (image_height, image_width) = size[-2:], image[-2:]
    ratio = image_height / image_width
    return abs(height - width * ratio) <= 2 * max(1, ratio)


def _is_over_positions(module: nn.Module) -> bool:
    """A LayerNorm over more than the channels tells nothing of where they are."""
    return isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1


def is_layer_norm_2d(module: nn.Module | None) -> bool:
    """A LayerNorm over the channels of N K H W, as torchvision's and timm's networks define for themselves."""
    return isinstance(module, nn.LayerNorm) and "2d" in type(module).__name__.lower()


def _channel_counts(root: nn.Module) -> tuple[set[int], set[int]]:
    """Numbers of channels that the layers inside expect in dimension 1, and those they expect in the last."""
    first: set[int] = set()
    last: set[int] = set()
    for module in root.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            first |= {module.in_channels, module.out_channels}
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            first.add(module.num_features)
        elif isinstance(module, nn.GroupNorm):
            first.add(module.num_channels)
        elif isinstance(module, nn.LayerNorm) and is_layer_norm_2d(module):
            first.add(module.normalized_shape[-1])
        elif isinstance(module, nn.Linear):
            last |= {module.in_features, module.out_features}
        elif isinstance(module, nn.LayerNorm) and not _is_over_positions(module):
            last.add(module.normalized_shape[-1])
        elif isinstance(module, nn.MultiheadAttention):
            last.add(module.embed_dim)
    return first, last


def _token_grid(tokens: int, around: Surroundings) -> tuple[int, int, int]:
    """How many leading tokens have no position, and the height and width of the grid of the others."""
    if any(hasattr(model, "reroll") for model in around.models):
        raise ValueError(
            f"{around.name} gives tokens in an order of the model's own (it has a `reroll`), not row by row; expected "
            "layout=lambda t: ... that returns batch x channels x height x width"
        )
    if len(around.image) == 2:
        prefixes = _known_prefix(around)
        for exact in (True, False):
            for prefix in prefixes:
                for height, width in _patch_grids(around.image, exact):
                    if height * width == tokens - prefix:
                        return prefix, height, width
    image = "x".join(map(str, around.image)) or "unknown"
    raise ValueError(
        f"{around.name} gives {tokens} tokens, which make no grid of square patches over an input of size {image} "
        "(with no, 1, 2 or 5 leading tokens dropped); expected layout='channels_last' for a plain sequence, or "
        "layout=lambda t: ... that returns batch x channels x height x width"
    )


def _known_prefix(around: Surroundings) -> tuple[int, ...]:
    """The number of class and register tokens, where the model says it (they may join late); else the usual ones."""
    for model in around.models:
        for module in model.modules():
            count = getattr(module, "num_prefix_tokens", None)
            if isinstance(count, int):
                return (count, 0)
            if isinstance(getattr(module, "class_token", None), Tensor):
                return (1, 0)
    return _PREFIXES


def _patch_grids(image: tuple[int, ...], exact: bool) -> Iterator[tuple[int, int]]:
    height, width = image
    for patch in range(1, min(height, width) + 1):
        if not exact or (height % patch == 0 and width % patch == 0):
            yield height // patch, width // patch
