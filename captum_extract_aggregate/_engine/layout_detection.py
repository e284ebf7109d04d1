"""Finding where the channels and positions of an activation are.

Networks emit `N K *S` (convolutions), `N *S K` (channels last, as in Swin), `N L K` (tokens, as in ViT, some of them
class or register tokens without a position; the steps of a recurrent layer), or put the sequence before the batch.
Shapes alone do not tell them apart. The layer's type, the picture's proportions and the surrounding layers' numbers of
channels nearly always do, and cost nothing; where they leave a doubt, the operations that made the tensor are looked at
(`dimensions`), in one more forward.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.arrangements import (
    LayoutFunction,
    channels_last,
    identity,
    sequence_first,
    unfolded,
)
from captum_extract_aggregate._engine.batch_dimension import check_not_constant, check_positions, is_plain_batch
from captum_extract_aggregate._engine.known_layers import KNOWN_LAYERS
from captum_extract_aggregate._engine.layer_channels import holds, is_channels_first, widths, widths_of
from captum_extract_aggregate._engine.parts import CHANNELS, kinds_of, size_of
from captum_extract_aggregate._engine.surroundings import Surroundings
from captum_extract_aggregate._engine.token_grid import grid_of_tokens


def detected_layout(activation: Tensor, around: Surroundings) -> LayoutFunction:
    """Decides by what is at hand where it leaves no doubt, else by what made the tensor, else by what it looks like."""
    known, key = around.known, (around.module, activation.shape, around.batch, around.image)
    if key in known.layouts:
        return known.layouts[key]
    if is_plain_batch(activation, around):
        quick = _quick(activation, around)
        if quick is not None and not _is_table(quick, activation, around):
            known.layouts[key] = quick
            return quick
    seen = _seen(activation, around)
    if seen is not None:
        return seen
    if is_channels_first(around.module) and around.dims(activation) is None and is_plain_batch(activation, around):
        return identity
    check_positions(activation, around)
    check_not_constant(activation, around)
    return _likely(activation, around)


def _is_table(quick: LayoutFunction, activation: Tensor, around: Surroundings) -> bool:
    """Tells whether a tensor that looks like a single example's is one of all batches: a table of positions, which
    networks hold with channels last."""
    shape = tuple(activation.shape[1:])
    if quick is not channels_last or len(shape) < 3 or KNOWN_LAYERS.is_of_examples(around.module, shape):
        return False
    if around.is_constant(activation):
        return True
    KNOWN_LAYERS.learn_of_examples(around.module, shape)
    return False


def _quick(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    """Returns the layout where the layer itself, what it holds and the picture's proportions leave no doubt."""
    module, shape = around.module, activation.shape
    if module is None and len(shape) > 4:
        return None  # clips come with frames first, too
    if is_channels_first(module):
        return identity if has_proportions(shape[2:], around.image) else None
    if isinstance(module, nn.RNNBase) and activation.ndim == 3:
        return channels_last if module.batch_first else _of_sequence_first(activation, around)
    fits_first, fits_last = _fit(activation, around)
    if fits_first > fits_last:
        told = _expects(module, shape[1]) or shape[1] in around.known.widths or shape[-1] not in around.known.widths
        return identity if told and (holds(module, "first") or not holds(module, "last")) else None
    if holds(module, "first"):
        own = widths(module)
        told = shape[1] in own and shape[-1] not in own and has_proportions(shape[2:], around.image)
        return identity if told and not holds(module, "last") else None
    if holds(module, "last"):
        if fits_last == fits_first:
            everywhere = around.known.widths | widths(module)
            told = shape[-1] in everywhere and shape[1] not in everywhere
            if not told or not has_proportions(shape[1:-1], around.image):
                return None
        return _quick_last(activation, around)
    return None


def _expects(module: nn.Module | None, channels: int) -> bool:
    """Tells whether the layer, or one in it, expects so many channels: which mostly spares a look at all others."""
    return module is not None and any(channels in widths_of(inner) for inner in module.modules())


def _of_sequence_first(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    return sequence_first if around.batch is None or activation.shape[1] == around.batch else None


def _quick_last(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    """Channels last; of three dimensions only the tokens that a convolution cut out of the picture, a patch each."""
    if activation.ndim != 3:
        return channels_last
    if len(around.image) != 2 or around.known.is_recurrent:
        return None
    prefixes = around.known.prefixes
    grids = {(around.image[0] // patch[0]) * (around.image[1] // patch[1]) for patch in around.known.patches}
    return grid_of_tokens(activation, around) if grids & {activation.shape[1] - prefix for prefix in prefixes} else None


def _likely(activation: Tensor, around: Surroundings) -> LayoutFunction:
    """Returns the layout where nothing is seen of what made the tensor: by its fit to the picture, else by its
    sizes."""
    fits_first, fits_last = _fit(activation, around)
    everywhere = around.known.widths | widths(around.module)
    is_first, is_last = activation.shape[1] in everywhere, activation.shape[-1] in everywhere
    if fits_first != fits_last:
        is_first, is_last = fits_first, fits_last
    elif is_first and is_last:
        is_first, is_last = holds(around.module, "first") and not holds(around.module, "last"), False
    if is_first == is_last:
        raise InvalidValueError(
            f"{around.name} gives an activation of shape {tuple(activation.shape)}, and nothing tells whether its "
            "channels are in dimension 1 or the last; expected layout='channels_first', 'channels_last' or 'tokens'"
        )
    if is_first:
        return identity
    if activation.ndim > 3:
        return channels_last
    if around.known.is_recurrent:
        raise InvalidValueError(
            f"{around.name} gives {activation.shape[1]} tokens in a model with recurrent layers, whose steps are no "
            "picture, and nothing tells which these are; expected layout='channels_last' for a plain sequence, or "
            "'tokens' for patches of the picture"
        )
    return grid_of_tokens(activation, around)


def _seen(activation: Tensor, around: Surroundings) -> LayoutFunction | None:
    """Returns the layout by what the dimensions are made of; None where that is not all seen, or is no batch of
    maps."""
    dims = around.dims(activation)
    if dims is None or around.is_constant(activation):
        return None
    if around.module is None and activation.ndim == 2 and [p.kind for p in dims[1]] == ["axis"]:
        return lambda t: t.unsqueeze(1)  # a signal without a dimension for its one channel
    batches = [d for d, dim in enumerate(dims) if kinds_of(dim) == {"batch"} and size_of(dim) == around.batch]
    if around.batch == 1 and not any("batch" in kinds_of(dim) for dim in dims):
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
    return unfolded(dims, batches[0], channels[0])


def _fit(activation: Tensor, around: Surroundings) -> tuple[bool, bool]:
    """Tells whether the dimensions behind dimension 1, and those before the last, have the picture's proportions."""
    shape, image = activation.shape, around.image[-(activation.ndim - 2) :]
    if activation.ndim == 3:
        return False, False
    if len(image) != activation.ndim - 2:  # nothing to compare with: most pictures are square
        return len(set(shape[2:])) == 1, len(set(shape[1:-1])) == 1
    return _proportional(shape[2:], image), _proportional(shape[1:-1], image)


def has_proportions(size: Sequence[int], image: tuple[int, ...]) -> bool:
    """Tells whether as many dimensions as the picture has may be its own: patches or windows, and the cells in each,
    are not."""
    return len(size) != len(image) or len(size) < 2 or _proportional(size, image)


def _proportional(size: Sequence[int], image: tuple[int, ...]) -> bool:
    """Returns the same height to width, to two cells that borders and rounding may cost. (Time may be reduced
    otherwise.)"""
    (height, width), (image_height, image_width) = size[-2:], image[-2:]
    ratio = image_height / image_width
    return abs(height - width * ratio) <= 2 * max(1, ratio)
